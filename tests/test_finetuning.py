"A run can be repeated, interrupted and resumed; what it switched on, it switches off"

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from gpt_course.callbacks import ProgressBar
from gpt_course.checkpoints import checkpoint_state, save_checkpoint
from gpt_course.dataset import Records
from gpt_course.finetuning import (
    cosine_with_warmup,
    default_lr,
    evaluate_loss,
    finetune,
    make_optimizer,
)
from gpt_course.loaders import make_loaders
from gpt_course.lora import add_lora
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.protocols import COLUMNS
from gpt_course.settings import TrainConfig
from gpt_course.tokenizers import load_tokenizer
from gpt_course.training_state import Callback, Checkpointer, StepBatches

CONFIG = TrainConfig(epochs=2, lr=1e-3, save_steps=1)


def small(dropout=0.1, seed=1):
    shape = GPTConfig(
        vocab_size=300,
        n_positions=160,
        n_embd=16,
        n_layer=2,
        n_head=2,
        dropout=dropout,
    )
    return init_weights(GPT(shape), seed).eval()


def loaders_of(seed=5, outputs="ok", count=24):
    records = Records(
        {"instruction": f"Say {i}.", "input": "", "output": f"{outputs} {i}"}
        for i in range(count)
    )
    tokenizer = load_tokenizer("gpt2", 300)
    return make_loaders(records.split(), tokenizer, 160, batch_size=4, seed=seed)


class StopAt(Callback):
    "Interrupt the run after a step."

    def __init__(self, step, error=KeyboardInterrupt):
        self.step, self.error = step, error

    def on_step_end(self, state):
        if state.step == self.step:
            raise self.error


def run(*callbacks, model=None, loaders=None, config=CONFIG):
    loaders = loaders or loaders_of()
    model = model or small()
    return finetune(model, loaders.train, loaders.val, config, callbacks)


def interrupted(path, step=4, config=CONFIG):
    with pytest.raises(KeyboardInterrupt):
        run(Checkpointer(path), StopAt(step), config=config)


# The rows


def test_the_rows_say_what_was_done():
    loaders = loaders_of()
    rows = run(loaders=loaders, config=TrainConfig(epochs=2, eval_steps=4))
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [row["step"] for row in rows] == list(range(11))
    assert rows[5]["epoch"] == 1.0 and rows[10]["epoch"] == 2.0
    measured = [row["step"] for row in rows if row["val_loss"] is not None]
    assert measured == [0, 4, 5, 8, 10]  # every fourth step, and after each epoch
    trained = len(loaders.train.dataset)
    assert rows[10]["examples_seen"] == 2 * trained
    prompts_and_answers = sum(len(a) + len(b) for a, b in loaders.train.dataset)
    assert rows[10]["tokens_seen"] == 2 * prompts_and_answers


def test_a_share_and_a_number_of_warmup_steps():
    rates = [cosine_with_warmup(s, 40, 1.0, 0.25) for s in range(40)]
    assert rates == [cosine_with_warmup(s, 40, 1.0, 10) for s in range(40)]
    assert rates[:10] == [(s + 1) / 10 for s in range(10)]
    assert rates[-1] == pytest.approx(0.1)
    ten = run(config=TrainConfig(epochs=2, lr=1e-3, warmup_steps=5))
    share = run(config=TrainConfig(epochs=2, lr=1e-3, warmup_steps=0.5))
    assert ten == share and ten[5]["lr"] == 1e-3 > ten[4]["lr"]


def test_the_learning_rate_depends_on_what_is_trained():
    model = small()
    assert default_lr(model) == 5e-5 * 1024 / 16
    assert default_lr(add_lora(model, rank=2)) == 10 * 5e-5 * 1024 / 16
    rows = run(model=model, config=TrainConfig(epochs=1, warmup_steps=0))
    assert rows[1]["lr"] == default_lr(model)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        make_optimizer(model.requires_grad_(False), 1e-3, 0.1)


# Resuming


def test_a_run_goes_on_with_its_own_records_only(tmp_path):
    path = tmp_path / "c.safetensors"
    interrupted(path)
    resume = Checkpointer(path, resume=True)
    for other in (loaders_of(seed=6), loaders_of(outputs="no")):
        with pytest.raises(ValueError, match="other settings .records '"):
            run(resume, loaders=other)
    loaders = loaders_of()
    assert run(resume, loaders=loaders) == run()
    assert len(list(loaders.train)) == 5  # the loader is whole again
    maps = Path("/proc/self/maps")
    # Windows could not replace a mapped file
    if maps.exists():
        assert path.name not in maps.read_text()


