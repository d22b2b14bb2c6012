"""Instruction fine-tuning of GPT-2: load a model, fine-tune it, ask it, score it.

    import gpt_course as gpt

    model = gpt.load("tiny")
    data = gpt.load_data("mine.json").split(seed=1)
    history = gpt.finetune(model, data, epochs=2)
    print(model.respond("Give the opposite of 'early'."))

A name is imported when it is first used, so that `import gpt_course` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = {  # which module has which name
    "load": "api",
    "finetune": "api",
    "evaluate": "api",
    "Model": "api",
    "load_data": "records",
    "Records": "dataset",
    "Splits": "dataset",
    "RecordError": "records",
    "History": "history",
    "TrainConfig": "settings",
    "LoraConfig": "settings",
    "GenerationConfig": "settings",
}

if TYPE_CHECKING:
    from .api import Model, evaluate, finetune, load
    from .dataset import Records, Splits
    from .history import History
    from .records import RecordError, load_data
    from .settings import GenerationConfig, LoraConfig, TrainConfig

__all__ = [
    "GenerationConfig",
    "History",
    "LoraConfig",
    "Model",
    "RecordError",
    "Records",
    "Splits",
    "TrainConfig",
    "evaluate",
    "finetune",
    "load",
    "load_data",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
