"""A picture of what networks see while they learn: a few training samples and some of their views, kept in the run folder."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transfuse.core.atomic import replacing
from transfuse.core.types import Samples
from transfuse.engine.loader import WorkerLoader
from transfuse.engine.order import Order
from transfuse.jobs.rundir import RunDir
from transfuse.jobs.train.training import views_of
from transfuse.recipe.augment import AugmentBlock, asked

SAMPLES, VIEWS = 6, 7
SIDE, GAP = 72, 4  # pixels of a tile and between tiles


def keep_views(rundir: RunDir, augment: AugmentBlock, pool: Samples) -> None:
    """Writes samples/views.png: one row per sample, the raw picture and then its first views. Nothing where no picture is changed.

    Args:
        rundir: where to.
        augment: resolved.
        pool: what the student learnt from; partners of mixtures come from all of it.
    """
    ids = torch.linspace(0, len(pool) - 1, min(SAMPLES, len(pool))).round().long()
    raw = pool.raw(ids)
    if raw.ndim != 4 or raw.dtype != torch.uint8 or raw.shape[1] not in (1, 3) or not asked(augment.model_dump()):
        return
    count = VIEWS if augment.views == "fresh" else min(VIEWS, int(augment.views))
    loader = WorkerLoader(pool, views_of(augment), Order(len(pool), 1, 0))
    columns = [raw, *(loader.fetch(ids, torch.full_like(ids, view)) for view in range(count))]
    with replacing(rundir.samples / "views.png") as temporary:
        contact_sheet(columns).save(temporary, "PNG")


def contact_sheet(columns: list[Tensor]) -> Image.Image:
    """uint8 [samples, channels, height, width] per column -> one picture; the first column stands apart."""
    tall = len(columns[0]) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (len(columns) * (SIDE + GAP) + GAP * (len(columns) > 1), tall), "white")
    for column, pictures in enumerate(columns):
        for row, picture in enumerate(pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()):
            tile = Image.fromarray(np.ascontiguousarray(picture))
            scale = SIDE / max(tile.size)
            size = (max(1, round(tile.width * scale)), max(1, round(tile.height * scale)))
            tile = tile.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
            left = column * (SIDE + GAP) + (2 * GAP if column else 0)
            sheet.paste(tile, (left + (SIDE - tile.width) // 2, row * (SIDE + GAP) + (SIDE - tile.height) // 2))
    return sheet
