"""Greedy soup."""

import pytest
import torch

from tests.fusion.networks import calibration, mlp, outputs, parents, pictures, stirred
from transfuse.errors import ModelError
from transfuse.fusion.repair import repair_units
from transfuse.fusion.weights.greedy_soup import GreedySoup, greedy_choice, greedy_soup
from transfuse.fusion.weights.mean import mean


def value(state):
    """Best near 1: so 0.6 and 1.6 help each other (mean 1.1), 3 helps nobody."""
    return -abs(float(state["w"]) - 1.0)


def states(*values):
    return [{"w": torch.tensor(one, dtype=torch.float64)} for one in values]


def test_the_recipe_step_by_step():
    # alone: 0.6 -> -0.4, 1.6 -> -0.6, 3 -> -2. Begin with 0.6; with 1.6 the mean is 1.1 (-0.1): kept; with 3 it is 1.7333: left out
    given = states(3.0, 1.6, 0.6)
    assert greedy_choice(given, value) == ([2, 1], pytest.approx(-0.1))
    assert float(greedy_soup(given, value)["w"]) == pytest.approx(1.1)


def test_equal_validation_keeps_a_source():
    assert greedy_choice(states(1.0, 1.0), value)[0] == [0, 1]


def test_known_figures_are_not_measured_again():
    asked = []
    kept, _ = greedy_choice(states(0.0, 5.0), lambda state: asked.append(float(state["w"])) or -9.0, scores=[1.0, 2.0])
    assert kept == [1]
    assert asked == [2.5]


def test_the_soup_is_never_worse_on_validation_than_the_best_source():
    base = mlp(batchnorm=True)
    inputs = pictures(64)
    target = stirred(base, 5, 0.1)
    with torch.no_grad():
        wanted = target(inputs)
        judge = torch.no_grad()(lambda network: -float((network.eval()(inputs) - wanted).square().mean()))
        tuned = [stirred(base, seed, 0.2) for seed in range(4)]
        merged = GreedySoup().merge(parents(*tuned), calibration(inputs, judge))
        assert merged.figures["validation"] >= max(judge(network) for network in tuned)
        assert judge(merged.module) == pytest.approx(merged.figures["validation"], rel=1e-6)


def test_units_are_repaired_towards_the_kept_sources_and_what_is_judged_is_what_is_shipped():
    base, inputs = mlp(), pictures(64)
    good = [stirred(base, seed, 0.2) for seed in (1, 2)]
    bad = stirred(base, 3, 0.2)
    with torch.no_grad():
        bad.layers[0].linear.weight.mul_(8.0)
    wanted = outputs(base, inputs)
    judge = torch.no_grad()(lambda network: -float((network.eval()(inputs) - wanted).square().mean()))
    merged = GreedySoup(repair="units", check_origin=False).merge(parents(*good, bad), calibration(inputs, judge))
    assert sorted(merged.figures["kept"]) == ["a", "b"]
    assert judge(merged.module) == merged.figures["validation"]
    by_hand = stirred(base, 0, 0.0)
    by_hand.load_state_dict(mean([network.state_dict() for network in good]))
    repair_units(by_hand, good, lambda: inputs.split(16))
    assert torch.allclose(outputs(merged.module, inputs), outputs(by_hand, inputs), atol=1e-5)


def test_a_soup_of_one_is_that_source_with_its_own_statistics():
    base = mlp(batchnorm=True)
    tuned = [stirred(base, seed, 0.1) for seed in (1, 2)]
    alone = tuned[1].state_dict()
    given = calibration(
        pictures(64), lambda network: float(all(torch.equal(one, alone[name]) for name, one in network.state_dict().items()))
    )
    merged = GreedySoup().merge(parents(*tuned), given)
    assert merged.figures["kept"] == ["b"]
    assert all(torch.equal(tensor, alone[name]) for name, tensor in merged.module.state_dict().items())
    assert "kept alone" in merged.notes[-1]


def test_no_validation_figure_is_refused():
    base = mlp()
    with pytest.raises(ModelError, match="validation"):
        GreedySoup().merge(parents(base, stirred(base, 1, 0.1)), calibration(pictures()))
