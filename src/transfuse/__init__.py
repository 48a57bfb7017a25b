"""transfuse moves what trained neural networks know into the network that you will ship.

`transfuse.distill(...)` runs a distillation, `transfuse.adapt(...)` an adaptation to another domain, `transfuse.fuse(...)` a fusion of
several models, `transfuse.resume(path)` goes on with a run, `transfuse.load(source)` opens a network,
`transfuse.export(run, "onnx")` ships one, `transfuse.predict(run, "photos/")` asks one.
Importing transfuse imports no torch: everything here is found on first use.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfuse import data, errors, models, objectives, testing
    from transfuse.errors import TransfuseError
    from transfuse.jobs.context import Run
    from transfuse.jobs.python.api import adapt, assistants, born_again, distill, extract, finetune, fuse, resume, sweep, together
    from transfuse.jobs.python.delivering import export, load, predict
    from transfuse.jobs.python.measuring import compare, eval, push

__version__ = "0.1.0"
__all__ = [
    "Run",
    "TransfuseError",
    "adapt",
    "assistants",
    "born_again",
    "compare",
    "data",
    "distill",
    "errors",
    "eval",
    "export",
    "extract",
    "finetune",
    "fuse",
    "load",
    "models",
    "objectives",
    "predict",
    "push",
    "resume",
    "sweep",
    "testing",
    "together",
]

# name -> module that defines it
_LAZY = {
    "adapt": "transfuse.jobs.python.api",
    "assistants": "transfuse.jobs.python.api",
    "born_again": "transfuse.jobs.python.api",
    "distill": "transfuse.jobs.python.api",
    "extract": "transfuse.jobs.python.api",
    "fuse": "transfuse.jobs.python.api",
    "finetune": "transfuse.jobs.python.api",
    "resume": "transfuse.jobs.python.api",
    "sweep": "transfuse.jobs.python.api",
    "together": "transfuse.jobs.python.api",
    "compare": "transfuse.jobs.python.measuring",
    "eval": "transfuse.jobs.python.measuring",
    "push": "transfuse.jobs.python.measuring",
    "export": "transfuse.jobs.python.delivering",
    "load": "transfuse.jobs.python.delivering",
    "predict": "transfuse.jobs.python.delivering",
    "Run": "transfuse.jobs.context",
    "TransfuseError": "transfuse.errors",
}
_ROOMS = ("data", "errors", "models", "objectives", "testing")


class _Package(ModuleType):
    """This package, in which a verb keeps its name: importing the room `transfuse.export` would put a module in the verb's place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"transfuse.{name}")
    raise AttributeError(f"module 'transfuse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
