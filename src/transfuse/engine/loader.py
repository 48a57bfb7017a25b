"""Getting batches: from memory on the device, or decoded by worker processes. Same interface, same batches."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transfuse.core.devices import sent
from transfuse.core.protocols import Mixture, Teacher, Views
from transfuse.core.types import Batch, Samples, float_labels
from transfuse.engine.order import Order

Openers = Mapping[str, Callable[["MemoryLoader | WorkerLoader"], Teacher]]
"""Teachers by name; each is opened for what a loader shows."""


def is_labelled(labels: Tensor) -> Tensor:
    """bool [n]: a class number of at least 0, or no NaN among the values."""
    if float_labels(labels):
        return ~labels.isnan().reshape(len(labels), -1).any(1)
    return labels >= 0


def through_second_views(loader: MemoryLoader | WorkerLoader) -> MemoryLoader | WorkerLoader | None:
    """The same samples through the second view's own changes; None where it has none."""
    if loader.views.second is None:
        return None
    other = copy.copy(loader)  # shares the samples, which may fill the memory
    other.views = loader.views.second
    return other


def in_second_view(loader: MemoryLoader | WorkerLoader, batch: Batch) -> Batch:
    """The same samples in their second view, with its labels, which differ where views mix.

    That is the view of the same number by the second view's own changes; where it has none, the first one's next view.
    """
    own, count = through_second_views(loader), loader.views.views
    ids, views = batch.on_host or (batch.ids, batch.views)
    if own is not None:
        return replace(own.batch(ids, views), domains=batch.domains)
    views = views + 1 if count is None else (views + 1) % count
    return replace(loader.batch(ids, views), domains=batch.domains)


@dataclass(frozen=True)
class SecondView:
    """The same samples once more, for objectives that compare two views of each.

    Attributes:
        loader: of the first views.
        teachers: by name, given a loader, who answers about what it shows; asked where the second view has changes of its own, whose
            answers are not those about the first.
    """

    loader: MemoryLoader | WorkerLoader
    teachers: Openers = field(default_factory=dict)

    def __call__(self, batch: Batch) -> Batch:
        return in_second_view(self.loader, batch)

    def own_teachers(self, names: Collection[str]) -> dict[str, Teacher] | None:
        """These teachers for second views with changes of their own; None where those for the first answer about them, too.

        No other one is opened: that makes its key in the cache, which may be read-only and was filled without it.
        """
        own = through_second_views(self.loader)
        return None if own is None else {name: self.teachers[name](own) for name in names}


class _PoolLoader(ABC):
    """What both loaders share: views, mixtures and labels of given samples, once their raw inputs are there.

    Args:
        samples: the training pool.
        views: the augmentation.
        order: which samples each step sees.
        device: where views and labels are.
        classes: how many there are; needed where views mix class numbers.
    """

    def __init__(self, samples: Samples, views: Views, order: Order, device: torch.device | str, classes: int | None):
        self.samples, self.views, self.order, self.device, self.classes = samples, views, order, torch.device(device), classes
        self._labels = samples.labels.to(self.device)
        self._labelled = is_labelled(self._labels)

    @abstractmethod
    def _raw_of(self, ids: Tensor) -> Tensor:
        """Raw inputs of samples, on the device."""

    def _decoded(self, ids: Tensor, views: Tensor) -> Tensor | None:
        """Raw inputs that are not on the device, found by places that are known on the host; None where they are looked up there."""
        return None

    def fetch(self, ids: Tensor, views: Tensor) -> Tensor:
        """Raw views of given samples."""
        raw = self._decoded(ids, views)
        return self._seen(sent(ids, self.device), sent(views, self.device), raw)[0]

    def batch(self, ids: Tensor, views: Tensor, raw: Tensor | None = None) -> Batch:
        """Given samples in given views; `raw` saves fetching them (those of `wanted`)."""
        raw = self._decoded(ids, views) if raw is None else raw
        on_host = (ids, views) if ids.device.type == "cpu" and self.device.type != "cpu" else None
        domains = self.order.domains(ids)
        domains = None if domains is None else sent(domains, self.device)
        ids, views = sent(ids, self.device), sent(views, self.device)
        inputs, mixture, share = self._seen(ids, views, raw)
        labels, labelled, probabilities = self._labels[ids], self._labelled[ids], None
        if mixture is not None and share is not None:
            partners = mixture.partners
            labelled = labelled & (self._labelled[partners] | (share == 1))
            if float_labels(labels):
                labels = mixed_values(labels, self._labels[partners], share)
            else:
                probabilities = mixed_classes(labels, self._labels[partners], share, self.classes)
        return Batch(inputs, ids, views, labels, labelled, probabilities, domains, on_host)

    def wanted(self, ids: Tensor, views: Tensor) -> Tensor:
        """The samples whose raw inputs a batch takes: its own, then the partners of those."""
        mixture = self.views.mixture(ids, views, len(self.samples))
        return ids if mixture is None else torch.cat([ids, mixture.partners])

    def _seen(self, ids: Tensor, views: Tensor, raw: Tensor | None = None) -> tuple[Tensor, Mixture | None, Tensor | None]:
        mixture = self.views.mixture(ids, views, len(self.samples))
        if mixture is None:
            return self.views.apply(self._raw_of(ids) if raw is None else raw, ids, views), None, None
        both = torch.cat([ids, mixture.partners])
        own, partners = self.views.apply(self._raw_of(both) if raw is None else raw, both, views.repeat(2)).chunk(2)
        inputs, share = mixture.blend(own, partners)
        return inputs, mixture, share


