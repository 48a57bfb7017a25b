"""A network made of several: that each member sees its own inputs, what is folded, and what is refused."""

import copy

import pytest
import torch
from torch import nn

from tests.core.fused_networks import MEMBERS, fused, member_of
from transfuse.core.fused import Affine, Origin, backbone, described
from transfuse.core.heads import read_ending
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError
from transfuse.fusion.standardise import phi_s
from transfuse.models import open_model

RAW = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("number", range(len(MEMBERS)))
def test_a_member_gives_what_its_last_layer_was_given_for_its_own_inputs(number):
    architecture, options, preprocess = MEMBERS[number]
    network = open_model(architecture, ModelRequest(outputs=7, input_shape=(3, 32, 32), options=options)).network
    inputs = preprocess.exact_batch(RAW)
    expected = read_ending(network, inputs).inputs
    member = member_of(number, outputs=7)
    for raw in (RAW, RAW.float()):
        torch.testing.assert_close(member(raw), expected)


def test_whatever_follows_the_last_layer_has_to_be_a_pooling():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 3)

        def forward(self, inputs):
            return 2 * self.last(inputs)

    with pytest.raises(ModelError, match="what follows 'last'"):
        backbone(Late(), torch.randn(2, 4))


def test_folding_a_standardisation_into_the_projection_changes_nothing_but_the_size():
    network = fused("weighted_sum", {"width": 8})
    columns = network.columns(RAW)
    network.top.standardise([phi_s(part) for part in columns.split(network.top.dims, 1)])
    before, size = network(RAW), sum(buffer.numel() for buffer in network.top.buffers())
    assert size > 0
    network.top.fold()
    torch.testing.assert_close(network(RAW), before, rtol=1e-4, atol=1e-4)
    assert sum(buffer.numel() for buffer in network.top.buffers()) == 0


def test_a_standardisation_without_a_layer_behind_it_stays():
    network = fused("concat", {"projection": "none"})
    columns = network.columns(RAW)
    network.top.standardise([phi_s(part) for part in columns.split(network.top.dims, 1)])
    network.top.fold()
    assert all(isinstance(standard, Affine) for standard in network.top.standards)


def test_a_member_without_an_architecture_of_a_name_leaves_the_network_without_one():
    network = copy.deepcopy(fused("concat", {"width": 4}))
    architecture, options = described(network)
    assert (architecture, [member["name"] for member in options["members"]]) == ("fused:concat", ["source0", "source1", "source2"])
    network.members[0].origin = Origin(None)
    assert described(network)[0] is None


def test_pictures_of_eight_bits_are_resized_as_pillow_rounds_them():
    preprocess = Preprocess(size=(16, 16), scale=1 / 255)
    member = member_of(0, preprocess=preprocess)
    assert torch.equal(member(RAW.float()), member(RAW))
