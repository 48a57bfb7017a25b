"""What teachers say: to a student while it learns, and on the evaluation parts; asked once, then remembered on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfuse.core.preprocess import Preprocess
from transfuse.core.protocols import Teacher, Views
from transfuse.core.types import DataSet, Model, Samples, Signals
from transfuse.data import samples as pools
from transfuse.data.views import BatchViews
from transfuse.engine.loader import MemoryLoader, Openers, WorkerLoader
from transfuse.engine.teacher_cache import key
from transfuse.engine.teacher_cache.cached import CachedTeacher, Memory, Shapes, asked_together, not_kept
from transfuse.engine.teacher_cache.forms import Dense, Top
from transfuse.engine.teacher_cache.room import Room, in_words, unheard
from transfuse.engine.teacher_cache.store import FORMAT, Store
from transfuse.engine.teacher_cache.teachers import LiveTeacher, TableTeacher
from transfuse.errors import RunError
from transfuse.evaluate import cost
from transfuse.evaluate.predict import predict
from transfuse.jobs.rundir import write_json
from transfuse.recipe.blocks import CacheBlock

CHECKSUM_BYTES = 4  # per row
ASKED_AT_ONCE = 1024  # samples whose answers along the exact path are in memory twice; a multiple of the batch in which they are asked


@dataclass
class Oracle:
    """One teacher of a job, in all the roles that it has there.

    Attributes:
        name: in the recipe.
        model: aligned with the data.
        data: what is asked about.
        cache: the recipe's block, resolved.
        precision: of its forward pass while a student learns.
        device: where it runs.
        say: told what was decided about its features.
        forwards: samples that it was shown so far.
    """

    name: str
    model: Model
    data: DataSet
    cache: CacheBlock
    precision: str
    device: torch.device
    say: Callable[[str], None] = unheard
    forwards: int = 0

    def teacher(self, pool: Samples, channels_last: bool, loader: MemoryLoader | WorkerLoader, kept: bool = True) -> Teacher:
        """The teacher that answers on a training pool; live where its answers are not kept."""
        if self.model.table is not None:
            return TableTeacher(torch.from_numpy(table_rows(self.model, pool)), self.model.table[1])
        assert self.model.preprocess is not None
        live = _Told(self.model.network, self.model.preprocess, loader.fetch, self.device, self.precision, channels_last)
        live.oracle = self
        views = loader.views
        if views.views is None or not kept:
            return live
        together = asked_together(self._input_shape, len(pool))
        about = self._about_views(pool, views)

        def open_features(shapes: Shapes) -> Mapping[str, Memory] | None:
            kept = self._kept(shapes, about, len(pool), views)
            return None if kept is None else {path: self._memory(named, len(pool), form) for path, (named, form) in kept.items()}

        return CachedTeacher(live, self._memory(about, len(pool), form_of(self.cache, self.columns)), together, open_features)

    def outputs(self, samples: Samples) -> Tensor:
        """float32 [n, outputs] along the exact path; NaN for samples that a table doesn't cover.

        Answers go through memory in parts, so that a large head needs no more of it than the result.
        """
        if self.model.table is not None:
            return table_outputs(self.model, samples)
        about, form = self._exact(samples)
        memory = self._memory(about, len(samples), form)
        found = torch.empty(len(samples), self.columns)
        for start in range(0, len(samples), ASKED_AT_ONCE):
            rows = np.arange(start, min(start + ASKED_AT_ONCE, len(samples)))
            values, known = memory.store.read(0, rows)
            if not known.all():
                self._ask(samples, rows[~known], memory)
                values, known = memory.store.read(0, rows)
            if not known.all():
                raise not_kept(int((~known).sum()), memory.store)
            found[start : start + len(rows)] = form.decode(values)
        return found

    def _ask(self, samples: Samples, rows: np.ndarray, memory: Memory) -> None:
        """Asks about these samples along the exact path and stores what is said."""
        assert self.model.preprocess is not None
        answers = predict(self.model.network, pools.subset(samples, rows), self.model.preprocess, device=self.device)
        self.forwards += len(rows)
        memory.store.write(0, rows, memory.form.encode(answers))

    def _exact(self, samples: Samples) -> tuple[dict[str, Any], Dense]:
        """What answers along the exact path are kept under, and how: whole and in fp32, since figures are computed from them."""
        assert self.model.preprocess is not None
        return self._about(samples, self.model.preprocess, "exact", "fp32"), Dense((self.columns,), "fp32")

    def is_complete(self, pool: Samples, views: Views, paths: Sequence[str] = ()) -> bool:
        """Whether the cache holds all answers about the pool in all views: logits, and features at these paths if they are kept there.

        Writes nothing.
        """
        if self.model.table is not None:
            return True
        about = self._about_views(pool, views)
        keys = [self._key(about, form_of(self.cache, self.columns))]
        if paths:
            assert self.model.preprocess is not None
            live = LiveTeacher(
                self.model.network, self.model.preprocess, lambda ids, shown: views.apply(pool.raw(ids), ids, shown), self.device
            )
            shapes = live.tapping(paths).feature_shapes()
            kept = None if shapes is None else self._kept(shapes, about, len(pool), views)
            keys += [self._key(*one) for one in (kept or {}).values()]
        return all(self._holds(key, view, len(pool)) for key in keys for view in range(views.views or 0))

    def knows(self, samples: Samples) -> bool:
        """Whether the cache holds all answers about these samples along the exact path. Writes nothing."""
        return self.model.table is not None or self._holds(self._key(*self._exact(samples)), 0, len(samples))

    def _holds(self, key: str, view: int, rows: int) -> bool:
        try:
            return not Store.of(Room(self.cache.dir).folder / key).lacks(view, np.arange(rows)).any()
        except RunError:  # no such key
            return False

    def asked(self) -> int:
        """Samples that the teacher was shown in this process."""
        return self.forwards

    def cost(self, threads: int) -> dict[str, Any] | None:
        """Parameters, MACs, bytes and latency; remembered, since a teacher's cost doesn't change between students."""
        if self.model.module is None:
            return None
        about = {"teacher": self.hash, "threads": threads, "torch": torch.__version__, "format": cost.FORMAT}
        path = Path(self.cache.dir) / "costs" / f"{key.combine(about)}.json"
        with suppress(OSError, ValueError):  # absent or damaged: measured anew
            return json.loads(path.read_text(encoding="utf-8"))
        assert self.model.preprocess is not None
        network = self.model.network.to("cpu")  # where a small device would run it
        measured = cost.measure(network, self.data.train.exact([0], self.model.preprocess), threads=threads)
        network.to(self.device)
        try:
            write_json(path, measured)
        except RunError as error:  # costs the next run a measurement, this one nothing
            self.say(f"teacher '{self.name}': its cost figures can't be kept in {path.parent}: {error.what}")
        return measured

    @cached_property
    def hash(self) -> str:
        """Of the network and its outputs on fixed inputs."""
        return key.hash_teacher(self.model.network, self._input_shape)

    @cached_property
    def _input_shape(self) -> tuple[int, ...]:
        assert self.model.preprocess is not None
        return tuple(self.data.train.exact([0], self.model.preprocess).shape[1:])

    @cached_property
    def columns(self) -> int:
        """How many numbers it says per sample: the data's classes or targets, or one logit for two classes."""
        assert self.model.preprocess is not None
        with torch.no_grad():
            return self.model.network.eval()(self.data.train.exact([0], self.model.preprocess).to(self.device)).shape[-1]

    def _about(self, samples: Samples, preprocess: Preprocess, views: object, precision: str) -> dict[str, Any]:
        return {
            "teacher": self.hash,
            "source": self.model.source,
            "data": samples.fingerprint,
            "data_source": self.data.source,
            "preprocess": preprocess.to_dict(),
            "views": views,
            "precision": precision,
        }

    def _about_views(self, pool: Samples, views: Views) -> dict[str, Any]:
        """The same for a training pool's views."""
        assert self.model.preprocess is not None
        spec = views.spec() if isinstance(views, BatchViews) else repr(views)
        together = asked_together(self._input_shape, len(pool))
        return {**self._about(pool, self.model.preprocess, spec, self.precision), "asked_together": together}

    def _memory(self, about: dict[str, Any], rows: int, form: Dense | Top) -> Memory:
        room = Room(self.cache.dir, self.cache.max_bytes, self.say)
        return Memory(Store(room, self._key(about, form), rows, form.bytes, {**about, "answers": form.describe()}), form)

    def _key(self, about: Mapping[str, Any], form: Dense | Top) -> str:
        named = {name: value for name, value in about.items() if name not in ("source", "data_source")}  # the same by another name
        return key.combine({**named, "answers": form.describe(), "format": FORMAT})

    def _kept(self, shapes: Shapes, about: Mapping[str, Any], rows: int, views: Views) -> dict[str, tuple[dict[str, Any], Dense]] | None:
        """Tapped features by path, what each is kept under, and how; None where they are not to be kept."""
        forms = {path: Dense(shape, self.cache.precision) for path, shape in shapes.items()}
        if not self._fits(forms, form_of(self.cache, self.columns), rows * (views.views or 1)):
            return None
        return {path: ({**about, "feature": path}, form) for path, form in forms.items()}

    def _fits(self, features: Mapping[str, Dense], logits: Dense | Top, rows: int) -> bool:
        """Whether these features of so many samples and views are to be kept; says so."""
        size = rows * (sum(form.bytes + CHECKSUM_BYTES for form in features.values()))
        names = f"teacher '{self.name}': its features {', '.join(features)} of all views take {in_words(size)}"
        if size > self.cache.features:
            self.say(f"{names}, more than cache.features ({in_words(self.cache.features)}): it is asked live in every step")
            return False
        if size + rows * (logits.bytes + CHECKSUM_BYTES) > self.cache.max_bytes:
            self.say(f"{names}, more than cache.max_bytes leaves: it is asked live in every step")
            return False
        self.say(f"{names} and are remembered")
        return True