def mixed_classes(labels: Tensor, partners: Tensor, share: Tensor, classes: int | None) -> Tensor:
    """float32 [batch, classes]: `share` of each sample's class and the rest of its partner's; no probability for an unknown class.

    Raises:
        ValueError: nobody said how many classes there are.
    """
    if classes is None:
        raise ValueError("views that mix class numbers need the number of classes")
    probabilities = torch.zeros(len(labels), classes, device=labels.device)
    for numbers, part in ((labels, share), (partners, 1 - share)):
        probabilities.scatter_add_(1, numbers.clamp(min=0)[:, None], torch.where(numbers >= 0, part, 0.0)[:, None])
    return probabilities


def mixed_values(labels: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """Multi-hot labels and regression targets: the same mean as of the inputs; unknown (NaN) where either is."""
    share = share.to(labels.dtype).view(-1, *[1] * (labels.ndim - 1))
    return torch.where(share == 1, labels, share * labels + (1 - share) * partners)


class MemoryLoader(_PoolLoader):
    """Holds the whole raw pool on the device; views are made there, on whole batches.

    Args:
        samples: the training pool.
        views: the augmentation.
        order: which samples each step sees.
        device: where everything happens.
        classes: how many there are; needed where views mix class numbers.
    """

    def __init__(self, samples: Samples, views: Views, order: Order, device: torch.device | str = "cpu", classes: int | None = None):
        super().__init__(samples, views, order, device, classes)
        self._raw = samples.raw(torch.arange(len(samples))).to(self.device)

    def _raw_of(self, ids: Tensor) -> Tensor:
        return self._raw[ids]

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start .. stop - 1."""
        for step in range(start, stop):
            ids, epochs = self.order.batch(step)
            yield self.batch(ids, self.views.view_of_epoch(epochs))


class _Fetch(Dataset):
    """What a worker does: one whole batch of raw samples per request."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.samples.raw(index).contiguous()  # what repeats a value in memory can't be pinned


class _Requests:
    def __init__(self, loader: WorkerLoader, start: int, stop: int):
        self.loader, self.start, self.stop = loader, start, stop

    def __iter__(self) -> Iterator[Tensor]:
        for step in range(self.start, self.stop):
            ids, epochs = self.loader.order.batch(step)
            yield self.loader.wanted(ids, self.loader.views.view_of_epoch(epochs))

    def __len__(self) -> int:
        return self.stop - self.start


class WorkerLoader(_PoolLoader):
    """Decodes raw samples in worker processes, a few batches ahead; views are still made on whole batches on the device.

    Args:
        samples: the training pool; pickled into each worker, so it should hold paths, not pictures.
        views: the augmentation.
        order: which samples each step sees.
        device: where views and labels go.
        workers: number of processes; 0 decodes in this one.
        classes: how many there are; needed where views mix class numbers.
    """

    def __init__(
        self,
        samples: Samples,
        views: Views,
        order: Order,
        device: torch.device | str = "cpu",
        workers: int = 0,
        classes: int | None = None,
    ):
        super().__init__(samples, views, order, device, classes)
        self.workers = workers

    def _decoded(self, ids: Tensor, views: Tensor) -> Tensor | None:
        return self._raw_of(self.wanted(ids, views)) if ids.device.type == "cpu" else None

    def _raw_of(self, ids: Tensor) -> Tensor:
        return sent(self.samples.raw(ids.cpu()), self.device)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start .. stop - 1."""
        requests = _Requests(self, start, stop)
        pinned = self.device.type == "cuda"
        raws = DataLoader(_Fetch(self.samples), batch_size=None, sampler=requests, num_workers=self.workers, pin_memory=pinned)
        for step, raw in zip(range(start, stop), raws, strict=True):
            ids, epochs = self.order.batch(step)
            yield self.batch(ids, self.views.view_of_epoch(epochs), raw.to(self.device, non_blocking=True))


def build_loader(
    samples: Samples,
    views: Views,
    order: Order,
    device: torch.device | str,
    kind: str,
    workers: int = 0,
    classes: int | None = None,
) -> MemoryLoader | WorkerLoader:
    """The loader that the resolved recipe names: "memory" or "workers"."""
    if kind == "memory":
        return MemoryLoader(samples, views, order, device, classes)
    return WorkerLoader(samples, views, order, device, workers, classes)


def free_memory_bytes() -> int:
    """Memory that can be taken without swapping, as the kernel estimates it; physical memory where it doesn't say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
