"""Which units may be permuted; permuting them leaves every network's function as it is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.fusion.networks import built, mlp, outputs, pictures, stirred
from transfuse.errors import ModelError
from transfuse.fusion.alignment.permuting import changed, permuted, shuffled
from transfuse.fusion.alignment.tracing import collect, trace
from transfuse.fusion.repair import reset_statistics

PICTURES = pictures(4, (3, 32, 32))


class Transformer(nn.Module):
    """Patches, a class token, positions, two blocks of torch's own encoder."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.positions, self.token = nn.Parameter(torch.randn(1, 17, 16)), nn.Parameter(torch.randn(1, 1, 16))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, inputs):
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(inputs), -1, -1), tokens], 1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])


class Odd(nn.Module):
    """Concatenated branches, a gate per channel, a group norm, a functional layer, a mean over positions, a head declared first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(10, 5)
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.norm = nn.GroupNorm(1, 10)
        self.squeeze, self.excite = nn.Linear(10, 3), nn.Linear(3, 10)
        self.scale = nn.Parameter(torch.randn(10, 10))
        self.slopes = nn.PReLU(6)

    def forward(self, inputs):
        both = self.norm(torch.cat([self.slopes(self.left(inputs)), F.gelu(self.right(inputs))], 1))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(both.mean((2, 3))))))
        both = both * gate[:, :, None, None]
        mixed = F.conv2d(both, self.scale[:, :, None, None])
        return self.head((mixed + both).amax((2, 3)))


class Split(nn.Module):
    """Half of the units gate the other half."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(48, 24), nn.Linear(12, 5)

    def forward(self, inputs):
        value, gate = self.up(inputs.flatten(1)[:, :48]).chunk(2, 1)
        return self.down(value * torch.sigmoid(gate))


class Positional(nn.Module):
    """Units are told apart by their number: none may move."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(48, 6), nn.Linear(6, 5)

    def forward(self, inputs):
        return self.down(torch.relu(self.up(inputs.flatten(1)[:, :48])) * torch.arange(6))


NETWORKS = {
    "mlp": lambda: built("mlp", (3, 32, 32), options={"widths": [20, 10]}),
    "mlp with batchnorm": lambda: built("mlp", (3, 32, 32), options={"widths": [20, 10], "batchnorm": True}),
    "vgg8": lambda: built("vgg8", (3, 32, 32)),
    "convnet": lambda: built("convnet", (3, 32, 32)),
    "resnet8, padded shortcuts": lambda: built("resnet8", (3, 32, 32), options={"shortcut": "A"}),
    "resnet20, 1x1 shortcuts": lambda: built("resnet20", (3, 32, 32), options={"shortcut": "B"}),
    "mobilenetv2": lambda: built("mobilenetv2", (3, 32, 32)),
    "mobilenetv1": lambda: built("mobilenetv1", (3, 32, 32), options={"width": 0.25}),
    "transformer": Transformer,
    "odd": Odd,
    "split": Split,
}
GROUPS = {  # how many groups, and the units of the first
    "mlp": (2, 20),
    "vgg8": (5, 64),
    "resnet20, 1x1 shortcuts": (12, 16),
    "resnet8, padded shortcuts": (8, 16),
    "mobilenetv1": (14, 8),
    "transformer": (3, 16),
    "split": (1, 12),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", NETWORKS)
def test_any_order_of_the_units_computes_the_same(name):
    torch.manual_seed(0)
    network = stirred(NETWORKS[name](), 0)
    reset_statistics(network, [PICTURES])  # so that no deep network's signal dies on the way and nothing could be told
    specification = trace(network, PICTURES)
    other = stirred(network, 0, 0.0)
    order = shuffled(specification)
    other.load_state_dict(permuted(network.state_dict(), specification, order))
    assert changed(network, other, PICTURES) <= 1e-5
    assert float(outputs(network, PICTURES).std(0).max()) > 1e-3 * float(outputs(network, PICTURES).abs().max())
    moved = [name for name in network.state_dict() if not torch.equal(network.state_dict()[name], other.state_dict()[name])]
    assert len(moved) >= 2
    if name in GROUPS:
        assert (len(specification.groups), next(iter(specification.groups.values())).size) == GROUPS[name]


def test_every_group_matters():
    """Reordering only what makes a group's units, and not what uses them, changes the function: a specification that is too small shows."""
    network = mlp(batchnorm=True)
    specification = trace(network, pictures())
    for group in specification.groups.values():
        for part in group.parts:
            if not part.learnt:
                continue
            other = stirred(network, 0, 0.0)
            state = other.state_dict()
            state[part.tensor] = state[part.tensor].index_select(part.axis, torch.arange(group.size).flip(0))
            other.load_state_dict(state)
            assert changed(network, other, pictures()) > 1e-3, part


