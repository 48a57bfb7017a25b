"""Whether networks share their initial weights."""

import pytest
import torch
import torch.nn.functional as F

from tests.fusion.networks import built, mlp, pictures, stirred
from transfuse.errors import ModelError
from transfuse.fusion.alignment.permuting import permuted, shuffled
from transfuse.fusion.alignment.tracing import trace
from transfuse.fusion.origin import compare_origin


def test_cosines_and_errors_are_those_of_the_definition():
    one, other = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    together, apart, errors = compare_origin({"w": one}, {"w": other}).layers["w"]
    cosines = [[float(F.cosine_similarity(a, b, dim=0)) for b in other] for a in one]
    off = torch.tensor([cosines[i][j] for i in range(8) for j in range(8) if i != j], dtype=torch.float64)
    diagonal = sum(cosines[i][i] for i in range(8)) / 8
    assert together == pytest.approx(diagonal)
    assert apart == pytest.approx(float(off.mean()))
    assert errors == pytest.approx((diagonal - float(off.mean())) / (float(off.std()) / 8**0.5))


@pytest.mark.parametrize("name", ["mlp", "resnet8", "mobilenetv2"])
def test_fine_tuned_copies_share_it_and_fresh_networks_do_not(name):
    shape = (3, 8, 8) if name == "mlp" else (3, 32, 32)
    base = built(name, shape, 0)
    assert compare_origin(stirred(base, 1, 0.5).state_dict(), stirred(base, 2, 0.5).state_dict()).shared
    found = compare_origin(base.state_dict(), built(name, shape, 1).state_dict())
    assert not found.shared
    assert found.share < 0.2


def test_means_that_all_units_have_in_common_prove_nothing():
    """Trained first layers look at the same pixels, so any two units resemble each other; what counts is unit i against unit j."""
    common = torch.randn(1, 40)
    one, other = (common + torch.randn(32, 40) for _ in range(2))
    found = compare_origin({"w": one}, {"w": other})
    assert found.cosine > 0.3
    assert not found.shared


def test_a_shuffled_copy_does_not_correspond():
    network = mlp(widths=[64, 64])
    specification = trace(network, pictures())
    assert not compare_origin(network.state_dict(), permuted(network.state_dict(), specification, shuffled(specification))).shared


def test_networks_too_small_to_tell_are_refused():
    with pytest.raises(ModelError, match="no weight has 8 units"):
        compare_origin({"w": torch.randn(4, 4)}, {"w": torch.randn(4, 4)})
