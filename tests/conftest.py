"What several tests need: a small model and a small data set, made on the spot"

import json
import signal

import pytest

from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import save_pretrained

# Whoever runs the tests in the background of a shell has SIGINT ignored, and so would
# have every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL = GPTConfig(vocab_size=400, n_positions=512, n_embd=32, n_layer=2, n_head=4)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    "A folder with a random model whose context holds the Alpaca prompt."
    model = init_weights(GPT(SMALL), seed=3)
    return save_pretrained(model, None, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    "A file of 60 records, every third with an input."
    path = tmp_path_factory.mktemp("data") / "small.json"
    path.write_text(
        json.dumps(
            [
                {
                    "instruction": f"Say the number {i}.",
                    "input": "quickly" if i % 3 == 0 else "",
                    "output": f"It is {i}.",
                }
                for i in range(60)
            ]
        )
    )
    return path
