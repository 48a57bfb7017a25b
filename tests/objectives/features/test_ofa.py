"""OFA-KD against loops over classes, through exits at one and at several depths."""

from functools import partial

import pytest
import torch

from tests.objectives.features.steps import stages, token_step
from tests.objectives.planting import assert_caught
from tests.reference.ofa import ofa_reference
from transfuse.objectives.features.ofa import OFA, ofa_loss
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step, reverse_classes, shift_student_logits


def prepare(objective, step):
    objective.set_outputs(step.student.logits.shape[-1])
    build(objective, step)


def by_function(objective, step):
    settings = (step.teacher.logits, step.batch.labels, objective.epsilon, objective.temperature, objective.form)
    return torch.stack([ofa_loss(logits, *settings) for logits in [*objective.exit_logits(step), step.student.logits]]).sum(0)


PARTICULARS = Particulars(prepare=prepare, function=by_function)
FACTS = {"a softmax ignores shifts": shift_student_logits}
tapped = partial(example_step, taps=1)


def test_ofa_is_proved():
    check_objective(OFA, ofa_reference, make_step=tapped, invariance=FACTS, particulars=PARTICULARS)


@pytest.mark.parametrize(
    "arguments", [{"form": "paper", "epsilon": 1.5}, {"epsilon": 1.5, "temperature": 2.0, "own_outputs": False}], ids=str
)
def test_other_forms_and_exits_of_several_depths_are_proved(arguments):
    particulars = Particulars(prepare=prepare, skip={"function": "several exits"})
    make_step = partial(stages, count=3)
    check_objective(OFA, ofa_reference, arguments, make_step, checks=QUICK, particulars=particulars)


def test_at_epsilon_1_it_is_the_cross_entropy_to_the_teacher():
    student, teacher, labels = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, -1])
    p = teacher.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    torch.testing.assert_close(ofa_loss(student, teacher, labels), kd_loss(student, teacher, 1.0) + entropy)
    with_label = ofa_loss(student, teacher, labels, form="paper") - ofa_loss(student, teacher, labels)
    expected = torch.nn.functional.cross_entropy(student, labels.clamp(min=0), reduction="none") * (labels >= 0)
    torch.testing.assert_close(with_label, expected)


def test_classes_have_no_order():
    step = example_step(Sizes())
    turned = reverse_classes(step)
    one, other = (ofa_loss(s.student.logits, s.teacher.logits, s.batch.labels, 1.5) for s in (step, turned))
    torch.testing.assert_close(one, other)


def test_a_larger_epsilon_pulls_harder_at_the_target_of_a_sure_teacher():
    student, labels = torch.zeros(1, 3, requires_grad=True), torch.tensor([0])
    sure = torch.tensor([[4.0, 0.0, 0.0]])
    pulls = [torch.autograd.grad(ofa_loss(student, sure, labels, epsilon).sum(), student)[0][0, 0] for epsilon in (1.0, 1.5, 2.0)]
    assert pulls[0] > pulls[1] > pulls[2]


def test_a_power_of_the_target_alone_is_caught():
    def wrong(self, step):
        logits = [*self.exit_logits(step), step.student.logits]
        return torch.stack([ofa_loss(one, step.teacher.logits, step.batch.labels, self.epsilon, form="paper") for one in logits]).sum(0)

    assert_caught(OFA, wrong, ofa_reference, make_step=tapped, particulars=PARTICULARS)


def test_tokens_and_vectors_have_exits_too():
    for step in (token_step(Sizes()), example_step(Sizes(student_spatial=(1, 1)), taps=1)):
        if step.student.features["stage1"].ndim == 4:
            step.student.features["stage1"] = step.student.features["stage1"].flatten(1)
        objective = OFA()
        prepare(objective, step)
        assert objective.double().eval()(step).shape == (6,)


@pytest.mark.parametrize(
    ("outputs", "shapes", "words"), [(0, {"a": (1, 4, 2, 2)}, "no choice"), (3, {}, "no feature"), (1, {"a": (1, 4)}, "1 outputs")]
)
def test_exits_that_cannot_be_made_are_refused(outputs, shapes, words):
    objective = OFA()
    objective.set_outputs(outputs)
    with pytest.raises(ValueError, match=words):
        objective.build(shapes, {})
