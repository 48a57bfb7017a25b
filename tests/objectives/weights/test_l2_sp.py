"""L2-SP against the formula; parameters are told apart by name, whatever their values."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from tests.objectives.planting import assert_caught
from tests.reference.l2_sp import l2_sp_reference
from transfuse.core.types import Step
from transfuse.objectives.weights.l2_sp import L2SP, l2_sp_loss
from transfuse.testing import Particulars, Sizes, check_objective, example_step

SHAPES = {"body.0.weight": (3, 4), "body.0.bias": (3,), "head.weight": (2, 3)}
NEW = ("head.weight",)


def parameters(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


START = parameters(seed=99)
KEPT = {name: values for name, values in START.items() if name not in NEW}
reference = partial(l2_sp_reference, starting={name: values.numpy() for name, values in KEPT.items()})


def make_step(sizes: Sizes) -> Step:
    return replace(example_step(sizes, teachers=0), parameters=parameters(sizes.seed))


def watching(objective, step):
    objective.watch(START, NEW)


def by_function(objective, step):
    return l2_sp_loss(step.parameters, KEPT, objective.head)


PARTICULARS = Particulars(prepare=watching, function=by_function)


@pytest.mark.parametrize("arguments", [{}, {"head": 0.3}], ids=str)
def test_l2_sp_is_proved(arguments):
    check_objective(L2SP, reference, arguments, make_step, particulars=PARTICULARS)


def test_where_training_starts_only_the_new_parameters_count():
    objective = L2SP()
    objective.watch(START, NEW)
    value = objective(replace(make_step(Sizes()), parameters=START))
    torch.testing.assert_close(value, 0.5 * START["head.weight"].square().sum())


def test_equal_values_under_other_names_keep_their_own_start():
    module = nn.ModuleDict({"first": nn.Linear(2, 2, bias=False), "second": nn.Linear(2, 2, bias=False)})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)  # a comparison of values would take one for the other
    objective = L2SP()
    objective.watch(dict(module.named_parameters()), new=["second.weight"])
    step = replace(make_step(Sizes()), parameters=dict(module.named_parameters()))
    objective(step).backward()
    first, second = (module[name].weight.grad for name in ("first", "second"))
    assert torch.equal(first, torch.zeros(2, 2))
    assert torch.equal(second, torch.ones(2, 2))


def test_the_student_is_no_part_of_the_objective_and_its_start_is_saved():
    module = nn.Linear(3, 2)
    objective = L2SP()
    objective.watch(dict(module.named_parameters()))
    assert not list(objective.parameters())
    assert sorted(objective.state_dict()) == ["starting/bias", "starting/weight"]
    saved = objective.state_dict()["starting/weight"].clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    assert torch.equal(objective.state_dict()["starting/weight"], saved)


def test_a_resumed_objective_keeps_the_first_start():
    module = nn.Linear(3, 2)
    objective, resumed = L2SP(), L2SP()
    objective.watch(dict(module.named_parameters()))
    with torch.no_grad():
        module.weight.add_(1.0)
    resumed.watch(dict(module.named_parameters()))  # a job watches again before it loads the checkpoint
    resumed.load_state_dict(objective.state_dict())
    step = replace(make_step(Sizes()), parameters=dict(module.named_parameters()))
    torch.testing.assert_close(resumed(step), torch.tensor(3.0))  # 1/2 of six entries that moved by 1


def test_parameters_that_came_or_went_are_named():
    objective = L2SP()
    with pytest.raises(ValueError, match="call watch"):
        objective(make_step(Sizes()))
    with pytest.raises(ValueError, match=r"fc\.bias"):
        objective.watch(START, new=["fc.bias"])
    objective.watch(START, NEW)
    step = make_step(Sizes())
    with pytest.raises(ValueError, match="adapter"):
        objective(replace(step, parameters={**step.parameters, "adapter": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"body\.0\.bias"):
        objective(replace(step, parameters={name: value for name, value in step.parameters.items() if name != "body.0.bias"}))


def test_decay_towards_zero_is_caught():
    def wrong(self, step):
        return torch.stack([0.5 * value.square().sum() for value in step.parameters.values()]).sum()

    assert_caught(L2SP, wrong, reference, make_step=make_step, particulars=PARTICULARS)


def test_a_missing_half_is_caught():
    assert_caught(L2SP, lambda self, step: 2 * by_function(self, step), reference, make_step=make_step, particulars=PARTICULARS)
