"""What teachers say: to a student while it learns, and on the evaluation parts; asked once, then remembered on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfuse.core.preprocess import Preprocess
from transfuse.core.protocols import Teacher
from transfuse.core.types import DataSet, Model, Samples
from transfuse.data.views import BatchViews
from transfuse.engine.loader import MemoryLoader, WorkerLoader
from transfuse.engine.teacher_cache import key
from transfuse.engine.teacher_cache.store import Store
from transfuse.engine.teacher_cache.teachers import CachedTeacher, LiveTeacher, TableTeacher
from transfuse.evaluate import cost
from transfuse.evaluate.predict import predict
from transfuse.jobs.rundir import write_json
from transfuse.recipe.blocks import CacheBlock

Teachers = Callable[[MemoryLoader | WorkerLoader], Mapping[str, Teacher]]


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
        forwards: samples that it was shown so far.
    """

    name: str
    model: Model
    data: DataSet
    cache: CacheBlock
    precision: str
    device: torch.device
    forwards: int = 0
    _live: list[Teacher] = field(default_factory=list)

    def teacher(self, pool: Samples, loader: MemoryLoader | WorkerLoader, channels_last: bool) -> Teacher:
        """The teacher that answers on a training pool."""
        if self.model.table is not None:
            return TableTeacher(torch.from_numpy(table_rows(self.model, pool)), self.model.table[1])
        assert self.model.preprocess is not None
        live = LiveTeacher(self.model.network, self.model.preprocess, loader.fetch, self.device, self.precision, channels_last)
        self._live.append(live)
        views = loader.views
        if views.views is None:
            return live
        about = self._about(pool, self.model.preprocess, views=views.spec() if isinstance(views, BatchViews) else repr(views))
        return CachedTeacher(live, self._store(about, len(pool), self.cache.precision))

    def outputs(self, samples: Samples) -> Tensor:
        """float32 [n, outputs] along the exact path; NaN for samples that a table doesn't cover."""
        if self.model.table is not None:
            rows = table_rows(self.model, samples)
            answers = self.model.table[1][torch.from_numpy(rows.clip(min=0))].float()
            return torch.where(torch.from_numpy(rows >= 0)[:, None], answers, torch.nan)
        assert self.model.preprocess is not None
        store = self._store(self._about(samples, self.model.preprocess, views="exact"), len(samples), "fp32")
        everything = np.arange(len(samples))
        values, known = store.read(0, everything)
        if not known.all():
            answers = predict(self.model.network, samples, self.model.preprocess, device=self.device)
            self.forwards += len(samples)
            store.write(0, everything, answers.numpy())
            values, _ = store.read(0, everything)
        return torch.from_numpy(np.array(values))

    def asked(self) -> int:
        """Samples that the teacher was shown in this process."""
        return self.forwards + sum(live.forwards for live in self._live)

    def cost(self, threads: int) -> dict[str, Any] | None:
        """Parameters, MACs, bytes and latency; remembered, since a teacher's cost doesn't change between students."""
        if self.model.module is None:
            return None
        path = (
            Path(self.cache.dir) / "costs" / f"{key.combine({'teacher': self.hash, 'threads': threads, 'torch': torch.__version__})}.json"
        )
        with suppress(OSError, ValueError):  # absent or damaged: measured anew
            return json.loads(path.read_text(encoding="utf-8"))
        assert self.model.preprocess is not None
        network = self.model.network.to("cpu")  # where a small device would run it
        measured = cost.measure(network, self.data.train.exact([0], self.model.preprocess), threads=threads)
        network.to(self.device)
        write_json(path, measured)
        return measured

    @cached_property
    def hash(self) -> str:
        """Of the network and its outputs on fixed inputs."""
        assert self.model.preprocess is not None
        shape = tuple(self.data.train.exact([0], self.model.preprocess).shape[1:])
        return key.hash_teacher(self.model.network, shape)

    @cached_property
    def columns(self) -> int:
        """How many numbers it says per sample: the data's classes or targets, or one logit for two classes."""
        assert self.model.preprocess is not None
        with torch.no_grad():
            return self.model.network.eval()(self.data.train.exact([0], self.model.preprocess).to(self.device)).shape[-1]

    def _about(self, samples: Samples, preprocess: Preprocess, views: object) -> dict[str, Any]:
        return {
            "teacher": self.hash,
            "source": self.model.source,
            "data": samples.fingerprint,
            "preprocess": preprocess.to_dict(),
            "views": views,
            "precision": self.precision if views != "exact" else "fp32",
        }

    def _store(self, about: dict[str, Any], rows: int, precision: str) -> Store:
        named = {name: value for name, value in about.items() if name != "source"}  # the same weights by another path are the same teacher
        identity = key.combine({**named, "stored": precision})
        return Store(Path(self.cache.dir), identity, rows, self.columns, precision, self.cache.max_bytes, about)


def table_rows(model: Model, samples: Samples) -> np.ndarray:
    """int64 [n]: each sample's row in a table of predictions, -1 where it has none."""
    assert model.table is not None
    ids = model.table[0]
    rows = {str(name): row for row, name in enumerate(ids.tolist())}
    return np.array([rows.get(str(name), -1) for name in samples.ids.tolist()], dtype=np.int64)


def teachers_on(oracles: Mapping[str, Oracle], pool: Samples, channels_last: bool) -> Teachers:
    """A function from a loader to the teachers by name, as `Lesson` wants it."""

    def build(loader: MemoryLoader | WorkerLoader) -> dict[str, Teacher]:
        return {name: oracle.teacher(pool, loader, channels_last) for name, oracle in oracles.items()}

    return build
