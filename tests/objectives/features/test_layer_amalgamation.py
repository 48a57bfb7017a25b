"""Layer-wise amalgamation against its formula."""

import torch

from tests.objectives.features.several import prepare, two_teachers
from tests.reference.amalgamated_features import layer_amalgamation_reference
from transfuse.objectives._vectors import last_tap, unit, vectors
from transfuse.objectives.features._teachers import features_of
from transfuse.objectives.features.layer_amalgamation import LayerAmalgamation, layer_amalgamation_loss
from transfuse.testing import Particulars, Sizes, check_objective, run


def parts(objective, step):
    teachers = [unit(feature) * feature.shape[1] ** 0.5 for feature in features_of(step, 2)]
    code = objective.encode(torch.cat(teachers, 1))
    student = objective.of_student(vectors(last_tap(step.student, "student")))
    return student, code, teachers, objective.decode(code).split(objective.widths, 1)


def function(objective, step):
    return layer_amalgamation_loss(*parts(objective, step), objective.reconstruction)


def code_held(objective, step, objective_0, step_0):
    student, code, teachers, rebuilt = parts(objective, step)
    held = parts(objective_0, step_0)[1]
    apart = layer_amalgamation_loss(code, code, teachers, rebuilt, objective.reconstruction)  # its first term is 0
    return (student - held).square().mean(1) + apart


def test_layer_amalgamation_is_proved():
    particulars = Particulars(prepare=prepare, function=function, surrogate=code_held)
    check_objective(LayerAmalgamation, layer_amalgamation_reference, {"width": 5}, two_teachers, particulars=particulars)


def test_the_code_is_not_pulled_towards_the_student():
    step = two_teachers(Sizes())
    objective = LayerAmalgamation(5, 1e-6)
    prepare(objective, step)
    gradients = run(objective.double(), step).gradients
    assert gradients["objective.encode.weight"].abs().max() < 1e-5 * gradients["objective.of_student.weight"].abs().max()
