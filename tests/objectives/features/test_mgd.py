"""MGD against the formula without a mask; the mask alone."""

import torch

from tests.reference.mgd import mgd_reference
from transfuse.objectives.features.mgd import MGD, mgd_loss
from transfuse.testing import Particulars, Sizes, build, check_objective, example_step


def function(objective, step):
    (student,), (teacher,) = step.student.features.values(), step.teacher.features.values()
    return mgd_loss(objective.generators[0](student), teacher)


def test_mgd_is_proved():
    check_objective(MGD, mgd_reference, particulars=Particulars(function=function))


def test_the_mask_hides_the_share_of_whole_channels_or_positions_that_it_is_told():
    maps = torch.ones(50, 40, 5, 8)
    torch.manual_seed(0)
    channels, positions = MGD(0.3).hidden(maps), MGD(0.6, "positions").hidden(maps)
    for kept, whole, share in ((channels, (2, 3), 0.7), (positions, (1,), 0.4)):
        assert set(kept.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(kept.amax(whole), kept.amin(whole))  # all of it or nothing
        assert abs(kept.mean() - share) < 5 * (share * (1 - share) / 2000) ** 0.5  # five standard deviations of 2000 draws


def test_masks_are_drawn_in_training_only_from_torchs_generator():
    objective, step = MGD(0.5), example_step(Sizes(), taps=1)
    build(objective, step)
    objective.double()

    def value(seed):
        torch.manual_seed(seed)
        return objective(step)

    assert torch.equal(value(0), value(0))
    assert not torch.equal(value(0), value(1))
    objective.eval()
    assert torch.equal(value(0), value(1))
