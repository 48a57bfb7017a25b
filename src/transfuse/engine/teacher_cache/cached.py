"""A teacher whose answers are stored: each sample and view is asked once, whoever asks, and a step sees what was stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from transfuse.core import ranks
from transfuse.core.types import Batch, Signals
from transfuse.engine.teacher_cache.forms import Dense, Top
from transfuse.engine.teacher_cache.store import Store
from transfuse.engine.teacher_cache.teachers import LiveTeacher, refuse_nan
from transfuse.errors import RunError

ASKED_TOGETHER = 128  # samples per forward pass of a teacher that is remembered, for small inputs
FEW_TOGETHER = 32  # the same for large ones
LARGE_INPUT = 3 * 128 * 128  # numbers
_ATTEMPTS = 3  # at finding what was just stored
_BLOCK = 8192  # rows that are looked through at once for what nobody has asked about

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Memory:
    """Where one kind of answer is kept, and how a row of it is read."""

    store: Store
    form: Dense | Top


OpenFeatures = Callable[[Shapes], Mapping[str, Memory] | None]
"""Shapes of one sample's features by path -> where each is kept; None: they are not to be kept."""


def not_kept(count: int, store: Store) -> RunError:
    """For answers that are gone as soon as they are stored."""
    fix = "check the disk, or set cache.dir=FOLDER to another one"
    return RunError(f"{count} answers that were just stored can't be read back", where=str(store.folder), fix=fix)


def asked_together(input_shape: Sequence[int], pool: int) -> int:
    """The batch in which a remembered teacher is asked: a function of its inputs alone, never of how a student batches."""
    return min(pool, FEW_TOGETHER if int(np.prod(input_shape)) > LARGE_INPUT else ASKED_TOGETHER)


