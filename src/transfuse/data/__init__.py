"""Data: one file = one source of samples, found by its prefix (`images:./photos`); splits and statistics are made once for all.

`open_data("bundled:digits", DataRequest())` gives a DataSet; `names()` lists the prefixes, `catalog()` what each has to offer.
"""

from typing import TYPE_CHECKING, Any

from transfuse.core.registry import Registry
from transfuse.errors import DataError

if TYPE_CHECKING:
    from transfuse.core.types import DataRequest, DataSet

_NOT_SOURCES = (
    *("array_parts", "assemble", "check", "data_sets", "decode", "domains", "labels", "layout", "live", "locate", "manifest"),
    *("picture_files", "samples", "splits", "statistics", "views"),
)

registry = Registry("transfuse.data", "data source", DataError, skip=_NOT_SOURCES, nested=False)


def names() -> list[str]:
    """The prefixes of all data sources, plug-ins included."""
    return registry.names()


def catalog() -> dict[str, str]:
    """Source string -> one line, such as "bundled:digits" -> "1,797 8x8 greyscale digits, 10 classes"."""
    return {f"{prefix}:{name}": line for prefix in names() for name, line in registry.module(prefix).catalog().items()}


def open_data(source: Any, request: "DataRequest") -> "DataSet":
    """Opens a data source, splits it, and fits on its training part what is fitted.

    Args:
        source: a recipe's string ("images:./photos"), or live objects: (inputs, labels); (train, test) or (train, val, test), or a dict of
            these names, of such pairs, data sets or loaders; a single data set or loader.
        request: fractions, seed, label budget, picture size, task.

    Raises:
        DataError: unknown source, missing or unreadable files, or content that can't be made sense of.
    """
    from transfuse.data.assemble import assemble, read

    return assemble(read(source, request), request, source if isinstance(source, str) else "live")
