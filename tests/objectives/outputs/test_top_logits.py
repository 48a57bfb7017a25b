"""Divergences from a teacher of which only the largest logits are known: bounded by the dense ones, equal where nothing is left out."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from transfuse.core.numerics import top_logits
from transfuse.core.types import Signals
from transfuse.objectives import get
from transfuse.testing import Sizes, example_step

DIVERGENCES = ["kd", "reverse_kl", "jsd", "skew_kl", "tvd"]
SIZES = Sizes(batch=8, classes=50)


def cut(step, k, *temperatures):
    """The step with teachers of which only the k largest logits are known."""
    tops = {name: top_logits(signals.logits, k, temperatures) for name, signals in step.teachers.items()}
    return replace(step, teachers={name: Signals(torch.empty(SIZES.batch, 0), top=top) for name, top in tops.items()})


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_value_grows_with_k_to_the_dense_one(name):
    step = example_step(SIZES)
    objective = get(name)(temperature=2.0)
    values = [objective(cut(step, k, 2.0)) for k in (1, 5, 20, 49, 50)]
    for smaller, larger in pairwise(values):
        assert (smaller <= larger + 1e-6).all()
    torch.testing.assert_close(values[-1], objective(step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_how_the_student_shares_out_the_rest_makes_no_difference(name):
    step = example_step(SIZES)
    order = step.teacher.logits.argsort(-1, descending=True)
    shuffled = torch.cat([order[:, :5], order[:, 5:].flip(1)], 1)  # the five largest stay, the others swap places
    student = torch.empty_like(step.teacher.logits).scatter(1, shuffled, step.teacher.logits.gather(1, order)).requires_grad_()
    step = replace(step, student=Signals(student))
    objective = get(name)(temperature=2.0)
    values = objective(cut(step, 5, 2.0))
    assert values.abs().max() < 1e-6 < objective(step).min()
    if name != "tvd":  # which has a kink where both agree
        values.sum().backward()
        assert student.grad.abs().max() < 1e-5


def test_another_temperature_is_refused():
    with pytest.raises(ValueError, match="can't be rebuilt"):
        get("kd")(temperature=3.0)(cut(example_step(SIZES), 5, 1.0, 2.0))


def test_several_teachers_are_compared_one_by_one_and_never_merged():
    step = example_step(SIZES, teachers=2)
    both = cut(step, 5, 2.0)
    apart = torch.stack([get("kd")(temperature=2.0)(replace(both, teachers={name: both.teachers[name]})) for name in both.teachers])
    torch.testing.assert_close(get("kd")(temperature=2.0, combine="losses")(both), apart.mean(0))
    for settings in ({"combine": "probabilities"}, {"combine": "losses", "confidence": "entropy"}):
        with pytest.raises(ValueError, match="merged or weighted"):
            get("kd")(temperature=2.0, **settings)(both)


def test_who_needs_all_logits_fails_rather_than_learns_from_a_part(without_runtime_types):
    with pytest.raises(ValueError, match="differ in their outputs"):
        get("dkd")()(cut(example_step(SIZES), 5, 1.0))


def test_samples_are_selected_with_their_tops():
    step = cut(example_step(SIZES), 5, 2.0)
    rows = torch.tensor([True, False] * 4)
    objective = get("kd")(temperature=2.0)
    torch.testing.assert_close(objective(step.select(rows)), objective(step)[rows])
