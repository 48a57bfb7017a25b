"""Mixup and cutmix: partners, shares and rectangles are drawn as defined, and what is mixed is the mean of the two views."""

import numpy as np
import pytest
import torch
from scipy import stats

from tests.data.views.pictures import noise, smooth
from transfuse.data.views import Draws, Mixing
from transfuse.data.views.mixing import quantiles


def mixture(mixing, count=20000, pool=97, seed=0):
    return mixing.of(Draws(seed, torch.arange(count), torch.zeros(count, dtype=torch.int64)), pool)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha):
    shares = mixture(Mixing(mixup=alpha)).drawn.double().numpy()
    beta = stats.beta(alpha, alpha)
    for power in (1, 2, 3, 4):  # the moments, to within four standard errors
        error = 4 * np.sqrt((beta.moment(2 * power) - beta.moment(power) ** 2) / len(shares))
        assert abs((shares**power).mean() - beta.moment(power)) < error, power
    if alpha >= 0.4:  # smaller ones have atoms at 0 and 1 in any number format
        jittered = shares + np.random.default_rng(0).uniform(-0.5, 0.5, len(shares)) / 2**12
        assert stats.kstest(jittered, beta.cdf).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [0.1, 1.0, 4.0])
def test_the_table_of_quantiles_inverts_the_distribution_function(alpha):
    table = quantiles(alpha).double().numpy()
    exact = stats.beta(alpha, alpha).ppf((np.arange(4096) + 0.5) / 4096)
    assert np.abs(table - exact).max() <= 2**-15
    assert np.array_equal(table, 1 - table[::-1])


def test_partners_are_uniform_over_the_pool_and_differ_between_views():
    drawn = mixture(Mixing(mixup=1.0)).partners
    assert stats.chisquare(drawn.bincount(minlength=97).numpy()).pvalue > 1e-4
    other = Mixing(mixup=1.0).of(Draws(0, torch.arange(20000), torch.ones(20000, dtype=torch.int64)), 97).partners
    assert stats.binomtest(int((drawn == other).sum()), 20000, 1 / 97).pvalue > 1e-4


@pytest.mark.parametrize("mixing", [Mixing(mixup=1.0, mixup_probability=0.3), Mixing(cutmix=1.0, cutmix_probability=0.3)])
def test_the_asked_share_of_views_is_mixed(mixing):
    untouched = int((mixture(mixing).drawn == 1).sum())
    assert stats.binomtest(untouched, 20000, 0.7).pvalue > 1e-4  # a share that rounds to 1 happens once in 30,000 at alpha 1


def test_of_mixup_and_cutmix_each_view_takes_one_as_likely_as_the_other():
    cuts = int(mixture(Mixing(mixup=1.0, cutmix=1.0)).cuts.sum())
    assert stats.binomtest(cuts, 20000).pvalue > 1e-4
    assert not mixture(Mixing(mixup=1.0)).cuts.any()
    assert mixture(Mixing(cutmix=1.0)).cuts.all()
    only_mixup = mixture(Mixing(mixup=1.0, cutmix=1.0, cutmix_probability=0.0))
    assert stats.binomtest(int((only_mixup.drawn == 1).sum()), 20000).pvalue > 1e-4
    assert not only_mixup.cuts.any()


def test_mixup_is_the_weighted_mean_of_two_views():
    own, partners = noise(300, 3, 8, 8), noise(300, 3, 8, 8, seed=1)
    mixed = mixture(Mixing(mixup=1.0), 300)
    out, share = mixed.blend(own, partners)
    assert torch.equal(share, mixed.drawn)
    exact = share.double()[:, None, None, None] * own.double() + (1 - share.double())[:, None, None, None] * partners.double()
    assert (out.double() - exact).abs().max() <= 0.5
    tables, _ = mixed.blend(own.flatten(1).float(), partners.flatten(1).float())
    assert torch.allclose(tables.double(), exact.flatten(1), atol=1e-4)


def test_what_is_not_mixed_keeps_its_bits():
    own, partners = torch.randn(300, 7) * 1e-3, torch.full((300, 7), 1e9)
    mixed = mixture(Mixing(mixup=1.0, mixup_probability=0.5), 300)
    out, share = mixed.blend(own, partners)
    assert 100 < int((share == 1).sum()) < 200
    assert torch.equal(out[share == 1], own[share == 1])


def test_cutmix_puts_in_a_rectangle_and_the_share_is_its_area():
    own, partners = torch.zeros(2000, 1, 24, 20, dtype=torch.uint8), torch.ones(2000, 1, 24, 20, dtype=torch.uint8)
    mixed = mixture(Mixing(cutmix=1.0), 2000)
    out, share = mixed.blend(own, partners)
    assert torch.allclose(1 - share, out.float().mean((1, 2, 3)), atol=1e-6)
    for number in range(0, 2000, 50):
        rows, columns = out[number, 0].any(1).nonzero()[:, 0], out[number, 0].any(0).nonzero()[:, 0]
        if len(rows):
            assert out[number, 0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert out[number].sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)


def test_cutmix_rectangles_are_those_of_a_slow_loop_with_uniform_centres():
    draws = Draws(0, torch.arange(500), torch.full((500,), 2))
    mixed = Mixing(cutmix=1.0).of(draws, 10)
    inside = mixed.blend(torch.zeros(500, 1, 24, 20), torch.ones(500, 1, 24, 20))[0][:, 0].bool().numpy()
    middles = draws.integers("mix.row", 24), draws.integers("mix.column", 20)
    for number in range(500):
        reach = 0.5 * np.sqrt(1 - float(mixed.drawn[number]))
        expected = np.zeros((24, 20), dtype=bool)
        row, column, down, across = int(middles[0][number]), int(middles[1][number]), int(reach * 24), int(reach * 20)
        expected[max(0, row - down) : row + down, max(0, column - across) : column + across] = True
        assert np.array_equal(inside[number], expected)
    for middle, length in zip(middles, (24, 20), strict=True):
        assert stats.chisquare(middle.bincount(minlength=length).numpy()).pvalue > 1e-4


def test_cutmix_is_exact_for_pictures_of_any_type():
    own, partners = smooth(50, 3, 12, 10), smooth(50, 3, 12, 10, seed=1)
    mixed = mixture(Mixing(cutmix=1.0), 50)
    bytes_, share = mixed.blend(own, partners)
    floats, same = mixed.blend(own.double(), partners.double())
    assert torch.equal(bytes_.double(), floats)
    assert torch.equal(share, same)
