"""Contrastive distillation against the formula; its bank: bounded, saved, equal on all processes, never waiting for the device."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.planting import assert_caught
from tests.objectives.relations.steps import narrow_student, scaled_student
from tests.reference.crd import crd_reference
from transfuse.objectives._vectors import unit, vectors
from transfuse.objectives.relations.crd import CRD, crd_loss
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step, map_tensors, processes

SMALL = {"dimensions": 3, "bank_size": 13, "temperature": 0.5}


def remembering(objective, step):
    """Builds, and has the bank filled by three batches, the last of them the step's own."""
    build(objective, step)
    objective.train()
    for offset in (100, 205, 0):
        objective(replace(step, batch=replace(step.batch, ids=step.batch.ids + offset)))


def embeddings(objective, step):
    student = objective.student_embedding(vectors(step.student.features["stage1"]))
    teacher = objective.teacher_embedding(vectors(step.teacher.features["stage1"].detach()))
    return unit(student), unit(teacher)


def by_function(objective, step):
    owners, ids = objective.owners[:-1], step.batch.ids[:, None]
    negatives = (owners >= 0) & (owners != ids)
    banks = objective.student_bank[:-1], objective.teacher_bank[:-1]
    return crd_loss(*embeddings(objective, step), *banks, negatives, objective.constants, objective.temperature)


PARTICULARS = Particulars(prepare=remembering, function=by_function)


