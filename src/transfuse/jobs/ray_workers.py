"""Filling a teacher cache with Ray Data: units of work in, what was asked out; the only file that imports ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from transfuse.errors import MissingExtra
from transfuse.jobs.fill import Filling, Unit
from transfuse.recipe.load import from_values, values_of
from transfuse.recipe.schema import Recipe


class Worker:
    """Opens the recipe once and completes the units that it is given.

    Args:
        values: the recipe's, as plain values, since they travel to other machines.
    """

    def __init__(self, values: dict[str, Any]):
        self.filling = Filling(from_values(values))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        columns = (batch[name].tolist() for name in ("teacher", "view", "start", "stop"))
        asked = [self.filling.complete(Unit(*row)) or 0 for row in zip(*columns, strict=True)]
        return {**batch, "asked": np.array(asked)}


def each(recipe: Recipe, units: Sequence[Unit], workers: int) -> Iterator[tuple[Unit, int]]:
    """Every unit, once it is complete, and how many samples had to be asked for it; in no order.

    Args:
        recipe: of a distillation; its data and its cache have to be reachable from every node.
        units: what there is to ask.
        workers: processes; each takes a GPU where this machine has one.

    Raises:
        MissingExtra: Ray is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise MissingExtra("ray", "ray", "filling a cache with Ray") from error
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours is shown
    rows = [{"teacher": unit.teacher, "view": unit.view, "start": unit.start, "stop": unit.stop} for unit in units]
    work = ray.data.from_items(rows, override_num_blocks=len(rows))
    gpus = 1 if torch.cuda.is_available() else 0
    arguments = (values_of(recipe),)
    done = work.map_batches(Worker, fn_constructor_args=arguments, batch_size=1, concurrency=workers, num_cpus=1, num_gpus=gpus)
    for row in done.iter_rows():
        yield Unit(row["teacher"], int(row["view"]), int(row["start"]), int(row["stop"])), int(row["asked"])
