"""SSKD against the formula: what the teacher's embedding is prepared by, and what the student learns of turned pictures afterwards."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.planting import assert_caught
from tests.reference.sskd import preparation_reference, sskd_reference
from transfuse.objectives._vectors import vectors
from transfuse.objectives.relations.sskd import CARD, SSKD, sskd_loss, sskd_similarities
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step, map_tensors, run, shift_student_logits

HALF = {"kept_turned": 0.5, "kept_likeness": 0.5, "upright": 0.3, "turned": 1.5, "likeness": 4.0, "temperature": 2.0}


def seen(objective, step):
    """What the function takes: four turns of logits and embeddings of student and teacher."""
    views = [step, *step.rotations]
    embedded = [
        torch.stack([getattr(objective, f"{whose}_embedding")(vectors(getattr(view, whose).features["stage1"])) for view in views])
        for whose in ("student", "teacher")
    ]
    return [torch.stack([getattr(view, whose).logits for view in views]) for whose in ("student", "teacher")] + embedded


def function(objective, step):
    return sskd_loss(*seen(objective, step), step.batch.labels, objective.weights, objective.temperatures, objective.kept)


def wide_teacher(sizes):
    """The teacher's features have two channels more than the student's."""
    step = example_step(sizes, taps=1, rotations=True)
    return map_tensors(step, lambda path, tensor: tensor[:, :-2] if "student.features" in path else tensor)


PARTICULARS = Particulars(function=function)


def turns_in_another_order(step):
    return replace(step, rotations=step.rotations[::-1])


def test_sskd_is_proved():
    invariance = {"a softmax ignores shifts": shift_student_logits, "turns have no order": turns_in_another_order}
    check_objective(SSKD, sskd_reference, make_step=wide_teacher, invariance=invariance, particulars=PARTICULARS)


def test_leaving_out_what_the_teacher_gets_wrong_is_proved():
    labels = "labels only choose what teaches; without them everything does"
    check_objective(SSKD, sskd_reference, HALF, checks=QUICK, particulars=replace(PARTICULARS, skip={"needs": labels}))


class Preparing(SSKD):
    """The preparation as an objective of its own; the student's embedding is no part of it."""

    def build(self, student_shapes, teacher_shapes):
        super().build(student_shapes, teacher_shapes)
        self.student_embedding = torch.nn.Identity()

    def stages(self):
        return ()

    def forward(self, step):
        return self.prepare(step)


def test_the_preparation_of_the_teachers_embedding_is_proved():
    particulars = Particulars(
        card=replace(CARD, needs=("teacher.features", "rotations")), skip={"function": "a method", "schema": "SSKD's own"}
    )
    check_objective(Preparing, preparation_reference, make_step=wide_teacher, particulars=particulars)


def test_preparing_learns_which_upright_picture_a_turned_one_is():
    torch.manual_seed(0)
    upright = example_step(Sizes(batch=8), taps=1)
    turned = map_tensors(upright, lambda path, tensor: tensor.flip(1) if "teachers" in path and tensor.ndim == 4 else tensor)
    step = replace(upright, rotations=(turned,) * 3)
    objective = _built(step)

    def found():
        return (sskd_similarities(seen(objective, step)[3]).argmax(1) == torch.arange(8).repeat(3)).float().mean()

    assert found() < 0.5
    optimizer = torch.optim.Adam(objective.teacher_embedding.parameters(), lr=0.005)
    for _ in range(400):
        optimizer.zero_grad()
        objective.prepare(step).backward()
        optimizer.step()
    assert found() == 1


def test_pictures_without_a_label_teach_whatever_the_teacher_says():
    step = example_step(Sizes(batch=4, classes=3), taps=1, rotations=True)
    wrong = torch.tensor([2, 2, 2, 2])
    sure = torch.tensor([9.0, 0.0, -9.0]).double().expand(4, 4, 3)
    student, _, *embeddings = (torch.zeros_like(tensor) for tensor in seen(_built(step), step))
    values = {
        labels: sskd_loss(student, sure, *embeddings, torch.tensor(row), weights=(0.0, 1.0, 0.0), kept=(0.0, 1.0)).item()
        for labels, row in {"all": wrong.tolist(), "none": [-1] * 4, "right": [0] * 4}.items()
    }
    assert values["all"] == 0
    assert values["none"] == values["right"] > 1


def _built(step):
    objective = SSKD()
    build(objective, step)
    return objective.double()


def test_nothing_that_was_prepared_is_trained_by_the_student():
    step = example_step(Sizes(), taps=1, rotations=True)
    gradients = run(_built(step), step).gradients
    assert gradients["objective.student_embedding.0.weight"].abs().max() > 0


def test_a_step_without_turned_pictures_is_refused():
    step = example_step(Sizes(), taps=1)
    with pytest.raises(ValueError, match="four turns"):
        _built(step)(step)


def test_likenesses_to_other_pictures_are_caught():
    def wrong(self, step):
        values = seen(self, step)
        return sskd_loss(*values[:2], values[2].flip(1), values[3], None, self.weights, self.temperatures, self.kept)

    assert_caught(SSKD, wrong, sskd_reference)


def test_lessons_that_the_teacher_gets_wrong_are_caught():
    def wrong(self, step):
        return sskd_loss(*seen(self, step), None, self.weights, self.temperatures, (1.0, 1.0))

    assert_caught(SSKD, wrong, sskd_reference)


def test_a_training_step_never_waits_for_the_device():
    step = map_tensors(example_step(Sizes(), taps=1, rotations=True), lambda _, tensor: tensor.to("meta"))  # holds no values to wait for
    objective = SSKD(**HALF)
    build(objective, step)
    objective.double().to("meta")(step).backward()
