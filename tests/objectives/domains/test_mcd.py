"""The two heads' discrepancy against the formula; how a step is made of phases is tests/engine/test_alternating.py's."""

import pytest
import torch
from torch import nn

from tests.objectives.domains.steps import other_domain, two_domains, with_domains
from tests.objectives.planting import assert_caught
from tests.reference.mcd import mcd_reference
from transfuse.objectives.domains.mcd import MCD, mcd_loss
from transfuse.testing import Particulars, check_objective, shift_student_logits

FACTS = {"a softmax ignores shifts": shift_student_logits}


def with_a_head(objective, step):
    """As a job prepares it: with a copy of the student's head, here a 1x1 convolution on the tapped map."""
    objective.take_head("head", nn.Conv2d(step.student.features["stage1"].shape[1], step.student.logits.shape[-1], 1))
    objective.build({}, {})


def by_function(objective, step):
    second = objective.second(step.student.features["stage1"]).mean((2, 3))
    return mcd_loss(step.student.logits, second, step.batch.domains)


PARTICULARS = Particulars(prepare=with_a_head, function=by_function)


def test_mcd_is_proved():
    check_objective(MCD, mcd_reference, make_step=two_domains, invariance=FACTS, particulars=PARTICULARS)


def test_heads_that_agree_have_no_discrepancy():
    logits = torch.randn(6, 4)
    domains = torch.tensor([0, 1, 1, 1, 0, 1])
    assert mcd_loss(logits, logits, domains) == 0
    assert mcd_loss(logits, logits + 3.0, domains) < 1e-6


def test_the_largest_discrepancy_is_two_over_the_number_of_classes():
    sure, other = 100 * torch.eye(4)[:1].expand(3, -1), 100 * torch.eye(4)[1:2].expand(3, -1)
    assert torch.isclose(mcd_loss(sure, other, torch.ones(3, dtype=torch.int64)), torch.tensor(2 / 4))


def test_the_second_head_begins_with_weights_of_its_own():
    own = nn.Linear(8, 3)
    objective = MCD()
    objective.take_head("linear", nn.Linear(8, 3))
    objective.second.load_state_dict(own.state_dict())
    objective.build({}, {})
    assert not torch.equal(objective.second.weight, own.weight)


def test_a_head_that_can_not_be_made_anew_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    objective = MCD()
    objective.take_head("odd", Odd())
    with pytest.raises(ValueError, match="Odd"):
        objective.build({}, {})
    with pytest.raises(ValueError, match="take_head"):
        MCD().build({}, {})


def test_the_source_in_the_targets_place_is_caught():
    def wrong(self, step):
        return by_function(self, other_domain(step))

    assert_caught(MCD, wrong, mcd_reference, make_step=two_domains, particulars=PARTICULARS)


def test_all_samples_taken_for_the_targets_are_caught():
    def wrong(self, step):
        return by_function(self, with_domains(step, torch.ones_like(step.batch.domains)))

    assert_caught(MCD, wrong, mcd_reference, make_step=two_domains, particulars=PARTICULARS)