def test_a_run_goes_on_with_its_own_settings_only(tmp_path):
    path = tmp_path / "c.safetensors"
    interrupted(path)
    other = TrainConfig(epochs=3, lr=1e-3, save_steps=1, weight_decay=0.2)
    changed = r"weight_decay 0.1 → 0.2, .*steps 10 → 15"
    with pytest.raises(ValueError, match=rf"epochs 2 → 3, {changed}"):
        run(Checkpointer(path, resume=True), config=other)
    less_memory = TrainConfig(
        epochs=2, lr=1e-3, save_steps=1, gradient_checkpointing=True
    )
    assert run(Checkpointer(path, resume=True), config=less_memory) == run()


@pytest.mark.parametrize("step", [1, 4, 5, 6, 9])
def test_resumed_inside_and_between_epochs_with_accumulation(tmp_path, step):
    config = TrainConfig(
        epochs=4, lr=1e-3, gradient_accumulation_steps=2, eval_steps=2, save_steps=2
    )
    path = tmp_path / "c.safetensors"
    interrupted(path, step, config)
    assert run(Checkpointer(path, resume=True), config=config) == run(config=config)


def test_how_often_it_is_saved_may_change(tmp_path):
    path = tmp_path / "c.safetensors"
    interrupted(path)
    rarely = TrainConfig(epochs=2, lr=1e-3, save_minutes=60)
    assert run(Checkpointer(path, resume=True), config=rarely) == run()


def lora_run(*callbacks, seed=1):
    model = add_lora(small(seed=seed), rank=2)
    return run(*callbacks, model=model, config=CONFIG)


def test_what_is_frozen_must_be_the_same(tmp_path):
    "It is not in the checkpoint, and an other base of the same shape fits it."
    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        lora_run(Checkpointer(path), StopAt(4))
    with pytest.raises(ValueError, match="other settings .base_sha256 '"):
        lora_run(Checkpointer(path, resume=True), seed=2)
    assert lora_run(Checkpointer(path, resume=True)) == lora_run()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"rows": None},
        lambda state: state | {"rows": []},
        lambda state: state | {"rows": state["rows"][1:]},
        lambda state: state | {"rows": [*state["rows"], None]},
        lambda state: state | {"rows": [row | {"step": 0} for row in state["rows"]]},
        lambda state: state | {"rows": [{**row, "lr": "x"} for row in state["rows"]]},
        lambda state: state | {"rows": [row | {"more": 1} for row in state["rows"]]},
        lambda state: {"settings": state["settings"]},
        lambda state: state | {"settings": None},
        lambda state: {"rows": state["rows"]},
        lambda state: {},
    ],
)
def test_a_state_that_is_not_of_this_run_is_refused(change, tmp_path):
    path = tmp_path / "c.safetensors"
    interrupted(path)
    state = change(checkpoint_state(path))
    model, loaders = small(), loaders_of()
    save_checkpoint(path, model, [make_optimizer(model, 1e-3, 0.1)], state)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="its rows are not|was made with other sett"):
        run(Checkpointer(path, resume=True), model=model, loaders=loaders)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_without_a_file_a_resumed_run_begins_and_without_resume_it_begins_again(
    tmp_path,
):
    path = tmp_path / "new" / "c.safetensors"
    whole = run(Checkpointer(path, resume=True))
    assert whole == run() and path.exists()
    assert run(Checkpointer(path)) == whole
    # a finished run has nothing left to do
    assert run(Checkpointer(path, resume=True)) == whole


def test_the_file_is_written_when_it_is_due(tmp_path):
    path = tmp_path / "c.safetensors"
    interrupted(path, step=6, config=TrainConfig(epochs=2, save_steps=4))
    assert load_file(path)["optimizer.0.0.step"].item() == 4
    run(Checkpointer(path), config=TrainConfig(epochs=2))
    assert load_file(path)["optimizer.0.0.step"].item() == 10


