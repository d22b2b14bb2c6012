"Every setting refuses what makes no sense, and is explained by the comment beside it"

import math
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import gpt_course
from gpt_course import settings
from gpt_course.settings import (
    DataConfig,
    GenerationConfig,
    JudgeConfig,
    LoraConfig,
    TrainConfig,
    field_help,
    split_options,
)

CLASSES = (DataConfig, TrainConfig, LoraConfig, GenerationConfig, JudgeConfig)
ALL_FIELDS = [(cls, f.name) for cls in CLASSES for f in fields(cls)]

# values that no number may have, and those that a whole number may not have either
NO_NUMBER = [math.nan, math.inf, -math.inf, True, "1", [1], 1j]
NOT_WHOLE = [*NO_NUMBER, 1.5, 1.0]

NONSENSE = {
    (DataConfig, "data"): ["", " ", None, 3],
    (DataConfig, "fields"): ["", "output", 3, ["output=a"]],
    (DataConfig, "split_seed"): [*NOT_WHOLE, -1, 2**32],
    (DataConfig, "batch_size"): [*NOT_WHOLE, 0, -1, 10**10, None],
    (DataConfig, "max_test_records"): [*NOT_WHOLE, 0, -1],
    (DataConfig, "max_val_records"): [*NOT_WHOLE, 0, -1],
    (DataConfig, "on_overflow"): ["", "cut", None, 0, ["drop"]],
    (TrainConfig, "epochs"): [*NOT_WHOLE, 0, -1, 10**400, None],
    (TrainConfig, "lr"): [*NO_NUMBER, 0, -1e-4, 1e10, 10**400],
    (TrainConfig, "weight_decay"): [*NO_NUMBER, -0.1, 1e300, None],
    (TrainConfig, "warmup_steps"): [*NO_NUMBER, -1, -0.1, 1.5, 1e300, None],
    (TrainConfig, "gradient_accumulation_steps"): [*NOT_WHOLE, 0, None],
    (TrainConfig, "max_grad_norm"): [*NO_NUMBER, 0, -1, None],
    (TrainConfig, "eval_steps"): [*NOT_WHOLE, 0, -1],
    (TrainConfig, "save_minutes"): [*NO_NUMBER, 0, -1, None],
    (TrainConfig, "save_steps"): [*NOT_WHOLE, 0],
    (TrainConfig, "seed"): [*NOT_WHOLE, -1, 2**32, 10**25, None],
    (TrainConfig, "optimizer"): ["sgd", "", None, 8, ["adamw"]],
    (TrainConfig, "bf16"): [1, 0, "yes", None],
    (TrainConfig, "gradient_checkpointing"): [1, 0, "yes", None],
    (TrainConfig, "fsdp"): [1, 0, "yes", None],
    (LoraConfig, "lora_rank"): [*NOT_WHOLE, -1, None],
    (LoraConfig, "lora_alpha"): [*NO_NUMBER, 0, -1, None],
    (LoraConfig, "lora_dropout"): [*NO_NUMBER, -0.1, 1, None],
    (LoraConfig, "lora_target_modules"): ["", 3, ["c_attn"]],
    (GenerationConfig, "max_new_tokens"): [*NOT_WHOLE, 0, None],
    (GenerationConfig, "temperature"): [*NO_NUMBER, -0.1, 1e-9, 1001, None],
    (GenerationConfig, "top_k"): [*NOT_WHOLE, 0, -1, 10**30],
    (GenerationConfig, "top_p"): [*NO_NUMBER, 0, 1.1, -0.5],
    (GenerationConfig, "seed"): [*NOT_WHOLE, -1, 2**32, None],
    (JudgeConfig, "judge"): ["", " ", 3],
    (JudgeConfig, "judge_model"): ["", 3],
    (JudgeConfig, "judge_key_env"): ["", 3],
    (JudgeConfig, "judge_timeout"): [*NO_NUMBER, 0, -1],
    (JudgeConfig, "judge_out"): ["", 3],
}
# the smallest and largest that are allowed
SENSE = {
    (DataConfig, "fields"): [None, "output=a,input=b", {"output": "a"}],
    (DataConfig, "split_seed"): [None, 0, 2**32 - 1],
    (DataConfig, "on_overflow"): ["error", "drop", "truncate"],
    (TrainConfig, "lr"): [None, 1e-9, 1],
    (TrainConfig, "weight_decay"): [0, 0.0],
    (TrainConfig, "warmup_steps"): [0, 0.0, 0.99, 1, 100, 100.0],
    (TrainConfig, "save_minutes"): [5, 0.01],
    (TrainConfig, "save_steps"): [None, 1],
    (TrainConfig, "optimizer"): ["adamw", "adamw8bit"],
    (TrainConfig, "seed"): [0, 2**32 - 1],
    (LoraConfig, "lora_rank"): [0, 1],
    (LoraConfig, "lora_dropout"): [0, 0.99],
    (LoraConfig, "lora_target_modules"): [None, "c_attn,c_proj"],
    (GenerationConfig, "temperature"): [0, 0.0, 0.001, 2, 1000],
    (GenerationConfig, "top_k"): [None, 1],
    (GenerationConfig, "top_p"): [None, 1, 1e-6],
    (JudgeConfig, "judge_timeout"): [None, 0.5, 900],
}


