"""Export: one file = one format in which a student is shipped; `verify` runs every file that was written against the network itself.

`names()` lists the targets, `summaries()` says what each is, `get("onnx")` gives its class.
"""

from typing import TYPE_CHECKING, Any

from transfuse.core.registry import Registry
from transfuse.errors import ExportError

if TYPE_CHECKING:
    from transfuse.core.protocols import Exporter

registry = Registry("transfuse.export", "export target", ExportError, skip=("verify",), nested=False)


def names() -> list[str]:
    """All targets, plug-ins included."""
    return registry.names()


def summaries() -> dict[str, str]:
    """Target -> the first line of its file."""
    return registry.summaries()


def get(name: str) -> "type[Exporter]":
    """A target's class.

    Raises:
        ExportError: there is no such target.
    """
    found: Any = registry.get(name)
    return found
