"""Generated C++ gives the eager value and gradient, for six objectives that differ in what they ask of the compiler."""

import pytest

from tests.reference.dist import dist_reference
from tests.reference.dkd import dkd_reference
from tests.reference.fitnet import fitnet_reference
from tests.reference.kd import kd_reference
from tests.reference.nst import nst_reference
from tests.reference.rkd import rkd_reference
from transfuse.engine.precision import has_cpp_compiler
from transfuse.objectives.features.fitnet import FitNet
from transfuse.objectives.features.nst import NST
from transfuse.objectives.outputs.dist import DIST
from transfuse.objectives.outputs.dkd import DKD
from transfuse.objectives.outputs.kd import KD
from transfuse.objectives.relations.rkd import RKD
from transfuse.testing import check_objective

SIX = [
    (KD, kd_reference),  # two softmaxes and a sum
    (DKD, dkd_reference),  # classes picked by label
    (DIST, dist_reference),  # correlations along both axes
    (FitNet, fitnet_reference),  # a trained bridge
    (NST, nst_reference),  # products of matrices
    (RKD, rkd_reference),  # distances and angles between all samples
]


@pytest.mark.skipif(not has_cpp_compiler(), reason="inductor builds CPU code with a C++ compiler, and there is none")
@pytest.mark.parametrize(("objective_class", "reference"), SIX, ids=[reference.__name__ for _, reference in SIX])
def test_inductor_agrees_with_eager(objective_class, reference):
    check_objective(objective_class, reference, checks=["inductor"])