class CachedTeacher:
    """A live teacher whose answers are stored.

    A step gets what was stored, rounded as it was stored, also the first time. The teacher always sees batches of one size: a frozen
    network in eval mode then gives a sample the same bits whatever its neighbours and its place are, which other sizes don't promise (other
    kernels, other orders of summation). So the stored bits depend neither on how students batch and shuffle nor on where a run was killed.
    Places that the asked samples leave free are taken by samples of the same view that nobody has asked about yet, or, when there are none,
    by repetition, which isn't counted as asking.

    Args:
        live: who is asked.
        logits: where logits are kept.
        together: samples per forward pass; part of the key.
        open_features: where tapped features are kept; None: nowhere, so that a teacher whose features are tapped is asked live.
        features: those that it answers with, by path.
    """

    def __init__(
        self,
        live: LiveTeacher,
        logits: Memory,
        together: int = ASKED_TOGETHER,
        open_features: OpenFeatures | None = None,
        features: Mapping[str, Memory] | None = None,
    ):
        self.live, self.logits, self.together, self.open_features = live, logits, together, open_features
        self.features = dict(features or {})
        self._begun: dict[int, int] = {}  # per view: so many rows from the start of this process's share are all stored

    @property
    def forwards(self) -> int:
        return self.live.forwards

    @property
    def rows(self) -> int:
        """Samples in the pool."""
        return self.logits.store.rows

    @property
    def memories(self) -> list[Memory]:
        """All that a row has to be stored in."""
        return [self.logits, *self.features.values()]

    def covers(self, ids: Tensor) -> Tensor:
        return self.live.covers(ids)

    def tapping(self, paths: Sequence[str]) -> CachedTeacher | LiveTeacher:
        """The teacher, answering with these features too: from a store where they fit, else live."""
        live = self.live.tapping(paths)
        shapes = live.feature_shapes() if self.open_features is not None else None
        kept = self.open_features(shapes) if self.open_features is not None and shapes is not None else None
        return live if kept is None else CachedTeacher(live, self.logits, self.together, self.open_features, kept)

    def answers(self, ids: Tensor, views: Tensor, inputs: Tensor | None = None) -> Signals:
        return self._decoded(self._stored(ids.cpu().numpy(), views.cpu().numpy(), inputs), ids.device)

    def about(self, batch: Batch) -> Signals:
        """The same, on the batch's device; a batch that was sent to a GPU is looked up by what is known of it here."""
        ids, views = batch.on_host or (batch.ids, batch.views)
        return self._decoded(self._stored(ids.cpu().numpy(), views.cpu().numpy(), batch.inputs), batch.ids.device)

    def _decoded(self, found: list[np.ndarray], device: torch.device) -> Signals:
        features = {path: memory.form.decode(found[1 + place], device) for place, (path, memory) in enumerate(self.features.items())}
        if isinstance(self.logits.form, Top):
            empty = torch.empty(len(found[0]), 0, device=device)
            return Signals(empty, features, self.logits.form.decode(found[0], device))  # type: ignore[arg-type]
        return Signals(self.logits.form.decode(found[0], device), features)  # type: ignore[arg-type]

    def _stored(self, rows: np.ndarray, views: np.ndarray, inputs: Tensor | None) -> list[np.ndarray]:
        """Stored bytes, per memory; what is missing is asked about first, also what goes missing while we ask (a deleted cache)."""
        found, known = self._read(rows, views)
        for _ in range(_ATTEMPTS):
            if known.all():
                return found
            self._ask(rows, views, np.flatnonzero(~known), inputs)
            found, known = self._read(rows, views)
        if not known.all():
            raise not_kept(int((~known).sum()), self.logits.store)
        return found

    def lacking(self, view: int, rows: np.ndarray) -> np.ndarray:
        """bool [n]: about which of these samples nobody has asked."""
        return np.logical_or.reduce([memory.store.lacks(view, rows) for memory in self.memories])

    def complete(self, view: int, rows: np.ndarray, progress: Callable[[int], None] | None = None) -> None:
        """Asks about those of these samples that are not stored yet.

        Args:
            view: which of their views.
            rows: their positions in the pool.
            progress: told after every forward pass how many of the rows are done.
        """
        waiting, done = np.empty(0, np.int64), 0
        for block in np.array_split(rows, max(1, -(-len(rows) // self.together))):
            missing = ~self._read(block, np.full(len(block), view))[1]
            done += int((~missing).sum())
            waiting = np.concatenate([waiting, block[missing]])
            while len(waiting) >= self.together:
                self._forward(waiting[: self.together], np.full(self.together, view), None)
                waiting, done = waiting[self.together :], done + self.together
            if progress is not None:
                progress(done)
        if len(waiting):
            self._forward(waiting, np.full(len(waiting), view), None)
        if progress is not None:
            progress(len(rows))

    def _read(self, rows: np.ndarray, views: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Stored bytes, per memory, and where all memories have them."""
        first = int(views[0]) if len(views) else 0
        if (views == first).all():
            both = [memory.store.read(first, rows) for memory in self.memories]
            return [values for values, _ in both], np.logical_and.reduce([known for _, known in both])
        found = [np.zeros((len(rows), memory.store.row_bytes), np.uint8) for memory in self.memories]
        known = np.ones(len(rows), bool)
        for view in np.unique(views):
            places = np.flatnonzero(views == view)
            for values, memory in zip(found, self.memories, strict=True):
                values[places], there = memory.store.read(int(view), rows[places])
                known[places] &= there
        return found, known

    def _ask(self, rows: np.ndarray, views: np.ndarray, missing: np.ndarray, inputs: Tensor | None) -> None:
        """Asks about the samples of a batch at these places, each once, in full batches."""
        _, first = np.unique(np.stack([views[missing], rows[missing]]), axis=1, return_index=True)
        places = missing[np.sort(first)]
        ahead = self._ahead(int(views[places[-1]]), -len(places) % self.together, rows[places])
        asked_rows = np.concatenate([rows[places], ahead])
        asked_views = np.concatenate([views[places], np.full(len(ahead), views[places[-1]])])
        given = None if inputs is None else inputs[torch.from_numpy(places).to(inputs.device)]
        if given is not None and len(ahead):
            more = self.live.fetch(torch.from_numpy(ahead), torch.from_numpy(asked_views[len(places) :]))
            given = torch.cat([given, more.to(given.device)])
        for start in range(0, len(asked_rows), self.together):
            part = slice(start, start + self.together)
            self._forward(asked_rows[part], asked_views[part], None if given is None else given[part])

    def _forward(self, rows: np.ndarray, views: np.ndarray, inputs: Tensor | None) -> None:
        """One forward pass of the fixed size, stored."""
        if inputs is None:
            inputs = self.live.fetch(torch.from_numpy(rows), torch.from_numpy(views))
        padding = inputs[:1].expand(self.together - len(rows), *inputs.shape[1:])
        answered = self.live.asked(torch.cat([inputs, padding]) if len(padding) else inputs, counted=len(rows))
        refuse_nan(answered.logits)
        kinds = [answered.logits, *(answered.features[path] for path in self.features)]
        for memory, answers in zip(self.memories, kinds, strict=True):
            encoded = memory.form.encode(answers[: len(rows)])
            for view in np.unique(views):
                places = np.flatnonzero(views == view)
                memory.store.write(int(view), rows[places], encoded[places])

    def _ahead(self, view: int, count: int, asked: np.ndarray) -> np.ndarray:
        """Up to so many other samples of a view that nobody has asked about; each rank looks from another place on."""
        start, offset = ranks.rank() * self.rows // ranks.world_size(), self._begun.get(view, 0)
        found, first = [np.empty(0, np.int64)], None
        while offset < self.rows and sum(map(len, found)) < count:
            block = (start + np.arange(offset, min(offset + _BLOCK, self.rows))) % self.rows
            lacking = self.lacking(view, block)
            if first is None and lacking.any():
                first = offset + int(lacking.argmax())
            lacking[lacking] = ~np.isin(block[lacking], asked)
            found.append(block[lacking])
            offset += len(block)
        self._begun[view] = offset if first is None else first
        return np.concatenate(found)[:count]
