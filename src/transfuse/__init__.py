"""transfuse moves what trained neural networks know into the network that you will ship."""

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> module that defines it; imported on first use, so that `import transfuse` costs nothing
_LAZY: dict[str, str] = {}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in {"objectives", "models", "data", "testing", "errors"}:
        return importlib.import_module(f"transfuse.{name}")
    raise AttributeError(f"module 'transfuse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*_LAZY, "objectives", "models", "data", "testing", "errors", "__version__"])
