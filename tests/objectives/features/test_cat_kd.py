"""CAT-KD against loops over classes and positions; maps whose mean is the logit, up to the bias."""

import pytest
import torch

from tests.objectives.features.endings import ending, head, meet, step_with_heads
from tests.objectives.features.steps import features_times, reverse_positions
from tests.objectives.planting import assert_caught
from tests.reference.cat_kd import cat_kd_reference
from transfuse.errors import ModelError
from transfuse.objectives.features.cat_kd import CATKD, cat_kd_loss, class_maps
from transfuse.testing import QUICK, Particulars, Sizes, check_objective


def by_function(objective, step):
    (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
    student_maps = class_maps(student, step.parameters["linear.weight"], objective.resolution)
    return cat_kd_loss(student_maps, class_maps(teacher, objective.teacher_head, objective.resolution), objective.normalize, objective.form)


PARTICULARS = Particulars(prepare=meet, function=by_function)
FACTS = {"only the place of evidence counts": features_times(0.5, 3.0), "maps may be mirrored": reverse_positions}


def test_cat_kd_is_proved():
    check_objective(CATKD, cat_kd_reference, make_step=step_with_heads, invariance=FACTS, particulars=PARTICULARS)


def test_the_papers_form_is_proved():
    check_objective(CATKD, cat_kd_reference, {"form": "paper", "resolution": 3}, step_with_heads, checks=QUICK, particulars=PARTICULARS)


def test_maps_with_their_amount_are_proved():
    arguments = {"normalize": False, "resolution": 4}
    checks = [check for check in QUICK if check != "extreme"]  # 1e4 times weights of 1e4, squared, has a gradient beyond float16
    check_objective(CATKD, cat_kd_reference, arguments, step_with_heads, checks=checks, particulars=PARTICULARS)


def test_the_mean_of_a_class_map_is_the_logit_without_its_bias():
    features, weight = torch.randn(3, 6, 4, 4), torch.randn(5, 6)
    for resolution in (1, 2, 4):
        torch.testing.assert_close(class_maps(features, weight, resolution).mean((2, 3)), features.mean((2, 3)) @ weight.T)


def test_equal_maps_cost_nothing():
    step, objective = step_with_heads(Sizes()), CATKD()
    own = ending(step.student.features, step.parameters["linear.weight"])
    objective.meet(own, own)
    step.teacher.features["stage1"] = step.student.features["stage1"]
    assert torch.equal(objective(step), torch.zeros(6, dtype=torch.float64))


def test_maps_that_are_not_normalised_are_caught():
    def wrong(self, step):
        self.normalize = False
        return CATKD.forward(self, step)

    assert_caught(CATKD, wrong, cat_kd_reference, make_step=step_with_heads, particulars=PARTICULARS)


def test_networks_without_class_maps_are_refused():
    step = step_with_heads(Sizes())
    right = ending(step.teacher.features, head(Sizes(), 2))
    shifted = ending({"stage1": step.student.features["stage1"] + 1}, head(Sizes(), 1))
    shifted.features["stage1"] = step.student.features["stage1"]
    with pytest.raises(ModelError, match="student's 'stage1', averaged over positions"):
        CATKD().meet(shifted, right)
    with pytest.raises(ModelError, match="not those of its last layer"):
        CATKD().meet(ending(step.student.features, head(Sizes(), 1), plain=False), right)


def test_the_teachers_head_is_in_no_checkpoint():
    objective = CATKD()
    meet(objective, step_with_heads(Sizes()))
    assert not objective.state_dict()
    assert not list(objective.parameters())
