"""Turned pictures: one forward pass shows a network all four, and objectives that don't ask for them see the upright ones."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from transfuse.core.card import Card
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Batch, WeightedObjective
from transfuse.engine.rotations import with_turns
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.teacher_cache.teachers import LiveTeacher, TableTeacher
from transfuse.errors import ModelError

from .conftest import weighted

PLAIN = Preprocess()


def convolutional(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))


def pictures(count: int = 5, shape: tuple[int, int] = (6, 6)) -> Batch:
    generator = torch.Generator().manual_seed(0)
    zeros = torch.zeros(count, dtype=torch.int64)
    return Batch(torch.randn(count, 1, *shape, generator=generator), torch.arange(count), zeros, zeros, torch.ones(count, dtype=torch.bool))


class Seeing(nn.Module):
    """Keeps the step that it is shown."""

    def forward(self, step):
        self.step = step
        return step.student.logits.sum(1)


def seeing(name: str, *needs, teachers=("teacher",)) -> WeightedObjective:
    return WeightedObjective(name, Seeing(), Card(name, needs=needs), lambda progress: 1.0, teachers, ("1",), ("2",) if teachers else ())


def shown(*objectives, student=None, teacher=None):
    teachers = {"teacher": teacher or LiveTeacher(convolutional(1), PLAIN, fetch=lambda ids, views: pictures().inputs)}
    stepper = Supervised(student or convolutional(0), PLAIN, objectives, teachers).eval()
    stepper.terms(pictures(), "all", 0.25)
    return teachers["teacher"], stepper


def test_an_objective_sees_what_both_networks_say_of_each_turn():
    objective = seeing("turning", "rotations", "teacher.features")
    teacher, _ = shown(objective)
    inputs, step = pictures().inputs, objective.objective.step
    assert len(step.rotations) == 3
    for turn, view in enumerate([step, *step.rotations]):
        turned = torch.rot90(inputs, turn, (2, 3))
        student, network = convolutional(0).eval(), convolutional(1).eval()
        torch.testing.assert_close(view.batch.inputs, turned)
        torch.testing.assert_close(view.student.logits, student(turned))
        torch.testing.assert_close(view.student.features["1"], student[:2](turned))
        torch.testing.assert_close(view.teacher.logits, network(turned))
        torch.testing.assert_close(view.teacher.features["2"], network[:3](turned))
        assert view.batch.ids.tolist() == [0, 1, 2, 3, 4]
        assert view.progress == 0.25
    assert teacher.forwards == 20


def test_the_student_runs_once_and_its_batchnorm_sees_all_turns():
    student, calls = convolutional(0), []
    student[0].register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    stepper = Supervised(student, PLAIN, [seeing("turning", "rotations", teachers=())]).train()
    stepper.terms(pictures(), "all", 0.0)
    calls.clear()
    stepper.terms(pictures(), "all", 0.0)
    assert calls == [20]


def test_others_see_upright_pictures_only():
    plain, turning = seeing("plain"), seeing("turning", "rotations")
    shown(plain, turning)
    assert plain.objective.step.rotations == ()
    assert plain.objective.step.student.logits.shape == (5, 3)
    torch.testing.assert_close(plain.objective.step.student.logits, turning.objective.step.student.logits)


def test_a_selection_of_samples_holds_for_all_turns():
    objective = seeing("turning", "rotations", "labels")
    shown(objective)
    rows = torch.tensor([3, 1])
    part = objective.objective.step.select(rows)
    assert [view.batch.ids.tolist() for view in part.rotations] == [[3, 1]] * 3
    assert len(part.rotations[2].teacher.logits) == 2


def test_a_teacher_that_remembers_is_asked_live_and_a_table_is_refused():
    class Remembering:
        def __init__(self, live):
            self.live = live

        def answers(self, *_):
            raise AssertionError("it was asked what it remembers")

        covers = property(lambda self: self.live.covers)

    live = LiveTeacher(convolutional(1), PLAIN, fetch=lambda ids, views: pictures().inputs)
    objective = seeing("turning", "rotations")
    shown(objective, teacher=Remembering(live))
    assert live.forwards == 20
    table = TableTeacher(torch.arange(5), torch.zeros(5, 3))
    with pytest.raises(ModelError, match="table of predictions says nothing about turned pictures"):
        shown(replace(objective, teacher_taps=()), teacher=table)


def test_what_has_no_quarter_turns_is_refused():
    with pytest.raises(ValueError, match="not square"):
        with_turns(pictures(shape=(6, 8)))
    columns = replace(pictures(), inputs=torch.zeros(5, 7))
    with pytest.raises(ValueError, match="not square"):
        with_turns(columns)


def test_labels_and_turns_train_together():
    stepper = Supervised(convolutional(0), PLAIN, [weighted("cross_entropy"), seeing("turning", "rotations", teachers=())]).train()
    terms = stepper.terms(pictures(), "all", 0.0)
    assert [len(term.values) for term in terms] == [5, 5]
