"""Samples: inputs in memory or in picture files, and views of them that select, join and relabel without copying."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Samples
from transfuse.data.decode import in_threads, read_picture
from transfuse.errors import DataError

Indices = Sequence[int] | Tensor | np.ndarray
_DIGEST_BYTES = 16
_CHUNK = 1024  # rows that are fetched at once where a whole pool is looked through


def _rows(indices: Indices) -> Tensor:
    return torch.as_tensor(indices, dtype=torch.int64).cpu()


def digests(samples: Samples) -> np.ndarray:
    """Bytes [n] of 16 each: a hash of every sample's content (of a file's bytes, of an array's row); equal content, equal hash."""
    known = getattr(samples, "digests", None)
    if known is not None:
        return known
    found = []
    for start in range(0, len(samples), _CHUNK):
        rows = samples.raw(range(start, min(start + _CHUNK, len(samples)))).contiguous().cpu().numpy()
        found += [hashlib.blake2b(row.tobytes(), digest_size=_DIGEST_BYTES).digest() for row in rows]
    return np.array(found, dtype=f"V{_DIGEST_BYTES}")


def raw_shape(samples: Samples) -> tuple[int, ...]:
    """(channels, height, width) or (columns,) of what `raw` gives."""
    return tuple(getattr(samples, "shape", None) or samples.raw([0]).shape[1:])


def raw_dtype(samples: Samples) -> torch.dtype:
    """uint8 or float32, of what `raw` gives."""
    return getattr(samples, "dtype", None) or samples.raw([0]).dtype


def raw_bytes(samples: Samples) -> int:
    """Bytes that the whole raw pool takes once decoded."""
    return len(samples) * int(np.prod(raw_shape(samples))) * raw_dtype(samples).itemsize


def no_labels(labels: Tensor) -> Tensor:
    """Labels of the same form that say nothing: -1 for class numbers, NaN for floats."""
    return torch.full_like(labels, float("nan") if labels.is_floating_point() else -1)


class _Base:
    """What all kinds share; a kind gives `digests`, `raw` and `exact`."""

    def __init__(self, ids: np.ndarray, labels: Tensor, shape: tuple[int, ...], dtype: torch.dtype):
        if len(ids) != len(labels):
            raise ValueError(f"{len(ids)} ids for {len(labels)} labels")
        self.ids, self.labels, self.shape, self.dtype = ids, labels, shape, dtype
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes(self) -> int:
        """Of the decoded raw pool, so that the engine can decide between memory and workers."""
        return raw_bytes(self)  # pyright: ignore[reportArgumentType]

    @property
    def fingerprint(self) -> str:
        """Hash of content, ids and shape; not of labels, nor of how the samples were selected and joined."""
        if self._fingerprint is None:
            content = hashlib.blake2b(repr((self.shape, str(self.dtype))).encode(), digest_size=16)
            content.update("\0".join(map(str, self.ids)).encode())
            content.update(digests(self).tobytes())  # pyright: ignore[reportArgumentType]
            self._fingerprint = content.hexdigest()
        return self._fingerprint