def test_what_depends_on_the_units_numbers_stays():
    assert trace(Positional(), PICTURES).groups == {}


def test_groups_come_in_the_order_of_the_forward_pass_whatever_the_order_of_declaration():
    torch.manual_seed(0)
    made = [{part.tensor for part in group.parts if not part.consumes} for group in trace(Odd(), PICTURES).groups.values()]
    place = {name: next(number for number, tensors in enumerate(made) if name in tensors) for name in ("left.weight", "squeeze.weight")}
    assert place["left.weight"] < place["squeeze.weight"]


def test_running_statistics_move_along_but_are_not_learnt():
    group = trace(mlp(batchnorm=True), pictures()).groups["layers.0.linear.weight"]
    learnt = {part.tensor: part.learnt for part in group.parts}
    assert learnt["layers.0.norm.running_var"] is False
    assert learnt["layers.0.norm.weight"] is True
    assert {part.tensor for part in group.parts if part.consumes} == {"layers.1.linear.weight"}


def test_probes_give_what_the_next_layer_is_given():
    network, inputs = mlp(batchnorm=True), pictures()
    specification = trace(network, inputs[:2])
    found = {}
    collect(network, inputs, specification, lambda group, _, rows: found.update({group: rows}))
    with torch.no_grad():
        hidden = network.layers[0](inputs.flatten(1))
    assert torch.equal(found["layers.0.linear.weight"], hidden)
    assert torch.equal(found["layers.1.linear.weight"], network.layers[1](hidden).detach())


def test_probes_of_maps_give_a_row_per_sample_and_position():
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(4 * 30 * 30, 5)).eval()
    specification = trace(network, PICTURES)
    found = {}
    collect(network, PICTURES, specification, lambda group, _, rows: found.update({group: rows}))
    maps = outputs(network[:2], PICTURES)
    assert torch.equal(found["0.weight"].sort(0).values, maps.permute(0, 2, 3, 1).reshape(-1, 6).sort(0).values)
    assert found["2.weight"].shape == (4 * 900, 4)
    assert torch.equal(found["2.weight"].sort(0).values, outputs(network[:3], PICTURES).permute(0, 2, 3, 1).reshape(-1, 4).sort(0).values)


def test_a_pass_that_goes_another_way_is_noticed():
    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down, self.other = nn.Linear(4, 6), nn.Linear(6, 2), True

        def forward(self, inputs):
            hidden = self.up(inputs)
            return self.down(hidden if self.other else hidden.relu())

    network = Either()
    specification = trace(network, torch.randn(2, 4))
    network.other = False
    with pytest.raises(ModelError, match="another way"):
        collect(network, torch.randn(2, 4), specification, lambda *_: None)


def test_outputs_that_are_no_tensor_are_refused():
    class Two(nn.Linear):
        def forward(self, input):
            return super().forward(input), 0

    with pytest.raises(ModelError, match="gives tuple"):
        trace(Two(2, 2), torch.randn(1, 2))


def test_tracing_leaves_modes_and_gradients_as_they_were():
    network = mlp().train()
    trace(network, pictures())
    assert network.training
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
