"""Every objective that brings maps to one size is compared with its formula at unequal sizes, so that another way of resizing is seen."""

import pytest
import torch.nn.functional as F

from tests.objectives.features import test_ofd
from tests.objectives.features.steps import stages
from tests.reference import ab, attention_transfer, cwd, fitnet, fsp, ft, mgd, nst, ofd, vid
from transfuse import objectives
from transfuse.core import bridges
from transfuse.objectives.features import fsp as fsp_objective
from transfuse.testing import ObjectiveDefect, Particulars, check_objective

REFERENCES = {
    "ab": ab.ab_reference,
    "attention_transfer": attention_transfer.attention_transfer_reference,
    "cwd": cwd.cwd_reference,
    "fitnet": fitnet.fitnet_reference,
    "fsp": fsp.fsp_reference,
    "ft": ft.ft_reference,
    "mgd": mgd.mgd_reference,
    "nst": nst.nst_reference,
    "ofd": ofd.ofd_reference,
    "vid": vid.vid_reference,
}


def nearest(maps, size):
    return F.interpolate(maps, size=size, mode="nearest")


def aligned(maps, size):
    """Interpolation from corner to corner, also on the way down."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


def small(name):
    arguments = {"pooling": "mean"} if name == "fsp" else {}
    particulars = Particulars(prepare=test_ofd.prepare if name == "ofd" else None)
    make_step = stages if name == "fsp" else None
    check_objective(objectives.get(name), REFERENCES[name], arguments, make_step, checks=["small"], particulars=particulars)


@pytest.mark.parametrize("wrong", [nearest, aligned])
@pytest.mark.parametrize("name", REFERENCES)
def test_another_way_of_resizing_is_found(name, wrong, monkeypatch):
    small(name)
    for module in (bridges, fsp_objective):
        monkeypatch.setattr(module, "resized", wrong)
    with pytest.raises(ObjectiveDefect, match="instead of"):
        small(name)
