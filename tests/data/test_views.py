"""Views are pure functions of (seed, sample, view): independent of batches, uniform, and equal to a slow loop."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats

from transfuse.core.types import EXACT_VIEW
from transfuse.data.views import BatchViews, Draws
from transfuse.data.views.draws import _mix
from transfuse.errors import DataError


def pictures(count, channels=3, height=9, width=7, seed=0):
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_the_hash_is_splitmix64():
    def reference(value):  # in Python's unbounded integers
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
        return value ^ (value >> 31)

    states = [0, 1, 2**62, 2**63 - 1, 123456789012345]
    signed = [(state + 0x9E3779B97F4A7C15) % 2**64 for state in states]
    ours = _mix(torch.tensor([value - 2**64 if value >= 2**63 else value for value in signed]))
    assert [value % 2**64 for value in ours.tolist()] == [reference(state) for state in states]
    assert reference(1234567) == 6457827717110365317  # first output of the published generator for this seed


def test_a_view_has_the_same_bytes_in_any_batch_order_and_size():
    views = BatchViews(views=8, seed=3, crop=2, flip=True)
    raw, ids, which = pictures(40), torch.arange(40) * 17, torch.arange(40) % 8
    whole = views.apply(raw, ids, which)
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(views.apply(raw[shuffled], ids[shuffled], which[shuffled]), whole[shuffled])
    one_by_one = torch.cat([views.apply(raw[[row]], ids[[row]], which[[row]]) for row in range(40)])
    assert torch.equal(one_by_one, whole)


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


@pytest.mark.parametrize("vary", ["ids", "views", "both"])
def test_draws_are_uniform(vary):
    count = 20000
    varying, fixed = torch.arange(count), torch.full((count,), 7)
    ids = fixed if vary == "views" else varying // (100 if vary == "both" else 1)
    views = fixed if vary == "ids" else varying % (100 if vary == "both" else count)
    draws = Draws(5, ids, views)
    for name, cells in (("crop.row", 9), ("flip", 2), ("other", 97)):
        observed = torch.bincount(draws.integers(name, cells), minlength=cells)
        assert len(observed) == cells
        assert stats.chisquare(observed.numpy()).pvalue > 1e-4
    uniform = draws.uniform("level").numpy()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4


def test_draws_of_different_names_are_independent():
    draws = Draws(0, torch.arange(20000), torch.zeros(20000, dtype=torch.int64))
    table = torch.zeros(5, 5)
    table.index_put_((draws.integers("crop.row", 5), draws.integers("crop.column", 5)), torch.ones(20000), accumulate=True)
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-4


def test_half_of_the_samples_are_flipped():
    raw = pictures(1).expand(4000, -1, -1, -1)
    out = BatchViews(views=1, seed=0, flip=True).apply(raw, torch.arange(4000), torch.zeros(4000, dtype=torch.int64))
    flipped = (out == raw.flip(3)).flatten(1).all(1)
    kept = (out == raw).flatten(1).all(1)
    assert (flipped | kept).all()
    assert stats.binomtest(int(flipped.sum()), 4000).pvalue > 1e-4


def test_crop_and_flip_equal_a_slow_loop_of_numpy_and_pillow():
    raw, ids, which = pictures(30, height=11, width=8), torch.arange(30) + 1000, torch.arange(30)
    crop, draws = 3, Draws(9, ids, which)
    rows, columns, flips = draws.integers("crop.row", 7), draws.integers("crop.column", 7), draws.integers("flip", 2)
    out = BatchViews(views=None, seed=9, crop=crop, flip=True).apply(raw, ids, which)
    for number in range(30):
        padded = np.pad(raw[number].permute(1, 2, 0).numpy(), ((crop, crop), (crop, crop), (0, 0)), mode="reflect")
        row, column = int(rows[number]), int(columns[number])
        expected = padded[row : row + 11, column : column + 8]
        if flips[number]:
            expected = np.asarray(ImageOps.mirror(Image.fromarray(expected)))
        assert np.array_equal(out[number].permute(1, 2, 0).numpy(), expected)


def test_the_largest_possible_crop_still_reflects_inside():
    raw = pictures(200, height=5, width=5)
    out = BatchViews(views=None, seed=0, crop=4).apply(raw, torch.arange(200), torch.zeros(200, dtype=torch.int64))
    for number in range(200):
        assert set(out[number, 0].flatten().tolist()) <= set(raw[number, 0].flatten().tolist())


def test_a_crop_as_large_as_the_picture_is_refused():
    with pytest.raises(DataError, match=r"augment\.crop"):
        BatchViews(views=None, seed=0, crop=5).apply(pictures(2, height=5, width=9), torch.arange(2), torch.zeros(2, dtype=torch.int64))


def test_the_exact_view_is_unchanged_beside_augmented_ones():
    raw, ids = pictures(20), torch.arange(20)
    which = torch.where(ids % 2 == 0, EXACT_VIEW, 3)
    out = BatchViews(views=8, seed=0, crop=2, flip=True).apply(raw, ids, which)
    assert torch.equal(out[::2], raw[::2])
    assert not torch.equal(out[1::2], raw[1::2])


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_computes_the_same_bytes():
    raw, ids, which = pictures(500), torch.arange(500), torch.arange(500) % 11
    views = BatchViews(views=None, seed=4, crop=3, flip=True)
    assert torch.equal(views.apply(raw.cuda(), ids, which).cpu(), views.apply(raw, ids, which))
