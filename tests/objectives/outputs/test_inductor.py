"""Generated C++ gives the eager value and gradient, for a few objectives that differ in what they ask of the compiler."""

import pytest

from tests.reference.dist import dist_reference
from tests.reference.dkd import dkd_reference
from tests.reference.kd import kd_reference
from transfuse.objectives.outputs.dist import DIST
from transfuse.objectives.outputs.dkd import DKD
from transfuse.objectives.outputs.kd import KD
from transfuse.testing import check_objective
from transfuse.testing.use_checks import has_cpp_compiler


@pytest.mark.skipif(not has_cpp_compiler(), reason="inductor builds CPU code with a C++ compiler, and there is none")
@pytest.mark.parametrize(("objective_class", "reference"), [(KD, kd_reference), (DKD, dkd_reference), (DIST, dist_reference)])
def test_inductor_agrees_with_eager(objective_class, reference):
    check_objective(objective_class, reference, checks=["inductor"])
