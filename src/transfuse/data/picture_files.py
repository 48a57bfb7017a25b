"""A list of picture files -> samples: every file is read once beforehand, bad ones are named, and one canonical size is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from transfuse.core.types import DataRequest
from transfuse.data.decode import Found, Unreadable, examine, in_threads
from transfuse.data.samples import FileSamples
from transfuse.errors import DataError

MIXED_SIDE = 224  # what most pretrained networks for photographs take
_NAMED = 10  # files that a message lists


@dataclass
class Entry:
    """One picture as a folder or a list has it.

    Attributes:
        path: the file.
        id: what the sample is called.
        label: class name, number or names as text; empty for none.
        part: train, val, test or unlabelled.
    """

    path: Path
    id: str
    label: str
    part: str


@dataclass
class Pictures:
    """The readable entries and what is known of their files."""

    entries: list[Entry]
    found: list[Found]
    shape: tuple[int, int, int]
    notes: list[str]

    def samples(self, part: str, labels: torch.Tensor) -> FileSamples | None:
        """One part's samples, with its labels in the order of entries; None where the part is empty."""
        rows = self.rows(part)
        if not rows:
            return None
        digests = np.array([self.found[row].digest for row in rows], dtype="V16")
        ids = np.array([self.entries[row].id for row in rows])
        return FileSamples([self.entries[row].path for row in rows], labels, ids, digests, self.shape)

    def rows(self, part: str) -> list[int]:
        """Positions of one part's entries."""
        return [row for row, entry in enumerate(self.entries) if entry.part == part]


def look_at(entries: Sequence[Entry], request: DataRequest, where: str) -> Pictures:
    """Reads every file once, in threads.

    Args:
        entries: all parts together, so that one size and one number of channels serve them all.
        request: gives `size` and `unreadable`.
        where: what messages call the source.

    Raises:
        DataError: files that can't be read, unless the request says to skip them; nothing readable at all.
    """
    results = in_threads(examine, [entry.path for entry in entries])
    bad = [(entry, result.reason) for entry, result in zip(entries, results, strict=True) if isinstance(result, Unreadable)]
    good = [(entry, result) for entry, result in zip(entries, results, strict=True) if isinstance(result, Found)]
    notes = []
    if bad:
        listed = "; ".join(f"{entry.id} ({reason})" for entry, reason in bad[:_NAMED])
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        plural = "s" if len(bad) > 1 else ""
        if request.unreadable == "refuse" or not good:
            fix = "repair or remove them, or leave them out with data.unreadable=skip" if good else "give files that can be read"
            raise DataError(f"{len(bad)} file{plural} can't be read: {listed}{more}", where=where, fix=fix)
        notes.append(f"{len(bad)} unreadable file{plural} left out: {listed}{more}")
    if not good:
        raise DataError("no pictures here", where=where, fix="jpg, png, webp, bmp, gif and tiff are read")
    found = [result for _, result in good]
    return Pictures([entry for entry, _ in good], found, _shape(found, request.size, notes), notes)


def _shape(found: Sequence[Found], size: int | None, notes: list[str]) -> tuple[int, int, int]:
    channels = 1 if all(one.grey for one in found) else 3
    if channels == 3 and any(one.grey for one in found):
        notes.append(f"{sum(one.grey for one in found)} greyscale pictures among coloured ones are read as RGB")
    sizes = {(one.height, one.width) for one in found}
    if size is not None:
        return channels, size, size
    if len(sizes) == 1:
        return (channels, *sizes.pop())
    notes.append(
        f"pictures differ in size: held at {MIXED_SIDE}x{MIXED_SIDE}, shorter side resized and centre cut out (data.size changes it)"
    )
    return channels, MIXED_SIDE, MIXED_SIDE
