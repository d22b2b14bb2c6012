"A run that is resumed must have the same batches; their fingerprint says so"

import pytest
from torch.utils.data import DataLoader

from gpt_course.batching import collate_examples
from gpt_course.finetuning import finetune
from gpt_course.loaders import InstructionDataset, data_fingerprint, make_loader
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.records import load_data
from gpt_course.settings import DataConfig, TrainConfig
from gpt_course.tokenizers import load_tokenizer
from gpt_course.training_state import Callback, Checkpointer

RECORDS = load_data("builtin")[:40]
SHAPE = GPTConfig(vocab_size=300, n_positions=512, n_embd=16, n_layer=1, n_head=2)


def dataset(max_length=512, on_overflow="error", records=RECORDS):
    return InstructionDataset(
        records, load_tokenizer("gpt2", 300), max_length, on_overflow
    )


def test_the_same_batches_have_the_same_fingerprint():
    loader = make_loader(dataset())
    found = data_fingerprint(loader)
    loader.batch_sampler.set_epoch(3)
    assert data_fingerprint(loader) == data_fingerprint(make_loader(dataset())) == found
    assert len(found) == 16
    usual = make_loader(dataset(), DataConfig.batch_size, TrainConfig.seed)
    assert data_fingerprint(usual) == found


LONGEST = max(len(prompt) for prompt, _ in dataset().examples)
OTHERS = {
    "order": lambda: make_loader(dataset(), seed=124),
    "batch size": lambda: make_loader(dataset(), batch_size=4),
    "rows": lambda: make_loader(dataset(records=RECORDS[1:])),
    "loss": lambda: make_loader(dataset(), completion_only_loss=False),
    "cut": lambda: make_loader(dataset(LONGEST + 1, "truncate")),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_batches_have_another_one(make):
    assert data_fingerprint(make()) != data_fingerprint(make_loader(dataset()))


def test_the_end_token_counts():
    found = set()
    for eos_id in (299, 298):
        rows = dataset()
        rows.eos_id = eos_id
        found.add(data_fingerprint(make_loader(rows)))
    assert len(found) == 2


def test_any_way_to_make_batches_counts():
    "Such as that of an exercise."

    def without_first(examples):
        batch = collate_examples(examples, 299)
        batch.targets[:, :120] = -100
        return batch

    loader = make_loader(dataset())
    own = DataLoader(
        loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=without_first
    )
    assert data_fingerprint(own) != data_fingerprint(loader)
    with pytest.raises(ValueError, match="use make_loader"):
        data_fingerprint(DataLoader(loader.dataset))


class StopAt(Callback):
    def on_step_end(self, state):
        if state.step == 3:
            raise KeyboardInterrupt


def test_a_run_is_not_resumed_with_another_loss(tmp_path):
    path, config = tmp_path / "run.safetensors", TrainConfig(epochs=1, save_steps=2)

    def run(completion_only_loss, *callbacks):
        model = init_weights(GPT(SHAPE), seed=1)
        loader = make_loader(dataset(), completion_only_loss=completion_only_loss)
        return finetune(model, loader, make_loader(dataset()), config, callbacks)

    with pytest.raises(KeyboardInterrupt):
        run(True, Checkpointer(path), StopAt())
    with pytest.raises(ValueError, match="other settings.*records"):
        run(False, Checkpointer(path, resume=True))
    assert run(True, Checkpointer(path, resume=True))[-1]["step"] == 5
