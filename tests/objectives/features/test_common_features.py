"""Common feature learning against its formula, and what each of its parts is for."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.objectives.features.several import prepare, two_teachers
from tests.reference.amalgamated_features import common_features_reference
from transfuse.objectives._vectors import last_tap, unit, vectors
from transfuse.objectives.domains._kernels import square_distances
from transfuse.objectives.features._teachers import features_of
from transfuse.objectives.features.common_features import CommonFeatures, _scaled, common_features_loss
from transfuse.testing import QUICK, Particulars, Sizes, check_objective, run

ARGUMENTS = {"width": 5, "reconstruction": 0.5}


def parts(objective, step):
    teachers = [_scaled(feature) for feature in features_of(step, 2)]
    common = [layers(feature) for layers, feature in zip(objective.of_teachers, teachers, strict=True)]
    rebuilt = [layers(own) for layers, own in zip(objective.rebuild, common, strict=True)]
    return objective.of_student(vectors(last_tap(step.student, "student"))), common, teachers, rebuilt


def function(objective, step):
    return common_features_loss(*parts(objective, step), objective.reconstruction)


def widths_held(objective, step, objective_0, step_0):
    student, common, _, _ = parts(objective_0, step_0)
    scales = [square_distances(torch.cat([unit(student), unit(own)])).mean().detach() for own in common]
    return common_features_loss(*parts(objective, step), objective.reconstruction, scales)


PARTICULARS = Particulars(prepare=prepare, function=function, surrogate=widths_held)


def test_common_features_are_proved():
    check_objective(CommonFeatures, common_features_reference, ARGUMENTS, two_teachers, particulars=PARTICULARS)


def test_without_reconstruction_only_the_distance_counts():
    arguments = {"width": 5, "reconstruction": 0.0}
    skip = {"gradient_flow": "nothing is rebuilt, so the layers that would rebuild get a gradient of 0 that autograd may leave out"}
    particulars = Particulars(prepare=prepare, function=function, surrogate=widths_held, skip=skip)
    check_objective(CommonFeatures, common_features_reference, arguments, two_teachers, checks=QUICK, particulars=particulars)


def test_a_student_whose_common_features_are_the_teachers_is_at_distance_zero():
    rows = torch.randn(6, 5, dtype=torch.float64)
    features = [torch.randn(6, 3, dtype=torch.float64)]
    assert common_features_loss(2 * rows, [rows], features, features).abs() < 1e-12
    assert common_features_loss(2 * rows.flip(0), [rows], features, features).abs() < 1e-12  # it compares distributions
    assert common_features_loss(-rows, [rows], features, features) > 0.01


def test_it_refuses_a_step_that_it_was_not_built_for():
    with pytest.raises(ValueError, match="built for 0 teachers, the step has 2"):
        run(CommonFeatures(5), two_teachers(Sizes()))


class OnOneDevice(TorchDispatchMode):
    """Refuses tensors that are made elsewhere and have to be copied; a single number is none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        assert not isinstance(made, torch.Tensor) or made.ndim == 0 or made.device.type == "meta", f"{func} made a tensor elsewhere"
        return made


def test_nothing_is_copied_to_the_device_in_a_step():
    rows, features = torch.randn(6, 5, device="meta"), torch.randn(6, 3, device="meta")
    with OnOneDevice():
        common_features_loss(rows, [rows, rows], [features, features], [features, features])
