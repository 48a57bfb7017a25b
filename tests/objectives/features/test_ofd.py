"""OFD against the formula with margins, and the margins against the mean of what is negative, seen or by BatchNorm."""

import pytest
import torch
from torch import nn

from tests.objectives.features.steps import stages
from tests.reference.ofd import batchnorm_margin, ofd_reference
from transfuse.core.norms import Norm
from transfuse.core.types import WeightedObjective
from transfuse.engine.features import connect
from transfuse.errors import ModelError
from transfuse.objectives.features.ofd import CARD, OFD, batchnorm_margins, ofd_loss
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step, processes


def prepare(objective, step):
    build(objective, step)
    for margins in objective.margins():
        margins.copy_(-torch.rand(len(margins)))


def function(objective, step):
    (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
    return ofd_loss(*objective.bridges[0](student, teacher), objective.margins()[0])


def test_ofd_is_proved():
    check_objective(OFD, ofd_reference, particulars=Particulars(function=function, prepare=prepare))


def test_earlier_taps_weigh_half():
    particulars = Particulars(prepare=prepare, skip={"function": "takes one pair"})
    check_objective(OFD, ofd_reference, make_step=stages, checks=QUICK, particulars=particulars)


def test_what_a_relu_hides_costs_nothing():
    student, teacher = torch.tensor([[-3.0, -0.5, 2.0, 1.0]]), torch.tensor([[-1.0, -2.0, 2.0, -2.0]])
    value = ofd_loss(student, teacher, torch.full((4,), -1.0))
    # -3 is below -1: free; -0.5 is above the margin -1: 0.25; 2 is 2: 0; 1 is 2 above the margin: 4
    torch.testing.assert_close(value, torch.tensor([4.25]))


def trained_on(steps):
    objective = OFD()
    build(objective, steps[0])
    objective.double().train()
    for step in steps:
        objective(step)
    return objective


def mean_of_negatives(steps):
    features = torch.cat([step.teacher.features["stage1"] for step in steps])
    return torch.stack([features[:, c][features[:, c] < 0].mean() for c in range(features.shape[1])])


def test_margins_are_the_mean_of_negative_responses_over_all_steps_in_training():
    steps = [example_step(Sizes(seed=seed), taps=1) for seed in range(3)]
    untrained = OFD()
    build(untrained, steps[0])
    untrained.double().eval()(steps[0])
    assert torch.equal(untrained.margins()[0], torch.zeros(6).double())
    torch.testing.assert_close(trained_on(steps).margins()[0], mean_of_negatives(steps))


def test_a_step_with_few_negative_responses_counts_as_few():
    steps = [example_step(Sizes(seed=seed), taps=1) for seed in range(4)]
    steps[1].teacher.features["stage1"].abs_()
    steps[3].teacher.features["stage1"][1:] = 1.0
    torch.testing.assert_close(trained_on(steps).margins()[0], mean_of_negatives(steps))


def test_margins_go_on_from_a_saved_state():
    steps = [example_step(Sizes(seed=seed), taps=1) for seed in range(4)]
    half = OFD()
    build(half, steps[0])
    half.double().load_state_dict(trained_on(steps[:2]).state_dict())
    half.train()
    for step in steps[2:]:
        half(step)
    assert torch.equal(half.margins()[0], trained_on(steps).margins()[0])


def test_a_channel_that_is_never_negative_again_keeps_its_margin():
    step = example_step(Sizes(), taps=1)
    objective = trained_on([step])
    objective.negatives_0.zero_()  # what very many steps without a negative response leave
    step.teacher.features["stage1"].abs_()
    objective(step)
    torch.testing.assert_close(objective.margins()[0], trained_on([example_step(Sizes(), taps=1)]).margins()[0])


def margins_after(objective, step):
    objective.train()(step)
    return objective.margins()[0]


def test_two_processes_see_the_negative_responses_of_both():
    step = example_step(Sizes(), taps=1)
    step.teacher.features["stage1"][:3] = step.teacher.features["stage1"][:3].abs()
    objective = OFD()
    build(objective, step)
    found = processes(2).call(margins_after, [(objective.double(), step.select(rows)) for rows in torch.arange(6).chunk(2)])
    for margins in found:
        torch.testing.assert_close(margins, mean_of_negatives([step]))


def test_behind_a_relu_the_margin_is_zero():
    step = example_step(Sizes(), taps=1)
    step.teacher.features["stage1"].relu_()
    objective = OFD()
    build(objective, step)
    objective.double().train()(step)
    assert torch.equal(objective.margins()[0], torch.zeros(6).double())


WEIGHTS, BIASES = (1.0, -0.5, 2.0, 0.7, 0.3, 1.0), (0.0, 0.4, -3.0, 2.0, 1.0, 3.2)  # the last two are almost never negative


def norm():
    return Norm("bn", torch.tensor(BIASES, dtype=torch.float64), torch.tensor(WEIGHTS, dtype=torch.float64).abs())


def test_margins_by_batchnorm_are_the_mean_of_the_negative_part_of_a_normal_distribution():
    expected = [batchnorm_margin(weight, bias) for weight, bias in zip(WEIGHTS, BIASES, strict=True)]
    torch.testing.assert_close(batchnorm_margins(norm()), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0)
    assert expected[-2:] == [-3 * 0.3, -3.0]


def test_a_channel_that_batchnorm_holds_constant_has_a_finite_margin():
    constant = Norm("bn", torch.tensor([-0.5, 0.0, 0.5]), torch.zeros(3))
    torch.testing.assert_close(batchnorm_margins(constant), torch.tensor([-0.5, 0.0, 0.0]))


def by_batchnorm(objective, step):
    channels = next(iter(step.teacher.features.values())).shape[1]
    shown = Norm("bn", norm().mean[:channels], norm().deviation[:channels])
    objective.take_norms(dict.fromkeys(step.teacher.features, shown))
    build(objective, step)


def test_ofd_with_margins_by_batchnorm_is_proved():
    particulars = Particulars(function=function, prepare=by_batchnorm)
    check_objective(OFD, ofd_reference, {"margins": "batchnorm"}, checks=QUICK, particulars=particulars)


class Teacher(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm, self.relu, self.head = norm, nn.ReLU(), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.head(self.relu(self.norm(inputs)).mean((2, 3)))


def connected(teacher):
    objective = WeightedObjective("ofd", OFD("batchnorm"), CARD, lambda progress: 1.0, ("teacher",), ("relu@input",), ("relu@input",))
    sample = torch.randn(1, 6, 4, 4)
    [found], _ = connect([objective], (Teacher(nn.Identity()), sample), {"teacher": (teacher, sample)}, seed=0)
    return found.objective


def test_a_job_reads_the_teachers_batchnorm_once_and_training_leaves_the_margins_alone():
    batchnorm = nn.BatchNorm2d(6)
    with torch.no_grad():
        batchnorm.weight.copy_(torch.tensor(WEIGHTS))
        batchnorm.bias.copy_(torch.tensor(BIASES))
    objective = connected(Teacher(batchnorm))
    expected = torch.tensor([batchnorm_margin(weight, bias) for weight, bias in zip(WEIGHTS, BIASES, strict=True)])
    torch.testing.assert_close(objective.margins()[0], expected)
    objective.double().train()(example_step(Sizes(), taps=1))
    torch.testing.assert_close(objective.margins()[0].float(), expected)


def test_a_teacher_without_batchnorm_is_refused_before_training():
    with pytest.raises(ModelError, match="none before 'relu@input'"):
        connected(Teacher(nn.Identity()))
