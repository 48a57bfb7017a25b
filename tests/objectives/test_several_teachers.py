"""What a card says about several teachers is what the objective does with them."""

import pytest
import torch

from transfuse import objectives
from transfuse.testing import Sizes, example_step

LOGITS = [
    name
    for name in objectives.names()
    if {"teacher.logits", "teacher.logits.dense"} & set(objectives.card(name).needs)
    and "teacher.features" not in objectives.card(name).needs
]


@pytest.mark.parametrize("name", LOGITS)
def test_an_objective_takes_as_many_teachers_as_its_card_says(name):
    card, objective = objectives.card(name), objectives.get(name)()
    step = example_step(Sizes(), teachers=2, task=card.tasks[0], taps=int("student.features" in card.needs), two_views=True)
    if hasattr(objective, "set_outputs"):
        objective.set_outputs(step.student.logits.shape[-1])
    if hasattr(objective, "build"):
        objective.build({path: tuple(feature.shape) for path, feature in step.student.features.items()}, {})
    objective.double().eval()
    if card.teachers == "several":
        assert torch.isfinite(objective(step)).all()
    else:
        with pytest.raises(ValueError, match="takes one teacher, the step has 2"):
            objective(step)


def test_there_are_objectives_of_both_kinds():
    kinds = {objectives.card(name).teachers for name in LOGITS}
    assert kinds == {"one", "several"}
