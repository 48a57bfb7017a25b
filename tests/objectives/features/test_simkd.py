"""SimKD against its formula and its bridge; what it exports is bridge and teacher's head behind the student's feature."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.objectives.features.endings import ending, head, meet
from tests.objectives.features.steps import other_channels, token_step
from tests.objectives.planting import assert_caught
from tests.reference.simkd import simkd_reference
from transfuse.core.heads import Ending, read_ending
from transfuse.core.taps import Taps
from transfuse.errors import ModelError
from transfuse.models.classes import SelectedOutputs
from transfuse.objectives.features.simkd import SimKD, simkd_loss
from transfuse.testing import QUICK, Particulars, Sizes, build, check_objective, example_step, map_tensors


def by_function(objective, step):
    (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
    return simkd_loss(objective.bridge(student), teacher, objective.form)


PARTICULARS = Particulars(function=by_function)


def after_a_relu(sizes):
    return map_tensors(other_channels(sizes), lambda path, tensor: tensor.relu() if ".features." in path else tensor)


def vector_step(sizes):
    step = example_step(sizes, taps=1)
    return map_tensors(step, lambda path, tensor: tensor.mean((2, 3)) if ".features." in path else tensor)


@pytest.mark.parametrize("arguments", [{}, {"form": "paper", "reduction": 3}], ids=str)
def test_simkd_is_proved(arguments):
    check_objective(SimKD, simkd_reference, arguments, other_channels, particulars=PARTICULARS)


def test_vectors_are_proved():
    checks = [check for check in QUICK if check not in ("small", "extreme")]  # a vector has no size to differ in
    check_objective(SimKD, simkd_reference, make_step=vector_step, checks=checks, particulars=PARTICULARS)


def test_the_last_relu_goes_where_the_teacher_is_negative():
    def met(objective, step):
        meet(objective, step)
        build(objective, step)

    particulars = Particulars(prepare=met, skip={"function": "bridged by build"})
    reference = partial(simkd_reference, rectified=False)
    check_objective(SimKD, reference, make_step=other_channels, checks=["value"], particulars=particulars)
    check_objective(SimKD, simkd_reference, make_step=after_a_relu, checks=["value"], particulars=particulars)


def test_the_bridge_without_its_norms_is_caught():
    def wrong(self, step):
        (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
        bridged = nn.Sequential(*[layer for layer in self.bridge if not isinstance(layer, nn.BatchNorm2d)])(student)
        return simkd_loss(bridged + 0.1, teacher, self.form)

    assert_caught(SimKD, wrong, simkd_reference, make_step=other_channels)


def cnn(width: int, outputs: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
    return nn.Sequential(body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(width, outputs)).eval()


def endings(student, teacher, student_tap, teacher_tap, sample) -> tuple[Ending, Ending]:
    pairs = ((student, student_tap), (teacher, teacher_tap))
    first, second = (read_ending(network, sample, Taps(network, [tap], sample)) for network, tap in pairs)
    return first, second


def connected(student, teacher, student_tap="1", teacher_tap="1") -> tuple[SimKD, torch.Tensor]:
    objective, sample = SimKD(), torch.randn(2, 1, 8, 8)
    own, other = endings(student, teacher, student_tap, teacher_tap, sample)
    objective.meet(own, other)
    shapes = ({path: tuple(feature.shape) for path, feature in one.features.items()} for one in (own, other))
    objective.build(*shapes)
    return objective.eval(), sample


@pytest.mark.parametrize(("student_tap", "teacher_tap"), [("1", "1"), ("5@input", "5@input"), ("2@input", "1")])
def test_what_is_exported_is_the_students_feature_bridged_into_the_teachers_head(student_tap, teacher_tap):
    student, teacher = cnn(4), cnn(6, seed=1)
    objective, sample = connected(student, teacher, student_tap, teacher_tap)
    feature = Taps(student, [student_tap], sample)(sample)[1][student_tap]
    bridged = objective.bridge(feature)
    vector = bridged.mean((2, 3)) if bridged.ndim == 4 else bridged
    expected = teacher[5](vector)
    network = objective.export(student)
    torch.testing.assert_close(network(sample), expected)
    assert not list(objective.parameters())  # the bridge has moved: nothing is trained or kept twice
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    frozen = {name: parameter for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert len(frozen) == 2
    assert all(torch.equal(one, other) for one, other in zip(frozen.values(), teacher[5].parameters(), strict=True))
    assert trained


def test_a_feature_that_the_last_layer_does_not_get_is_refused():
    student, teacher = cnn(4), cnn(6, seed=1)
    sample = torch.randn(2, 1, 8, 8)
    for taps, words in ((("0", "1"), "student's '0'"), (("1", "0.0"), r"(?s)teacher's '0\.0'.*teacher_tap: 5@input")):
        with pytest.raises(ModelError, match=words):
            SimKD().meet(*endings(student, teacher, *taps, sample))


def test_a_head_that_runs_before_the_pooling_is_replaced_by_one_that_does():
    student, teacher = cnn(4), cnn(6, seed=1)
    student = nn.Sequential(student[0], student[1], nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    objective, sample = connected(student, teacher)
    expected = teacher[5](objective.bridge(student[:2](sample)).mean((2, 3)))
    torch.testing.assert_close(objective.export(student)(sample), expected)


def test_a_student_that_chooses_among_its_last_layers_outputs_is_refused():
    student, teacher = SelectedOutputs(cnn(4), [2, 0, 1]), cnn(6, seed=1)
    with pytest.raises(ModelError, match="not those of its last layer"):
        SimKD().meet(*endings(student, teacher, "1", "1", torch.randn(2, 1, 8, 8)))


def test_it_ships_nothing_before_it_was_built():
    with pytest.raises(ValueError, match="call meet and build"):
        SimKD().export(cnn(4))


def test_tokens_are_compared_by_their_mean():
    step, objective = token_step(Sizes()), SimKD().double()
    own = ending({"a": step.student.features["stage1"].mean(1)}, head(Sizes(), 1))
    assert own.inputs.shape == (6, 6)
    build(objective, step)
    objective.double().eval()
    expected = simkd_loss(objective.bridge(step.student.features["stage1"].mean(1)), step.teacher.features["stage1"].mean(1))
    torch.testing.assert_close(objective(step), expected)
