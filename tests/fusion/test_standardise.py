"""Standardisation of features: what it makes of their covariance, that it is a rotation and one factor, and who is refused."""

import pytest
import torch

from transfuse.errors import ModelError
from transfuse.fusion.standardise import fit, phi_s, whitening


def features(samples, dim, seed=0):
    """Correlated features of very different sizes, off centre."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64) * torch.logspace(-2, 2, dim, dtype=torch.float64)
    return torch.randn(samples, dim, generator=generator, dtype=torch.float64) @ mixing.T + 5.0


def mapped(rows, found):
    mean, matrix = found
    return (rows - mean) @ matrix.T


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 12, 31, 64])
def test_phi_s_gives_every_number_variance_one_and_keeps_distances_ratios(dim):
    rows = features(300, dim)
    standard = mapped(rows, phi_s(rows))
    torch.testing.assert_close(standard.mean(0), torch.zeros(dim, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(standard.square().mean(0), torch.ones(dim, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    ratio = torch.pdist(standard[:20]) / torch.pdist(rows[:20])
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-8, atol=0)


def test_phi_s_with_fewer_samples_than_numbers_still_has_variance_one():
    rows = features(10, 37)
    standard = mapped(rows, phi_s(rows))
    torch.testing.assert_close(standard.square().mean(0), torch.ones(37, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_a_hadamard_rotation_is_used_where_the_width_is_a_power_of_two():
    rows = features(200, 8)
    _, matrix = phi_s(rows)
    values, directions = torch.linalg.eigh(torch.cov(rows.T, correction=0))
    entries = (matrix @ directions * values.mean().sqrt()).abs()
    torch.testing.assert_close(entries, torch.full((8, 8), 8**-0.5, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_whitening_makes_the_covariance_the_identity():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(500, 6, generator=generator, dtype=torch.float64) @ torch.randn(6, 6, generator=generator, dtype=torch.float64)
    covariance = torch.cov(mapped(rows, whitening(rows)).T, correction=0)
    assert (covariance - torch.eye(6)).abs().max() < 0.05  # directions that hardly vary are held back a little


def test_whitening_does_not_blow_up_directions_without_variance():
    rows = torch.cat([features(50, 3), torch.ones(50, 2, dtype=torch.float64)], 1)
    assert mapped(rows + 1e-9 * torch.randn_like(rows), whitening(rows)).abs().max() < 100


@pytest.mark.parametrize("kind", ["phi_s", "whiten"])
def test_constant_and_broken_features_are_refused(kind):
    with pytest.raises(ModelError, match="the same for all 20 training samples"):
        fit(torch.full((20, 4), 3.0), kind)
    broken = torch.randn(20, 4)
    broken[3, 1] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        fit(broken, kind)
