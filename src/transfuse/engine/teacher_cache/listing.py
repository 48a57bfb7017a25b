"""What lies in a cache: which keys, how full, how whole; for the command `transfuse cache`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transfuse.core.registry import did_you_mean
from transfuse.engine.teacher_cache import room
from transfuse.engine.teacher_cache.store import ABOUT, Store
from transfuse.errors import RunError


@dataclass
class Damage:
    """Rows of one shard that were stored and are not what was stored."""

    path: Path
    rows: np.ndarray


@dataclass
class Entry:
    """One key.

    Attributes:
        folder: named by the key.
        about: what the key means; empty where it doesn't say.
        bytes: on the disk.
        last_use: seconds since 1970.
        views: those of which there is something.
        stored: rows that are there, over all views.
        rows: samples in the pool.
        problem: why it can't be read, and what to do; empty where it can.
    """

    folder: Path
    about: dict[str, Any]
    bytes: int
    last_use: float
    views: list[int]
    stored: int = 0
    rows: int = 0
    problem: str = ""

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def filled(self) -> float:
        """Share of the rows that are there, of the views that were begun."""
        return self.stored / (self.rows * len(self.views)) if self.rows and self.views else 0.0

    @property
    def what(self) -> str:
        """What was asked for, in a word: logits, the 100 largest, or a feature's path."""
        answers = self.about.get("answers", {})
        if "feature" in self.about:
            return f"{self.about['feature']} {'x'.join(map(str, answers.get('shape', [])))}"
        return f"top {answers['top_k']} of {answers['of']}" if "top_k" in answers else f"{answers.get('shape', ['?'])[0]} logits"


def entries(root: str | Path) -> list[Entry]:
    """All keys of a cache, the last used first; nothing is written."""
    return [_entry(folder) for folder in reversed(room.Room(root).keys())]


def _entry(folder: Path) -> Entry:
    try:
        store = Store.of(folder)
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        stored = sum(int(np.count_nonzero(shard.sums)) for view in store.views() for shard in store.shards(view))
    except (OSError, ValueError, RunError) as error:  # nothing that can be read, but something that takes room
        problem = f"{error.what}; {error.fix}" if isinstance(error, RunError) else f"can't be read: {error}"
        return Entry(folder, {}, room.folder_bytes(folder), room.last_use(folder), [], problem=problem)
    return Entry(folder, about, room.folder_bytes(folder), room.last_use(folder), store.views(), stored, store.rows)


def chosen(found: Sequence[Entry], keys: Sequence[str]) -> list[Entry]:
    """The entries whose keys begin so; all where no key is given.

    Raises:
        RunError: a beginning that no key has, or several.
    """
    picked = []
    for key in keys:
        fitting = [entry for entry in found if entry.key.startswith(key)]
        if len(fitting) != 1:
            known = [entry.key for entry in found]
            what = f"no key begins with '{key}'{did_you_mean(key, known)}" if not fitting else f"{len(fitting)} keys begin with '{key}'"
            raise RunError(what, where="cache", fix="transfuse cache ls shows all keys")
        picked += fitting
    return picked if keys else list(found)


def damages(entry: Entry) -> list[Damage]:
    """Reads every row of a key and compares it with its checksum.

    Raises:
        RunError: the folder doesn't say what it is.
    """
    store = Store.of(entry.folder)
    found = [Damage(shard.path, shard.damaged()) for view in store.views() for shard in store.shards(view)]
    return [damage for damage in found if len(damage.rows)]


def repair(entry: Entry, found: Sequence[Damage]) -> None:
    """Forgets damaged rows, so that they count as missing and are asked for again.

    Raises:
        RunError: the key can't be written.
    """
    store = Store.of(entry.folder, looks=False)
    if not store.writable and found:
        raise RunError("the teacher cache can't be written", where=str(entry.folder), fix="ask its owner for permission to write it")
    shards = {shard.path: shard for view in store.views() for shard in store.shards(view)}
    for damage in found:
        shards[damage.path].drop(damage.rows)