class ArraySamples(_Base):
    """Inputs in memory.

    Args:
        inputs: uint8 or float32 [n, channels, height, width], or float32 [n, columns].
        labels: as in core.types.Samples.
        ids: str or int64 [n].
        size: side in pixels of `raw`; None leaves pictures as they are. `exact` always starts from `inputs`.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, ids: np.ndarray, size: int | None = None):
        resized = size is not None and inputs.ndim == 4 and tuple(inputs.shape[2:]) != (size, size)
        shape = (inputs.shape[1], size, size) if resized else tuple(inputs.shape[1:])
        super().__init__(ids, labels, shape, inputs.dtype)  # pyright: ignore[reportArgumentType]
        self._inputs = inputs
        self._fit = Preprocess(size=(size, size), resize="short_side") if resized and size is not None else None

    @cached_property
    def digests(self) -> np.ndarray:
        rows = self._inputs.numpy()
        found = [hashlib.blake2b(row.tobytes(), digest_size=_DIGEST_BYTES).digest() for row in rows]
        return np.array(found, dtype=f"V{_DIGEST_BYTES}")

    def raw(self, indices: Indices) -> Tensor:
        inputs = self._inputs[_rows(indices)]
        return inputs if self._fit is None else self._fit.exact_batch(inputs).to(self.dtype)

    def exact(self, indices: Indices, preprocess: Preprocess) -> Tensor:
        return preprocess.exact_batch(self._inputs[_rows(indices)])


class FileSamples(_Base):
    """Picture files, decoded when asked for; only paths are held, so that workers can be given a copy.

    Args:
        paths: one file per sample.
        labels: as in core.types.Samples.
        ids: str [n].
        digests: bytes [n], hash of each file's content.
        shape: (channels, height, width) of `raw`: the shorter side is resized, then the centre is cut out.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, ids: np.ndarray, digests: np.ndarray, shape: tuple[int, int, int]):
        super().__init__(ids, labels, shape, torch.uint8)
        self.paths = np.array([str(path) for path in paths], dtype=object)
        self.digests = digests
        self._fit = Preprocess(size=shape[1:], channels=shape[0], resize="short_side")

    def _decoded(self, indices: Indices, preprocess: Preprocess, dtype: torch.dtype) -> Tensor:
        decode = partial(_decode, preprocess=preprocess, dtype=dtype)
        paths = self.paths[_rows(indices).numpy()].tolist()
        in_worker = get_worker_info() is not None  # a worker is one of many already
        return torch.cat([decode(path) for path in paths] if in_worker else in_threads(decode, paths))

    def raw(self, indices: Indices) -> Tensor:
        if len(indices) == 0:
            return torch.empty((0, *self.shape), dtype=torch.uint8)
        return self._decoded(indices, self._fit, torch.uint8)

    def exact(self, indices: Indices, preprocess: Preprocess) -> Tensor:
        channels = preprocess.channels or self.shape[0]
        size = preprocess.size or self._fit.size  # files differ in size: a model without a size of its own gets the data's
        resize = preprocess.resize if preprocess.size else "short_side"
        preprocess = replace(preprocess, channels=channels, size=size, resize=resize)
        return self._decoded(indices, preprocess, torch.float32) if len(indices) else torch.empty((0, channels, *(size or ())))


def _decode(path: str, preprocess: Preprocess, dtype: torch.dtype) -> Tensor:
    return preprocess.exact_image(read_picture(path)).to(dtype)


class Selection(_Base):
    """Some rows of other samples, with labels, and where given ids, of its own."""

    def __init__(self, base: Samples, rows: np.ndarray, labels: Tensor, ids: np.ndarray | None = None):
        super().__init__(base.ids[rows] if ids is None else ids, labels, raw_shape(base), raw_dtype(base))
        self.base, self.rows = base, rows

    @cached_property
    def digests(self) -> np.ndarray:
        return digests(self.base)[self.rows]

    def _base_rows(self, indices: Indices) -> Tensor:
        return torch.from_numpy(self.rows)[_rows(indices)]

    def raw(self, indices: Indices) -> Tensor:
        return self.base.raw(self._base_rows(indices))

    def exact(self, indices: Indices, preprocess: Preprocess) -> Tensor:
        return self.base.exact(self._base_rows(indices), preprocess)


