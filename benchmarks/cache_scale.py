"""A teacher cache of 10 GB: filled from forward passes, read in shuffled order, with memory measured, and steps with a cold page cache.

    python -m benchmarks.cache_scale --folder DIR [--gigabytes 10]      DIR needs so much room; it is deleted at the end

A small convolutional network with 4,096 outputs answers on the 10,000 CIFAR-10 training pictures in as many views as fill the size (fp16,
8 KiB per answer, dense). Every phase is a process of its own, so that its anonymous memory (RssAnon, which the kernel can't take back, in
contrast to pages of mapped files) is its own. A phase that is interrupted is gone on with by the same command. Cold means that the
kernel was told to forget the files' pages, which is looked up page by page.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import data, results
from transfuse import objectives
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import DataRequest, ModelRequest, Samples, Signals, WeightedObjective
from transfuse.data import open_data
from transfuse.data.views import BatchViews
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.order import Order
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.teacher_cache.cached import CachedTeacher, Memory
from transfuse.engine.teacher_cache.forms import Dense
from transfuse.engine.teacher_cache.listing import entries
from transfuse.engine.teacher_cache.room import Room
from transfuse.engine.teacher_cache.store import Store
from transfuse.engine.teacher_cache.teachers import LiveTeacher
from transfuse.models import open_model

CLASSES, BATCH, STEPS, BLOCKS = 4096, 128, 20, 5
PREPROCESS = Preprocess(scale=1 / 255, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))


def network() -> nn.Module:
    """A cheap one with many outputs."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 32, 4, stride=4)
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, CLASSES)).eval()


def pictures(folder: Path) -> Samples:
    """10,000 of CIFAR-10."""
    return open_data(f"arrays:{data.write_arrays('cifar10', folder / 'cifar10.npz')}", DataRequest(val=0.001)).train


def opened(folder: Path, views: int, seed: int = 0) -> tuple[CachedTeacher, MemoryLoader]:
    """The teacher with its store, and a loader of the same views."""
    pool = pictures(folder)
    loader = MemoryLoader(pool, BatchViews(views=views, seed=0, crop=4, flip=True), Order(len(pool), BATCH, seed))
    form = Dense((CLASSES,))
    about = {"source": "a small network", "data_source": "cifar10", "answers": form.describe()}
    store = Store(Room(folder / "cache"), "scale", len(pool), form.bytes, about)
    return CachedTeacher(LiveTeacher(network(), PREPROCESS, loader.fetch), Memory(store, form)), loader


class Watch:
    """The largest anonymous memory of this process while the block runs, looked up ten times a second."""

    def __enter__(self) -> Watch:
        self.largest, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.largest = max(self.largest, anonymous_bytes())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.largest = max(self.largest, anonymous_bytes())


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status")


def filled(folder: Path, views: int) -> dict[str, Any]:
    """Phase: asks about every sample in every view."""
    teacher, _ = opened(folder, views)
    began = time.perf_counter()
    with Watch() as watch:
        for view in range(views):
            teacher.complete(view, np.arange(teacher.rows))
            print(f"view {view + 1} of {views}, {time.perf_counter() - began:.0f} s", flush=True)
    return {"forwards": teacher.forwards, "seconds": round(time.perf_counter() - began, 1), "RssAnon_MB": round(watch.largest / 1e6, 1)}


