"""Getting batches: from memory on the device, or decoded by worker processes. Same interface, same batches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transfuse.core.protocols import Views
from transfuse.core.types import Batch, Samples, float_labels
from transfuse.engine.order import Order


def is_labelled(labels: Tensor) -> Tensor:
    """bool [n]: a class number of at least 0, or no NaN among the values."""
    if float_labels(labels):
        return ~labels.isnan().reshape(len(labels), -1).any(1)
    return labels >= 0


def in_second_view(loader: MemoryLoader | WorkerLoader, batch: Batch) -> Batch:
    """The same samples in the view after theirs."""
    count = loader.views.views
    views = batch.views + 1 if count is None else (batch.views + 1) % count
    return replace(batch, inputs=loader.fetch(batch.ids, views), views=views)


class MemoryLoader:
    """Holds the whole raw pool on the device; views are made there, on whole batches.

    Args:
        samples: the training pool.
        views: the augmentation.
        order: which samples each step sees.
        device: where everything happens.
    """

    def __init__(self, samples: Samples, views: Views, order: Order, device: torch.device | str = "cpu"):
        self.samples, self.views, self.order, self.device = samples, views, order, torch.device(device)
        self._raw = samples.raw(torch.arange(len(samples))).to(self.device)
        self._labels = samples.labels.to(self.device)
        self._labelled = is_labelled(self._labels)

    def fetch(self, ids: Tensor, views: Tensor) -> Tensor:
        """Raw views of given samples."""
        ids = ids.to(self.device)
        return self.views.apply(self._raw[ids], ids, views.to(self.device))

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start .. stop - 1."""
        for step in range(start, stop):
            ids, epochs = self.order.batch(step)
            ids, views = ids.to(self.device), self.views.view_of_epoch(epochs).to(self.device)
            domains = self.order.domains(ids)
            yield Batch(self.fetch(ids, views), ids, views, self._labels[ids], self._labelled[ids], domains=domains)


class _Fetch(Dataset):
    """What a worker does: one whole batch of raw samples per request."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.samples.raw(index)


class _Requests:
    def __init__(self, order: Order, start: int, stop: int):
        self.order, self.start, self.stop = order, start, stop

    def __iter__(self) -> Iterator[Tensor]:
        return (self.order.batch(step)[0] for step in range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


class WorkerLoader:
    """Decodes raw samples in worker processes, a few batches ahead; views are still made on whole batches on the device.

    Args:
        samples: the training pool; pickled into each worker, so it should hold paths, not pictures.
        views: the augmentation.
        order: which samples each step sees.
        device: where views and labels go.
        workers: number of processes; 0 decodes in this one.
    """

    def __init__(self, samples: Samples, views: Views, order: Order, device: torch.device | str = "cpu", workers: int = 0):
        self.samples, self.views, self.order, self.workers = samples, views, order, workers
        self.device = torch.device(device)
        self._labelled = is_labelled(samples.labels)

    def fetch(self, ids: Tensor, views: Tensor) -> Tensor:
        """Raw views of given samples."""
        raw = self.samples.raw(ids.cpu()).to(self.device)
        return self.views.apply(raw, ids.to(self.device), views.to(self.device))

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start .. stop - 1."""
        requests = _Requests(self.order, start, stop)
        raws = DataLoader(_Fetch(self.samples), batch_size=None, sampler=requests, num_workers=self.workers)  # type: ignore[arg-type]
        for step, raw in zip(range(start, stop), raws, strict=True):
            ids, epochs = self.order.batch(step)
            views = self.views.view_of_epoch(epochs).to(self.device)
            labels, labelled = self.samples.labels[ids].to(self.device), self._labelled[ids].to(self.device)
            ids = ids.to(self.device)
            inputs = self.views.apply(raw.to(self.device, non_blocking=True), ids, views)
            yield Batch(inputs, ids, views, labels, labelled, domains=self.order.domains(ids))


def build_loader(
    samples: Samples, views: Views, order: Order, device: torch.device | str, kind: str, workers: int = 0
) -> MemoryLoader | WorkerLoader:
    """The loader that the resolved recipe names: "memory" or "workers"."""
    if kind == "memory":
        return MemoryLoader(samples, views, order, device)
    return WorkerLoader(samples, views, order, device, workers)


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
