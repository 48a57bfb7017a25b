"""Batch spectral shrinkage against the formula."""

from functools import partial

import pytest
import torch

from tests.objectives.planting import assert_caught
from tests.objectives.relations.steps import rotated_student
from tests.reference.bss import bss_reference
from transfuse.objectives._vectors import vectors
from transfuse.objectives.weights.bss import BSS, bss_loss
from transfuse.testing import QUICK, Particulars, check_objective, example_step

make_step = partial(example_step, teachers=0, taps=1)
FACTS = {"singular values ignore rotations": rotated_student}


WAITS = Particulars(waits="a decomposition goes on until it has converged, which is seen from outside the GPU")


def test_bss_is_proved():
    check_objective(BSS, bss_reference, make_step=make_step, invariance=FACTS, particulars=WAITS)


def test_several_values_are_proved():
    checks = [check for check in QUICK if check != "small"]  # a single sample has a single value
    check_objective(BSS, bss_reference, {"k": 3}, make_step, invariance=FACTS, checks=checks, particulars=WAITS)


def test_more_values_than_there_are_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="2 singular values"):
        bss_loss(torch.randn(2, 5), k=3)


def test_a_smaller_spectrum_after_a_step_down_the_gradient():
    rows = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    bss_loss(rows, k=2).backward()
    assert rows.grad is not None
    assert bss_loss(rows.detach() - 0.1 * rows.grad, k=2) < bss_loss(rows.detach(), k=2)


@pytest.mark.parametrize("what", ["largest", "not squared"])
def test_other_parts_of_the_spectrum_are_caught(what):
    def wrong(self, step):
        values = torch.linalg.svdvals(vectors(step.student.features["stage1"]))
        return values[: self.k].square().sum() if what == "largest" else values[-self.k :].sum()

    assert_caught(BSS, wrong, bss_reference, make_step=make_step)