def test_every_field_is_tried():
    assert set(NONSENSE) == set(ALL_FIELDS)


def each(table):
    return [(cls, name, value) for (cls, name), vs in table.items() for value in vs]


@pytest.mark.parametrize("cls, name, value", each(NONSENSE))
def test_nonsense_is_refused_by_name(cls, name, value):
    with pytest.raises(ValueError) as e:
        cls(**{name: value})
    assert str(e.value).startswith(f"{name} is {value!r}; need ")


@pytest.mark.parametrize("cls, name, value", each(SENSE))
def test_sense_is_taken(cls, name, value):
    assert getattr(cls(**{name: value}), name) == value


def test_all_faults_come_at_once():
    with pytest.raises(ValueError) as e:
        TrainConfig(epochs=1.5, weight_decay=-1, warmup_steps=-1)
    lines = str(e.value).splitlines()
    named = {line.split(" is ")[0] for line in lines}
    assert named == {"epochs", "weight_decay", "warmup_steps"}


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        TrainConfig().epochs = 3


@pytest.mark.parametrize(
    "device", ["gpu", "", "meta", "hpu", "cuda:99", "cpu:x", 3, None, ["cpu"]]
)
def test_a_device_that_is_not_here_is_refused_before_a_file_is_looked_for(device):
    with pytest.raises(ValueError, match=re.escape(f"device {device!r} cannot be")):
        gpt_course.load("no such model", device)


# --- help ---


@pytest.mark.parametrize("cls, name", ALL_FIELDS)
def test_every_field_is_explained(cls, name):
    text = field_help(cls)[name]
    assert len(text) > 10
    assert "#" not in text
    assert "\n" not in text


@dataclass
class Parent:
    # above, and
    # in two lines
    a: int = 1
    b: str = "# no comment"  # on the line

    # of the next, not of b
    c: tuple = (
        1,  # one
        2,
    )
    d: int = 4


@dataclass
class Child(Parent):
    "Its own fields come last."

    e: int = 5  # new
    d: int = 6  # changed


def test_comments_are_found_where_they_stand():
    assert field_help(Parent) == {
        "a": "above, and in two lines",
        "b": "on the line",
        "c": "of the next, not of b one",
        "d": "",
    }
    assert field_help(Child)["e"] == "new"
    assert field_help(Child)["d"] == "changed"
    assert field_help(Child)["a"] == "above, and in two lines"


def test_a_package_that_is_installed_elsewhere_is_explained(tmp_path):
    "As a wheel is: a copy of the file, found by its path alone, and never torch."
    source = Path(settings.__file__).parent
    copy = tmp_path / "gpt_course"
    copy.mkdir()
    (copy / "__init__.py").write_text("")
    for name in ("settings.py", "files.py"):
        (copy / name).write_text((source / name).read_text("utf-8"), "utf-8")
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from gpt_course.settings import TrainConfig, field_help\n"
        "assert 'torch' not in sys.modules\n"
        "print(field_help(TrainConfig)['epochs'])\n"
        "print(sys.modules['gpt_course'].__file__)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    said, where = done.stdout.splitlines()
    assert said == field_help(TrainConfig)["epochs"]
    assert Path(where).parent == copy


# --- options ---


def test_options_go_to_their_classes():
    options = {"epochs": 3, "batch_size": 2, "temperature": 0.7}
    data, train, lora, generation = split_options(
        options, DataConfig, TrainConfig, LoraConfig, GenerationConfig
    )[:4]
    assert train == TrainConfig(epochs=3)
    assert data == DataConfig(batch_size=2)
    assert lora == LoraConfig()
    assert generation == GenerationConfig(temperature=0.7)


@pytest.mark.parametrize(
    "name, near",
    [
        ("epoch", "epochs"),
        ("lora_target_module", "lora_target_modules"),
        ("gradient_accumulation", "gradient_accumulation_steps"),
        ("warmup_ratio", "warmup_steps"),
    ],
)
def test_a_misspelt_option_is_named_with_the_nearest(name, near):
    with pytest.raises(ValueError) as e:
        split_options({name: 1}, TrainConfig, LoraConfig)
    assert str(e.value) == f"{name} is no setting; did you mean {near}?"


def test_an_option_like_no_other_gets_the_list():
    with pytest.raises(ValueError, match="xyz is no setting; known: .*lora_rank"):
        split_options({"xyz": 1}, TrainConfig, LoraConfig)


def test_names_and_values_are_refused_together():
    with pytest.raises(ValueError) as e:
        split_options({"epoch": 1, "lr": -1, "lora_rank": -2}, TrainConfig, LoraConfig)
    assert len(str(e.value).splitlines()) == 3