class _Told(LiveTeacher):
    """A live teacher that counts for its oracle, which therefore needn't keep it.

    Each stage of a training has a teacher of its own, and with it goes the loader that it fetches from, which may hold the whole pool.
    """

    oracle: Oracle

    def asked(self, raw: Tensor, counted: int) -> Signals:
        self.oracle.forwards += counted
        return super().asked(raw, counted)


def form_of(cache: CacheBlock, columns: int) -> Dense | Top:
    """How so many logits per sample are stored."""
    if isinstance(cache.top_k, int):
        return Top(cache.top_k, columns, cache.temperatures or [1.0], cache.precision)
    return Dense((columns,), cache.precision)


def table_rows(model: Model, samples: Samples) -> np.ndarray:
    """int64 [n]: each sample's row in a table of predictions, -1 where it has none."""
    assert model.table is not None
    ids = model.table[0]
    rows = {str(name): row for row, name in enumerate(ids.tolist())}
    return np.array([rows.get(str(name), -1) for name in samples.ids.tolist()], dtype=np.int64)


def table_outputs(model: Model, samples: Samples) -> Tensor:
    """float32 [n, outputs]: what a table of predictions says about the samples; NaN where it says nothing."""
    assert model.table is not None
    rows = table_rows(model, samples)
    answers = model.table[1][torch.from_numpy(rows.clip(min=0))].float()
    return torch.where(torch.from_numpy(rows >= 0)[:, None], answers, torch.nan)


def teachers_on(oracles: Mapping[str, Oracle], pool: Samples, channels_last: bool, unkept: Collection[str] = ()) -> Openers:
    """The teachers as `Lesson` wants them; of those in `unkept` nothing is stored."""
    return {name: partial(oracle.teacher, pool, channels_last, kept=name not in unkept) for name, oracle in oracles.items()}