def test_time_decides_when_a_file_is_written(tmp_path, monkeypatch):
    "A clock that goes on by half a minute in each step."
    path, seconds, written = tmp_path / "c.safetensors", [0], []
    monkeypatch.setattr("time.monotonic", lambda: float(seconds[0]))

    class Clock(Callback):
        def on_step_end(self, state):
            seconds[0] += 30

    class Look(Callback):
        def on_step_end(self, state):
            if path.exists():
                written.append(int(load_file(path)["optimizer.0.0.step"]))

    callbacks = [Clock(), Checkpointer(path), Look()]
    run(*callbacks, config=TrainConfig(epochs=2, save_minutes=2))
    assert written == [4, 4, 4, 4, 8, 8, 10]
    path.unlink()
    written.clear()
    run(*callbacks, config=TrainConfig(epochs=2, save_minutes=2, save_steps=3))
    assert written == [3, 3, 3, 6, 6, 6, 9, 10]


# Callbacks, and what they leave


class Diary(Callback):
    def __init__(self, name, pages):
        self.name, self.pages = name, pages

    def on_train_begin(self, state):
        self.pages.append((self.name, "begin", state.step))

    def on_step_end(self, state):
        self.pages.append((self.name, "step", state.step))

    def on_train_end(self, state):
        self.pages.append((self.name, "end", state.step))


def test_callbacks_are_called_in_order_and_ended_in_any_case():
    pages = []
    with pytest.raises(KeyboardInterrupt):
        run(Diary("a", pages), Diary("b", pages), StopAt(2))
    assert pages[:4] == [
        ("a", "begin", 0),
        ("b", "begin", 0),
        ("a", "step", 1),
        ("b", "step", 1),
    ]
    assert set(pages[-2:]) == {("a", "end", 2), ("b", "end", 2)}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_switched_on_is_switched_off(error):
    model, loaders = small(), loaders_of()
    config = TrainConfig(epochs=2, gradient_checkpointing=True)
    seen = []

    class Look(Callback):
        def on_step_end(self, state):
            seen.append((model.training, model.gradient_checkpointing))

    with pytest.raises(error):
        run(Look(), StopAt(7, error), model=model, loaders=loaders, config=config)
    assert set(seen) == {(True, True)}
    assert (model.training, model.gradient_checkpointing) == (False, False)
    sampler = loaders.train.batch_sampler
    assert (sampler.epoch, sampler.skip) == (0, 0)


def test_a_model_that_checkpoints_already_goes_on_doing_so():
    model = small()
    model.gradient_checkpointing = True
    run(model=model)
    assert model.gradient_checkpointing


def test_evaluation_leaves_the_mode_also_after_an_error():
    model = small().train()
    with pytest.raises(ValueError, match="every target is masked"):
        evaluate_loss(model, [])
    assert model.training
    with pytest.raises(IndexError):
        evaluate_loss(model, [(torch.full((1, 2), 999), torch.ones(1, 2).long())])
    assert model.training


def test_an_error_does_not_begin_at_the_end_of_the_bars_line(capsys):
    bar = ProgressBar()
    with pytest.raises(RuntimeError):
        run(bar, StopAt(3, RuntimeError))
    shown = capsys.readouterr().err
    assert "fine-tuning" in shown and shown.endswith("\n") and bar.bar is None


def test_the_bar_shows_where_a_resumed_run_is(tmp_path, capsys):
    path = tmp_path / "c.safetensors"
    for callbacks in (
        [Checkpointer(path, resume=True), ProgressBar()],
        [ProgressBar(), Checkpointer(path, resume=True)],
    ):
        interrupted(path)
        capsys.readouterr()
        run(*callbacks)
        assert "10/10" in capsys.readouterr().err


# The order


def test_batches_from_any_step_on_are_those_of_the_whole():
    loaders = loaders_of()
    order = StepBatches(loaders.train, epochs=3, gradient_accumulation_steps=3)
    assert (order.per_epoch, len(order)) == (2, 6)

    def ids(steps):
        return [[batch.input_ids.tolist() for batch in step] for step in steps]

    whole = ids(order.from_step(0))
    assert [len(step) for step in whole] == [3, 2] * 3
    for first in range(7):
        assert ids(order.from_step(first)) == whole[first:]


def test_opening_a_loader_does_not_disturb_dropout():
    order = StepBatches(loaders_of().train)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    next(order.from_step(2))
    assert torch.equal(torch.rand(3), expected)


def test_a_loader_without_an_order_is_refused_before_anything_is_trained():
    loaders, model = loaders_of(), small()
    before = [p.clone() for p in model.parameters()]
    plain = DataLoader(loaders.train.dataset, batch_size=4)
    for wrong, kind in ((plain, "BatchSampler"), ([1, 2], "list"), ("x", "str")):
        with pytest.raises(ValueError, match=f"train_loader: found a {kind}, which"):
            finetune(model, wrong, loaders.val)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
