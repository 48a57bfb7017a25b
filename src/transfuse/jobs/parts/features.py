"""A frozen network's features: computed once per sample and view, then read from the store that remembers teachers' answers."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse import models
from transfuse.core import seeds
from transfuse.core.heads import read_ending
from transfuse.core.last_layers import END_IN_ONE
from transfuse.core.protocols import Views
from transfuse.core.tapped import Tapped
from transfuse.core.types import DataSet, Model, ModelRequest, Progress, Samples
from transfuse.data import samples as pools
from transfuse.data.views import BatchViews
from transfuse.engine.loader import MemoryLoader, WorkerLoader, build_loader
from transfuse.engine.order import Order
from transfuse.engine.teacher_cache import key
from transfuse.engine.teacher_cache.cached import CachedTeacher, Memory, asked_together
from transfuse.engine.teacher_cache.forms import Dense
from transfuse.engine.teacher_cache.room import Room
from transfuse.engine.teacher_cache.store import FORMAT, Store
from transfuse.engine.teacher_cache.teachers import LiveTeacher
from transfuse.errors import ModelError
from transfuse.jobs.context import Context
from transfuse.jobs.parts import learner
from transfuse.jobs.parts.networks import answer_of, preprocess_of, request_for
from transfuse.models.classes import SelectedOutputs
from transfuse.recipe.blocks import CacheBlock, ModelBlock

READ_TOGETHER = 1024  # rows


def open_backbone(block: ModelBlock, data: DataSet, seed: int, live: nn.Module | None) -> Model:
    """A pretrained network as it was trained, whatever its outputs mean.

    Raises:
        ModelError: unknown, a table of predictions, without trained weights, or one that can't take the data's inputs.
    """
    if live is not None:
        model = models.open_model(copy.deepcopy(live), ModelRequest())
    else:
        request = request_for(block, data, seeds.derive(seed, "init", "model"), fresh=False)
        if block.source.startswith("builtin:"):
            request.outputs = data.outputs
        model = learner.opened(block.source, request, "model")
    if model.table is not None:
        raise ModelError(f"{model.source} is a table: it has no features", "model", fix="name a network")
    if not model.pretrained:
        fix = "give a source with weights (file:, run:, torchvision:NAME@WEIGHTS, timm: with a tag)"
        raise ModelError(f"{model.source} has no trained weights: its features say nothing that was learnt", "model", fix=fix)
    model.preprocess = preprocess_of(block, model, data)
    output = answer_of(model, data, "model")
    if model.architecture is None:
        learner.answer_with_logits(model, output)
    if isinstance(model.network, SelectedOutputs):
        model.module = model.network.network
    return model


def feature_paths(model: Model, wanted: tuple[str, ...], example: Tensor) -> tuple[str, ...]:
    """The taps that are read: those that are wanted, else what the last layer is given.

    Raises:
        ModelError: a path that isn't there, features that have no row per sample, or no last layer in whose place a head could stand.
    """
    try:
        ending = read_ending(model.network, example)
    except ModelError as error:
        raise ModelError(error.what, "model", error.fix) from error
    if not ending.plain:
        what = f"what follows '{ending.path}', the last layer of {model.source}, changes its outputs, so no other head can stand there"
        raise ModelError(what, "model", fix=END_IN_ONE)
    paths = wanted or (f"{ending.path}@input",)
    try:
        with torch.no_grad():
            made = Tapped(model.network.eval(), paths)(torch.cat([example, example]))
    except ModelError as error:
        raise ModelError(error.what, "taps", error.fix or "name the features: taps=PATH (transfuse taps MODEL)") from error
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        what = f"the features of {model.source} at {', '.join(paths)} can't be put side by side: {str(error).splitlines()[0]}"
        raise ModelError(what, "taps", fix="name another module (transfuse taps MODEL prints all)") from error
    if len(made) != 2 or not bool(made.isfinite().all()):
        what = f"the features of {model.source} at {', '.join(paths)} " + ("are not finite" if len(made) == 2 else "have no row per sample")
        raise ModelError(what, "taps", fix="name another module (transfuse taps MODEL prints all)")
    return paths


def feature_width(model: Model, paths: tuple[str, ...], example: Tensor) -> int:
    """Numbers per sample."""
    with torch.no_grad():
        return Tapped(model.network.eval(), paths)(example).shape[1]


@dataclass
class Extractor:
    """One network's features, kept on disk.

    Attributes:
        context: the job.
        model: frozen.
        paths: of the features.
        cache: the recipe's block, resolved.
        name: what progress is shown under.
        computed: samples and views that the network was shown by this process.
        seconds: spent on features, computed or read.
    """

    context: Context
    model: Model
    paths: tuple[str, ...]
    cache: CacheBlock
    name: str = "features"
    computed: int = 0
    seconds: float = 0.0
    _hash: list[str] = field(default_factory=list)

    def exact(self, samples: Samples) -> np.ndarray:
        """float32 [n, width] along the network's exact evaluation path."""
        preprocess = self.model.preprocess
        assert preprocess is not None
        return self._features(samples, lambda ids, _views: samples.exact(ids, preprocess), "exact", 1, prepared=True)[0]

    def views(self, samples: Samples, views: Views, loader: str, classes: int | None) -> list[np.ndarray]:
        """The same of every augmented view, in order; a view depends on a sample's place in `samples`."""
        order = Order(len(samples), 1, 0)
        fetching: MemoryLoader | WorkerLoader = build_loader(samples, views, order, self.context.device, loader, 0, classes)
        spec = views.spec() if isinstance(views, BatchViews) else repr(views)
        return self._features(samples, fetching.fetch, spec, views.views or 1, prepared=False)

    def _features(
        self, samples: Samples, fetch: Callable[[Tensor, Tensor], Tensor], spec: Any, count: int, prepared: bool
    ) -> list[np.ndarray]:
        began = time.monotonic()
        preprocess = self.model.preprocess
        assert preprocess is not None
        network = Tapped(self.model.network, self.paths).eval()
        example = samples.exact([0], preprocess)
        live = LiveTeacher(network, _unchanged if prepared else preprocess, fetch, self.context.device)
        with torch.no_grad():
            width = network(example.to(self.context.device)).shape[1]
        together = asked_together(tuple(example.shape[1:]), len(samples))
        about = {
            "teacher": self._network_hash(network, tuple(example.shape[1:])),
            "source": self.model.source,
            "data": samples.fingerprint,
            "preprocess": preprocess.to_dict(),
            "views": spec,
            "precision": "fp32",
            "asked_together": together,
            "features": list(self.paths),
        }
        teacher = CachedTeacher(live, self._memory(about, len(samples), Dense((width,), "fp32")), together)
        found = [self._view(teacher, view, len(samples), count) for view in range(count)]
        self.computed += live.forwards
        self.seconds += time.monotonic() - began
        return found

    def _view(self, teacher: CachedTeacher, view: int, rows: int, count: int) -> np.ndarray:
        def tell(done: int) -> None:
            self.context.listen(Progress(self.name, view * rows + done, count * rows, view + done / rows))

        everything = np.arange(rows)
        if teacher.logits.store.lacks(view, everything).any():
            teacher.complete(view, everything, tell)
        parts = []
        for part in np.array_split(everything, max(1, -(-rows // READ_TOGETHER))):
            ids = torch.from_numpy(part)
            parts.append(teacher.answers(ids, torch.full_like(ids, view)).logits)
        return torch.cat(parts).numpy()

    def _memory(self, about: dict[str, Any], rows: int, form: Dense) -> Memory:
        about = {**about, "answers": form.describe()}
        named = {name: value for name, value in about.items() if name != "source"}  # the same network by another name
        room = Room(self.cache.dir, self.cache.max_bytes, self.context.say)
        return Memory(Store(room, key.combine({**named, "format": FORMAT}), rows, form.bytes, about), form)

    def _network_hash(self, network: nn.Module, shape: tuple[int, ...]) -> str:
        if not self._hash:
            self._hash.append(key.hash_teacher(network, shape))
        return self._hash[0]


def _unchanged(inputs: Tensor) -> Tensor:
    """For inputs that are prepared already."""
    return inputs


@dataclass
class TrainingRows:
    """What a head is fitted to: one row per training sample, and one per view of it where there are some.

    Attributes:
        features: float32 [rows, width]; all samples as they are, then all in their first view, and so on.
        labels: of the rows, as the network is to predict them: regression in standard deviations.
        sample: int64 [rows], the row's place in the training part.
        plain: bool [rows], the samples as they are: what a held-out fold is judged on.
    """

    features: np.ndarray
    labels: np.ndarray
    sample: np.ndarray
    plain: np.ndarray


def ordered_pool(data: DataSet, folded: bool) -> tuple[Samples, np.ndarray]:
    """The samples whose features are kept together, by id, and where in them each training sample is.

    In a run on one fold the samples that are held out are among them, so that the runs on all folds, and the one on all samples, share
    their features.
    """
    pool = pools.concat(data.train, data.test) if folded else data.train
    names = pool.ids.astype(str)
    order = np.argsort(names, kind="stable")
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return pools.subset(pool, order), places[: len(data.train)]


def training_rows(extractor: Extractor, data: DataSet, folded: bool, views: Views | None, loader: str) -> TrainingRows:
    """Features and labels of the training part.

    Args:
        extractor: of the network.
        data: opened.
        folded: whether the run is one of several on folds.
        views: augmentation; None: samples as they are, along the exact path, and nothing else.
        loader: memory or workers.
    """
    pool, places = ordered_pool(data, folded)
    found = [extractor.exact(pool)]
    if views is not None:
        found += extractor.views(pool, views, loader, len(data.classes) or None)
    labels = data.train.labels.numpy()
    if data.target is not None:
        labels = ((labels - np.array(data.target.mean)) / np.array(data.target.std)).astype(np.float32)
    count = len(found)
    features = np.concatenate([view[places] for view in found])
    plain = np.arange(len(features)) < len(places)
    return TrainingRows(features, np.concatenate([labels] * count), np.tile(np.arange(len(places)), count), plain)
