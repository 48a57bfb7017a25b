"""Finds the user's files and folders, and says which part of a path is wrong when they are not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transfuse.core.registry import did_you_mean
from transfuse.errors import DataError


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def visible_folders(folder: Path) -> list[Path]:
    """Subfolders that are not hidden, sorted by name."""
    return [path for path in _visible(folder) if path.is_dir()]


def visible_files(folder: Path) -> list[Path]:
    """Files directly in a folder that are not hidden, sorted by name."""
    return [path for path in _visible(folder) if path.is_file()]


def existing(name: str, prefix: str) -> Path:
    """The path behind `prefix:name`, which may begin with `~`.

    Raises:
        DataError: no name, or nothing there; names the first part of the path that is missing and the nearest sibling.
    """
    if not name:
        raise DataError("no path after the colon", where=f"{prefix}:", fix=f"write {prefix}:PATH")
    path = Path(name).expanduser()
    if path.exists():
        return path
    missing = path
    while missing.parent != missing and not missing.parent.exists():
        missing = missing.parent
    siblings = [entry.name for entry in _visible(missing.parent)] if missing.parent.is_dir() else []
    hint = did_you_mean(missing.name, siblings)
    raise DataError(f"there is no '{missing.name}' in {missing.parent.resolve()}{hint}", where=f"{prefix}:{name}", fix="check the path")


def existing_folder(name: str, prefix: str) -> Path:
    """Like `existing`, for folders.

    Raises:
        DataError: it is missing, is a file, or can't be read.
    """
    path = existing(name, prefix)
    if not path.is_dir():
        raise DataError("this is a file, not a folder", where=f"{prefix}:{name}", fix=f"give the folder: {prefix}:{path.parent}")
    try:
        next(path.iterdir(), None)
    except PermissionError as error:
        raise DataError("no permission to read this folder", where=f"{prefix}:{name}") from error
    return path


def existing_file(name: str, prefix: str) -> Path:
    """Like `existing`, for files.

    Raises:
        DataError: it is missing or is a folder.
    """
    path = existing(name, prefix)
    if path.is_dir():
        raise DataError("this is a folder, not a file", where=f"{prefix}:{name}")
    return path


@contextmanager
def inside(where: str) -> Iterator[None]:
    """Errors raised in the block say in which source or recipe key they happened, before the place that they name themselves."""
    try:
        yield
    except DataError as error:
        raise DataError(error.what, where=f"{where}: {error.where}" if error.where else where, fix=error.fix) from error
