"""What each policy trains, when and how fast, against the formulas of its docstring."""

import pytest
import torch
from torch import nn

from transfuse import policies
from transfuse.core.policy import Group
from transfuse.errors import RecipeError

COUNT = 5


@pytest.fixture
def groups():
    """Stem, three blocks and a head, each with a matrix and a vector."""
    return [
        Group(name, (nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2)))) for name in ("stem", "one", "two", "three", "head")
    ]


def factors(phase, groups, progress):
    """group -> multiplier at that progress; 0 for what is frozen, by identity."""
    owner = {id(parameter): rate for rate in phase.rates for parameter in rate.parameters}
    found = [[owner[id(one)].factor(progress) if id(one) in owner else 0.0 for one in group.parameters] for group in groups]
    assert all(len(set(values)) == 1 for values in found)
    return [values[0] for values in found]


def only(name, groups, **settings):
    (phase,) = policies.get(name)(**settings).phases(groups)
    assert (phase.name, phase.share) == ("", 1.0)
    return phase


def test_full_trains_everything_the_head_faster_where_asked(groups):
    assert factors(only("full", groups), groups, 0.3) == [1.0] * COUNT
    assert factors(only("full", groups, backbone=0.1), groups, 0.9) == [0.1] * 4 + [1.0]


def test_probe_trains_the_head_alone(groups):
    phase = only("probe", groups)
    assert factors(phase, groups, 0.0) == [0.0] * 4 + [1.0]
    assert phase.head_alone


def test_last_n_trains_the_head_and_the_groups_before_it(groups):
    assert factors(only("last_n", groups, n=2), groups, 0.5) == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert factors(only("last_n", groups, n=4), groups, 0.5) == [1.0] * COUNT
    with pytest.raises(RecipeError, match="4 groups before its head: stem, one, two, three"):
        only("last_n", groups, n=5)


@pytest.mark.parametrize(("progress", "trained"), [(0.0, 1), (0.099, 1), (0.1, 2), (0.2, 3), (0.29, 3), (0.31, 4), (0.4, 5), (1.0, 5)])
def test_gradual_unfreezes_one_group_after_another_towards_the_input(groups, progress, trained):
    phase = only("gradual", groups, until=0.4)
    assert factors(phase, groups, progress) == [0.0] * (COUNT - trained) + [1.0] * trained


def test_gradual_rates_fall_by_the_same_factor_from_group_to_group(groups):
    assert factors(only("gradual", groups, decay=0.5), groups, 1.0) == [0.0625, 0.125, 0.25, 0.5, 1.0]


def test_layer_decay_is_a_power_of_the_distance_from_the_head(groups):
    assert factors(only("layer_decay", groups, decay=0.5), groups, 0.0) == [0.0625, 0.125, 0.25, 0.5, 1.0]


def test_discriminative_rates_are_even_on_a_logarithm(groups):
    found = factors(only("discriminative", groups, first=0.0001), groups, 0.0)
    assert found == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_lp_ft_trains_the_head_first_and_then_everything_slowly(groups):
    first, second = policies.get("lp_ft")(share=0.25, rate=0.2).phases(groups)
    assert (first.name, first.share, first.head_alone) == ("probe", 0.25, True)
    assert (second.name, second.share, second.head_alone) == ("", 0.75, False)
    assert factors(first, groups, 0.5) == [0.0] * 4 + [1.0]
    assert factors(second, groups, 0.5) == [0.2] * COUNT


def test_bitfit_trains_vectors_and_the_head(groups):
    phase = only("bitfit", groups)
    trained = {id(parameter) for rate in phase.rates for parameter in rate.parameters}
    assert trained == {id(group.parameters[1]) for group in groups} | {id(groups[-1].parameters[0])}


@pytest.mark.parametrize("name", [name for name in policies.names() if name not in ("lora", "loha", "lokr", "ia3", "last_n")])
def test_a_network_of_a_single_layer_can_be_trained_by_any_policy(name, groups):
    phases = policies.get(name)().phases(groups[-1:])
    assert all(any(rate.ever for rate in phase.rates) for phase in phases)
    assert sum(phase.share for phase in phases) == pytest.approx(1.0)


def test_an_unknown_policy_has_a_suggestion():
    with pytest.raises(RecipeError, match="did you mean 'gradual'"):
        policies.get("gradul")