def made(step, **arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        objective = CRD(**{**SMALL, **arguments})
        build(objective, step)
    return objective.double()


def one_tap(sizes=None):
    return example_step(sizes or Sizes(), taps=1)


def test_crd_is_proved():
    check_objective(CRD, crd_reference, SMALL, make_step=narrow_student, particulars=PARTICULARS)


@pytest.mark.parametrize("arguments", [{"form": "paper"}, {"negatives": "classes"}], ids=str)
def test_other_forms_are_proved(arguments):
    checks = [check for check in QUICK if check not in ("function", "needs", "unlabelled")]  # the class compares labels here
    if "form" in arguments:
        checks += ["needs", "unlabelled"]
    check_objective(CRD, crd_reference, {**SMALL, **arguments}, checks=checks, particulars=PARTICULARS)


def test_an_empty_bank_contrasts_nothing_and_is_finite():
    step = one_tap()
    check_objective(CRD, crd_reference, SMALL, checks=["value", "gradient"], particulars=Particulars(function=by_function))
    assert torch.isfinite(made(step).eval()(step)).all()


def test_the_bank_never_grows():
    objective = made(one_tap())
    for seed in range(5):
        objective(one_tap(Sizes(batch=9, seed=seed)))
    assert objective.student_bank.shape == (SMALL["bank_size"] + 1, SMALL["dimensions"])
    assert CRD(bank_size=100).teacher_bank.shape == (101, 128)


def test_a_sample_is_found_at_its_place_and_moves_there_with_momentum():
    step = one_tap()
    step = replace(step, batch=replace(step.batch, ids=torch.tensor([3, 4, 16, 5, 7, 8])))  # 3 and 16 have the same place, 16 comes later
    objective = made(step)
    objective(step)
    first = embeddings(objective, step)[0].detach()
    torch.testing.assert_close(objective.student_bank[3], first[2])
    torch.testing.assert_close(objective.student_bank[4], first[1])
    assert objective.owners.tolist() == [-1, -1, -1, 16, 4, 5, -1, 7, 8, -1, -1, -1, -1, -1]
    moved = scaled_student(step)
    objective(moved)
    second = embeddings(objective, moved)[0].detach()
    torch.testing.assert_close(objective.student_bank[4], unit(0.5 * first[1] + 0.5 * second[1]))


def test_the_bank_stays_as_it_is_in_eval_mode():
    step = one_tap()
    objective = made(step).eval()
    objective(step)
    assert (objective.owners == -1).all()


def test_the_constant_is_measured_once_and_kept_by_a_resumed_run():
    step = one_tap()
    step = replace(step, batch=replace(step.batch, ids=torch.arange(len(step.batch))))
    objective = made(step)
    objective(step)
    student, teacher = (rows.detach() for rows in embeddings(objective, step))
    others = ~torch.eye(len(step.batch), dtype=torch.bool)
    expected = [torch.exp(one @ other.T / SMALL["temperature"])[others].mean() for one, other in ((student, teacher), (teacher, student))]
    torch.testing.assert_close(objective.constants, torch.stack(expected))
    before = objective.constants.clone()
    resumed = made(step)
    resumed.load_state_dict(objective.state_dict())
    other = one_tap(Sizes(seed=4))
    torch.testing.assert_close(resumed(other), objective(other), rtol=0, atol=0)
    assert torch.equal(resumed.constants, before)


def test_the_constant_is_measured_on_the_first_batch_that_has_another_class():
    step = one_tap()
    alike = replace(step, batch=replace(step.batch, ids=torch.arange(6), labels=torch.zeros(6, dtype=torch.int64)))
    objective = made(step, negatives="classes")
    objective(alike)
    assert torch.equal(objective.constants, torch.zeros(2).double())
    mixed = replace(step, batch=replace(step.batch, ids=torch.arange(6, 12), labels=torch.tensor([1, 1, 2, 2, 0, 1])))
    objective(mixed)
    (student, teacher), labels = (rows.detach() for rows in embeddings(objective, mixed)), mixed.batch.labels
    remembered = [(objective.student_bank[place], objective.teacher_bank[place], alike.batch.labels[place]) for place in range(6)]
    remembered += list(zip(student, teacher, labels, strict=True))
    expected = []
    for own, side in ((student, 1), (teacher, 0)):
        scores = [
            torch.exp(anchor @ row[side] / SMALL["temperature"])
            for anchor, label in zip(own, labels, strict=True)
            for row in remembered
            if row[2] != label
        ]
        expected.append(torch.stack(scores).mean())
    torch.testing.assert_close(objective.constants, torch.stack(expected))
    before = objective.constants.clone()
    objective(alike)
    assert torch.equal(objective.constants, before)


def test_batches_of_one_sample_are_measured_once_there_is_another():
    step, objective = one_tap(), made(one_tap())
    objective(step.select(torch.tensor([0])))
    assert torch.equal(objective.constants, torch.zeros(2).double())
    objective(step.select(torch.tensor([1])))
    assert (objective.constants > 0).all()


def test_a_training_step_never_waits_for_the_device():
    step = map_tensors(one_tap(), lambda _, tensor: tensor.to("meta"))  # holds no values: asking for one raises
    values = made(one_tap()).to("meta")(step)
    assert values.shape == (6,)
    values.sum().backward()


def after_training(objective, step):
    objective.train()
    objective(step)
    return {name: buffer.clone() for name, buffer in objective.named_buffers()}


def test_two_processes_remember_what_one_remembers():
    step = one_tap()
    objective = made(step)
    first, second = processes(2).call(after_training, [(objective, step.select(rows)) for rows in torch.arange(6).chunk(2)])
    whole = after_training(objective, step)
    for name, buffer in whole.items():
        torch.testing.assert_close(first[name], buffer)
        assert torch.equal(first[name], second[name]), name


def test_float_labels_have_no_other_classes():
    step = example_step(Sizes(), task="multilabel", taps=1)
    assert torch.isfinite(made(step)(step)).all()
    with pytest.raises(ValueError, match="class number"):
        made(step, negatives="classes")(step)


def once_remembered(wrong):
    """The wrong formula in eval mode; before that the bank is filled as it should be."""
    forward = CRD.forward
    return lambda self, step: forward(self, step) if self.training else wrong(self, step)


def test_a_sample_among_its_own_negatives_is_caught():
    def wrong(self, step):
        negatives = (self.owners[:-1] >= 0).expand(len(step.batch), -1)
        banks = self.student_bank[:-1], self.teacher_bank[:-1]
        return crd_loss(*embeddings(self, step), *banks, negatives, self.constants, self.temperature)

    assert_caught(CRD, once_remembered(wrong), crd_reference, arguments=SMALL, particulars=PARTICULARS)


def test_banks_in_each_others_place_are_caught():
    def wrong(self, step):
        self.student_bank, self.teacher_bank = self.teacher_bank, self.student_bank
        return by_function(self, step)

    assert_caught(CRD, once_remembered(wrong), crd_reference, arguments=SMALL, particulars=PARTICULARS)