def read_shuffled(folder: Path, views: int) -> dict[str, Any]:
    """Phase: every row once, views and samples shuffled together, each compared with its checksum."""
    teacher, _ = opened(folder, views)
    order = np.random.default_rng(0).permutation(views * teacher.rows)
    began, asked, checked = time.perf_counter(), teacher.forwards, 0.0
    with Watch() as watch:
        for part in np.array_split(order, -(-len(order) // BATCH)):
            ids, wanted = torch.from_numpy(part % teacher.rows), torch.from_numpy(part // teacher.rows)
            checked += float(teacher.answers(ids, wanted).logits[0, 0])
    seconds = time.perf_counter() - began
    return {
        "rows": len(order),
        "forwards": teacher.forwards - asked,
        "seconds": round(seconds, 1),
        "ms_per_batch": round(1e3 * seconds / (len(order) / BATCH), 3),
        "RssAnon_MB": round(watch.largest / 1e6, 1),
    }


def steps(folder: Path, views: int, seed: int) -> dict[str, Any]:
    """Phase: distillation steps of a ResNet-20 with as many outputs; a new seed reads other samples."""
    teacher, loader = opened(folder, views, seed)
    request = ModelRequest(outputs=CLASSES, input_shape=(3, 32, 32))
    student = open_model("builtin:resnet20", request).network.train()
    kd = WeightedObjective("kd", objectives.get("kd")(), objectives.card("kd"), lambda progress: 1.0, ("teacher",))
    waited: list[float] = []
    stepper = Supervised(student, PREPROCESS, [kd], {"teacher": Timed(teacher, waited)})
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    took = []
    first = seed * 1000  # another place in the stream of epochs, so other views
    with Watch() as watch:
        for batch in loader.batches(first, first + STEPS):
            began = time.perf_counter()
            (term,) = stepper.terms(batch, "all", 0.0)
            optimizer.zero_grad()
            term.values.mean().backward()
            optimizer.step()
            took.append(time.perf_counter() - began)
    return {
        "step_ms": [round(1e3 * value, 2) for value in took],
        "answers_ms": [round(1e3 * value, 3) for value in waited],
        "forwards": teacher.forwards,
        "RssAnon_MB": round(watch.largest / 1e6, 1),
    }


class Timed:
    """A teacher that notes how long its answers took.

    Args:
        teacher: who answers.
        waited: where seconds are put.
    """

    def __init__(self, teacher: CachedTeacher, waited: list[float]):
        self.teacher, self.waited = teacher, waited
        self.covers = teacher.covers

    @property
    def forwards(self) -> int:
        return self.teacher.forwards

    def answers(self, ids: Tensor, views: Tensor, inputs: Tensor | None = None) -> Signals:
        began = time.perf_counter()
        said = self.teacher.answers(ids, views, inputs)
        self.waited.append(time.perf_counter() - began)
        return said


def forget_pages(folder: Path) -> float:
    """Tells the kernel to drop the cache's pages; returns the share that it still holds."""
    resident = total = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for path in (folder / "cache").rglob("*.rows"):
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(file.fileno(), 0) as mapped:
                pages = -(-len(mapped) // mmap.PAGESIZE)
                states = (ctypes.c_ubyte * pages)()
                address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
                if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), states) != 0:
                    raise OSError(ctypes.get_errno(), "mincore")
                resident, total = resident + sum(state & 1 for state in states), total + pages
    return resident / max(total, 1)


PHASES: dict[str, Callable[..., dict[str, Any]]] = {"fill": filled, "read": read_shuffled, "steps": steps}


def phase(name: str, folder: Path, *arguments: int) -> dict[str, Any]:
    """A phase in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.cache_scale", "--folder", str(folder), "--phase", name]
    done = subprocess.run([*command, *(f"--argument={argument}" for argument in arguments)], stdout=subprocess.PIPE, text=True, check=True)
    *_, last = done.stdout.strip().splitlines()
    print(name, arguments, last[:300], flush=True)
    return json.loads(last)


def once(folder: Path, name: str, *arguments: int) -> dict[str, Any]:
    """A phase, unless an interrupted call has its result already."""
    kept = folder / f"{name}.json"
    if not kept.exists():
        kept.write_text(json.dumps(phase(name, folder, *arguments)))
    return json.loads(kept.read_text())


def cold_and_warm(folder: Path, views: int) -> dict[str, Any]:
    """Steps in pairs: after the pages were forgotten, and once more the same steps with the pages there."""
    found: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
    held = []
    for block in range(BLOCKS):
        held.append(forget_pages(folder))
        for kind in found:
            found[kind].append(phase("steps", folder, views, block))
            assert found[kind][-1]["forwards"] == 0
    figures = {
        f"{what}, {name}": {kind: [round(average(block[what]), 3) for block in blocks] for kind, blocks in found.items()}
        for what in ("step_ms", "answers_ms")
        for name, average in (("median", statistics.median), ("mean", statistics.mean))
    }
    step, answers = figures["step_ms, median"], figures["answers_ms, mean"]
    ratios = [one / other for one, other in zip(step["cold"], step["warm"], strict=True)]
    waits = [(one - other) / whole for one, other, whole in zip(answers["cold"], answers["warm"], step["warm"], strict=True)]
    return {
        "what": f"ResNet-20 with {CLASSES} outputs, batch {BATCH}, fp32; {STEPS} steps in each of {BLOCKS} blocks, cold and warm in turn",
        **figures,
        "cold step over warm step, median of blocks": round(statistics.median(ratios), 4),
        "longer wait for answers when cold, share of a warm step, median of blocks": round(statistics.median(waits), 4),
        "load average of the machine": [round(load, 1) for load in os.getloadavg()],
        "share of the cache in memory when cold": [round(share, 4) for share in held],
        "RssAnon_MB": max(block["RssAnon_MB"] for blocks in found.values() for block in blocks),
    }


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--gigabytes", type=float, default=10.0)
@click.option("--phase", "only", type=click.Choice(sorted(PHASES)), hidden=True)
@click.option("--argument", "arguments", type=int, multiple=True, hidden=True)
def main(folder: Path, gigabytes: float, only: str | None, arguments: tuple[int, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if only is not None:
        print(json.dumps(PHASES[only](folder, *arguments)))
        return
    samples = len(pictures(folder))
    views = -(-int(gigabytes * 1e9) // (samples * 2 * CLASSES))
    found = {
        "fill": once(folder, "fill", views),
        "read in shuffled order": once(folder, "read", views),
        "steps": cold_and_warm(folder, views),
    }
    (entry,) = entries(folder / "cache")
    shards = len(list((folder / "cache").rglob("*.rows")))
    about = {"bytes": entry.bytes, "filled": entry.filled, "samples": samples, "views": views, "classes": CLASSES, "shards": shards}
    print(results.write("cache_scale", {"cache": {**about, "precision": "fp16"}, **found}))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