class Joined(_Base):
    """Samples one after the other."""

    def __init__(self, parts: Sequence[Samples]):
        ids = [part.ids for part in parts]
        if len({part.dtype.kind for part in ids}) > 1:
            ids = [part.astype(str) for part in ids]
        super().__init__(np.concatenate(ids), torch.cat([part.labels for part in parts]), raw_shape(parts[0]), raw_dtype(parts[0]))
        self.parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    @cached_property
    def digests(self) -> np.ndarray:
        return np.concatenate([digests(part) for part in self.parts])

    def _gather(self, indices: Indices, method: str, arguments: tuple[Any, ...]) -> Tensor:
        rows = _rows(indices)
        owner = torch.from_numpy(np.searchsorted(self._starts, rows.numpy(), side="right") - 1)
        gathered = None
        for number, part in enumerate(self.parts):
            mine = owner == number
            if bool(mine.any()) or (number == 0 and not len(rows)):
                values = getattr(part, method)(rows[mine] - int(self._starts[number]), *arguments)
                if gathered is None:
                    gathered = values.new_empty((len(rows), *values.shape[1:]))
                gathered[mine] = values
        assert gathered is not None
        return gathered

    def raw(self, indices: Indices) -> Tensor:
        return self._gather(indices, "raw", ())

    def exact(self, indices: Indices, preprocess: Preprocess) -> Tensor:
        return self._gather(indices, "exact", (preprocess,))


class Recoloured(_Base):
    """Pictures with another number of channels: grey ones repeated, RGB ones as their luma."""

    def __init__(self, base: Samples, channels: int):
        super().__init__(base.ids, base.labels, (channels, *raw_shape(base)[1:]), raw_dtype(base))
        self.base, self._fit = base, Preprocess(channels=channels)

    @cached_property
    def digests(self) -> np.ndarray:
        return digests(self.base)

    def raw(self, indices: Indices) -> Tensor:
        return self._fit(self.base.raw(_rows(indices))).to(self.dtype)

    def exact(self, indices: Indices, preprocess: Preprocess) -> Tensor:
        return self.base.exact(_rows(indices), replace(preprocess, channels=preprocess.channels or self.shape[0]))


def with_channels(samples: Samples, channels: int) -> Samples:
    """The same pictures with 1 or 3 channels."""
    return samples if raw_shape(samples)[0] == channels else Recoloured(samples, channels)


def from_files(samples: Samples) -> bool:
    """Whether pictures are decoded from files when they are asked for."""
    if isinstance(samples, (Selection, Recoloured)):
        return from_files(samples.base)
    return any(map(from_files, samples.parts)) if isinstance(samples, Joined) else isinstance(samples, FileSamples)


def subset(samples: Samples, indices: Indices) -> Samples:
    """The samples at these positions, in this order; negative positions and repeats as in numpy."""
    rows = _rows(indices).numpy()
    base, base_rows = _unwrapped(samples)
    return Selection(base, base_rows[rows], samples.labels[torch.from_numpy(rows)], samples.ids[rows])


def _unwrapped(samples: Samples) -> tuple[Samples, np.ndarray]:
    """A selection of a selection is one selection."""
    return (samples.base, samples.rows) if isinstance(samples, Selection) else (samples, np.arange(len(samples)))


def relabel(samples: Samples, labels: Tensor) -> Samples:
    """The same samples with other labels [n, ...]."""
    base, rows = _unwrapped(samples)
    return Selection(base, rows, labels, samples.ids)


def rename(samples: Samples, ids: np.ndarray) -> Samples:
    """The same samples with other ids [n]."""
    base, rows = _unwrapped(samples)
    return Selection(base, rows, samples.labels, ids)


def concat(first: Samples, second: Samples) -> Samples:
    """The samples of both, the first ones first.

    Raises:
        DataError: their inputs differ in shape or type, or their labels in form.
    """
    shapes, dtypes = (raw_shape(first), raw_shape(second)), (raw_dtype(first), raw_dtype(second))
    if shapes[0] != shapes[1] or dtypes[0] != dtypes[1]:
        raise DataError(
            f"inputs {shapes[0]} {dtypes[0]} and {shapes[1]} {dtypes[1]} can't be put together", fix="give both the same shape and type"
        )
    if first.labels.shape[1:] != second.labels.shape[1:] or first.labels.dtype != second.labels.dtype:
        raise DataError(f"labels {tuple(first.labels.shape)} and {tuple(second.labels.shape)} can't be put together")
    parts = [part for samples in (first, second) for part in (samples.parts if isinstance(samples, Joined) else [samples])]
    return Joined(parts)
