"""Every augmentation is a pure function of (seed, sample, view): the same bytes in any batch, order and process."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.views.pictures import noise as pictures
from tests.data.views.pictures import smooth
from transfuse.core.types import EXACT_VIEW
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews, Colour, Erasing, Mixing, RandAugment, ResizedCrop, Rotation, parts
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.order import Order
from transfuse.errors import DataError

EVERYTHING = {
    "crop and flip": {"crop": 2, "flip": True},
    "resized crop": {"operations": [ResizedCrop((0.08, 1.0), (0.75, 4 / 3))]},
    "rotation": {"operations": [Rotation(30.0)]},
    "randaugment": {"operations": [RandAugment(2, 9)]},
    "colour": {"operations": [Colour(0.4, 0.4, 0.4, 0.1)]},
    "erasing": {"operations": [Erasing(0.5, (0.02, 0.33), (0.3, 3.3), "noise")]},
    "erasing by the mean": {"operations": [Erasing(0.5, (0.02, 0.33), (0.3, 3.3), "mean")]},
    "mixup": {"mix": Mixing(mixup=0.4, mixup_probability=0.8)},
    "cutmix": {"mix": Mixing(cutmix=1.0)},
    "all at once": {
        "crop": 2,
        "flip": True,
        "operations": [ResizedCrop((0.3, 1.0), (0.75, 4 / 3)), Rotation(10.0), RandAugment(3, 15), Colour(0.4, 0.4, 0.4, 0.1)],
        "mix": Mixing(mixup=0.4, cutmix=1.0),
    },
}
every_augmentation = pytest.mark.parametrize("name", EVERYTHING)


def pool(name, channels=3, device="cpu"):
    """64 samples, and a function from samples and views to their bytes."""
    raw = smooth(64, channels, 20, 16)
    samples = ArraySamples(raw, torch.arange(64) % 10, np.arange(64))
    return raw, MemoryLoader(samples, BatchViews(views=None, seed=3, **EVERYTHING[name]), Order(64, 16, 0), device, classes=10).fetch


def digest(name):
    seen = pool(name)[1](torch.arange(64), torch.arange(64) % 5)
    return hashlib.sha256(seen.numpy().tobytes()).hexdigest()


@every_augmentation
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_has_the_same_bytes_in_any_batch_order_and_size(name, channels):
    raw, seen = pool(name, channels)
    ids, which = torch.arange(64), torch.arange(64) % 7
    whole = seen(ids, which)
    assert whole.dtype == torch.uint8
    assert whole.shape == raw.shape
    assert (whole != raw).flatten(1).any(1).float().mean() > 0.3
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(seen(ids[order], which[order]), whole[order])
    assert torch.equal(torch.cat([seen(ids[[row]], which[[row]]) for row in range(0, 64, 3)]), whole[::3])
    assert torch.equal(seen(ids.repeat(2), which.repeat(2)), whole.repeat(2, 1, 1, 1))


def test_another_process_computes_the_same_bytes():
    script = "from tests.data.views.test_batch import *\nprint(*[digest(name) for name in EVERYTHING])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True)
    assert done.stdout.split() == [digest(name) for name in EVERYTHING]


@every_augmentation
def test_other_views_and_seeds_change_most_samples(name):
    raw, seen = pool(name)
    ids = torch.arange(64)
    first = seen(ids, torch.zeros_like(ids))
    other_seed = MemoryLoader(
        ArraySamples(raw, ids % 10, ids.numpy()), BatchViews(None, 4, **EVERYTHING[name]), Order(64, 16, 0), classes=10
    ).fetch(ids, torch.zeros_like(ids))
    for other in (seen(ids, torch.ones_like(ids)), other_seed):
        assert (other != first).flatten(1).any(1).float().mean() > 0.5


@every_augmentation
def test_the_exact_view_is_unchanged_beside_augmented_ones(name):
    raw, seen = pool(name)
    ids = torch.arange(64)
    out = seen(ids, torch.where(ids % 2 == 0, EXACT_VIEW, 3))
    assert torch.equal(out[::2], raw[::2])
    assert not torch.equal(out[1::2], raw[1::2])


@every_augmentation
def test_raw_pictures_are_not_written_to(name):
    raw, seen = pool(name)
    before = raw.clone()
    seen(torch.arange(64), torch.arange(64))
    assert torch.equal(raw, before)


def test_other_views_samples_and_seeds_give_other_bytes():
    raw, ids = pictures(1, width=12).expand(200, -1, -1, -1), torch.arange(200)

    def distinct(seed, ids, which):
        out = BatchViews(views=None, seed=seed, crop=3, flip=True).apply(raw, ids, which)
        return out, len({picture.numpy().tobytes() for picture in out})

    by_view, count = distinct(0, torch.zeros(200, dtype=torch.int64), ids)
    assert count > 75  # 98 possible pictures, 200 draws: 85 expected, with a standard deviation of 3
    by_sample, count = distinct(0, ids, torch.zeros(200, dtype=torch.int64))
    assert count > 75
    by_seed, _ = distinct(1, ids, torch.zeros(200, dtype=torch.int64))
    assert (by_seed != by_sample).flatten(1).any(1).float().mean() > 0.9
    assert (by_view != by_sample).flatten(1).any(1).float().mean() > 0.9


def test_a_crop_as_large_as_the_picture_is_refused():
    with pytest.raises(DataError, match=r"augment\.crop"):
        BatchViews(views=None, seed=0, crop=5).apply(pictures(2, height=5, width=9), torch.arange(2), torch.zeros(2, dtype=torch.int64))


def test_tables_and_unaugmented_pictures_are_returned_as_they_are():
    table, raw = torch.randn(5, 3), pictures(5)
    which = torch.zeros(5, dtype=torch.int64)
    assert BatchViews(views=8, seed=0, crop=2, flip=True).apply(table, torch.arange(5), which) is table
    assert BatchViews(views=8, seed=0).apply(raw, torch.arange(5), which) is raw


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_the_type_of_pictures_is_kept_and_does_not_matter(dtype):
    raw = pictures(10)
    views = BatchViews(views=8, seed=0, crop=2, flip=True)
    out = views.apply(raw.to(dtype), torch.arange(10), torch.arange(10) % 8)
    assert out.dtype == dtype
    assert torch.equal(out.to(torch.uint8), views.apply(raw, torch.arange(10), torch.arange(10) % 8))


def test_fixed_views_repeat_and_fresh_ones_do_not():
    epochs = torch.tensor([0, 1, 7, 8, 17])
    assert BatchViews(views=8, seed=0).view_of_epoch(epochs).tolist() == [0, 1, 7, 0, 1]
    assert BatchViews(views=None, seed=0).view_of_epoch(epochs).tolist() == [0, 1, 7, 8, 17]
    assert BatchViews(views=8, seed=0).view_of_epoch(epochs.int()).dtype == torch.int64


def test_the_cache_key_changes_with_what_changes_bytes_and_with_nothing_else():
    spec = BatchViews(views=8, seed=0, crop=2).spec()
    assert spec == BatchViews(views=16, seed=0, crop=2).spec()  # a cache of 8 views can grow to 16
    assert spec != BatchViews(views=8, seed=1, crop=2).spec()
    assert spec != BatchViews(views=8, seed=0, crop=4).spec()
    assert spec != BatchViews(views=8, seed=0, crop=2, flip=True).spec()
    assert BatchViews(views=8, seed=0).spec() == BatchViews(views=8, seed=1).spec()  # nothing is drawn


def test_the_cache_key_holds_every_setting_of_every_operation():
    def spec(**changes):
        return str(BatchViews(views=8, seed=0, **changes).spec())

    erasing = (0.5, (0.02, 0.33), (0.3, 3.3), "noise")
    variants = [
        *({"operations": [Colour(*amounts)]} for amounts in ((0.4, 0, 0, 0), (0, 0.4, 0, 0), (0, 0, 0.4, 0), (0, 0, 0, 0.4))),
        *({"operations": [RandAugment(*amounts)]} for amounts in ((2, 9), (3, 9), (2, 10))),
        *({"operations": [Rotation(amount)]} for amount in (10.0, 20.0)),
        *({"operations": [ResizedCrop(*amounts)]} for amounts in (((0.1, 1), (0.7, 1)), ((0.2, 1), (0.7, 1)), ((0.1, 1), (0.8, 1)))),
        *({"operations": [Erasing(*erasing[:place], other, *erasing[place + 1 :])]} for place, other in ((0, 0.6), (1, (0.1, 0.2)))),
        *({"operations": [Erasing(*erasing[:place], other, *erasing[place + 1 :])]} for place, other in ((2, (1, 2)), (3, "mean"))),
        *({"mix": Mixing(**amounts)} for amounts in ({"mixup": 0.2}, {"mixup": 0.3}, {"cutmix": 0.2}, {"mixup": 0.2, "cutmix": 0.2})),
        *({"mix": Mixing(mixup=0.2, mixup_probability=share)} for share in (0.5, 0.6)),
        {"operations": [Rotation(10.0), Colour(0.4, 0, 0, 0)]},
        {"operations": [Colour(0.4, 0, 0, 0), Rotation(10.0)]},
    ]
    found = [spec(**variant) for variant in variants]
    assert len(set(found)) == len(found)
    assert found == [spec(**variant) for variant in variants]


@pytest.mark.parametrize(("channels", "dtype"), [(2, torch.uint8), (3, torch.float32)])
@pytest.mark.parametrize("operation", [Colour(0.4, 0, 0, 0), RandAugment(2, 9), Erasing(0.5, (0.02, 0.33), (0.3, 3.3), "noise")])
def test_changes_of_colour_are_refused_on_pictures_that_have_no_8_bit_colours(operation, channels, dtype):
    raw = pictures(2, channels).to(dtype)
    with pytest.raises(DataError, match=rf"augment\.{type(operation).__name__.lower()}"):
        BatchViews(views=None, seed=0, operations=[operation]).apply(raw, torch.arange(2), torch.zeros(2, dtype=torch.int64))


@every_augmentation
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_computes_the_same_bytes(name):
    ids, which = torch.arange(64).repeat(8), torch.arange(512) % 11
    assert torch.equal(pool(name, device="cuda")[1](ids, which).cpu(), pool(name)[1](ids, which))


@every_augmentation
def test_large_pictures_have_the_same_bytes_although_they_are_changed_in_parts(name, monkeypatch):
    ids, which = torch.arange(64), torch.arange(64) % 3
    whole = pool(name)[1](ids, which)
    monkeypatch.setattr(parts, "VALUES", 3 * 20 * 16 * 5)  # five pictures at a time, the last part smaller
    assert torch.equal(pool(name)[1](ids, which), whole)
