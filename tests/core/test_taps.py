"""Taps read what modules gave, whatever the network does to it, and leave the network as it was."""

import copy
import re

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from transfuse.core import taps
from transfuse.core.taps import Taps
from transfuse.core.types import ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.jobs.parts.networks import BinaryHead
from transfuse.models import open_model
from transfuse.models.classes import SelectedOutputs
from transfuse.testing import processes

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    relu = nn.ReLU(inplace=inplace)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), relu, nn.Conv2d(4, 5, 3, 2), nn.Flatten(), nn.Linear(20, 2))


def resnet20() -> nn.Module:
    return open_model("builtin:resnet20", ModelRequest(outputs=10, input_shape=(3, 8, 8))).network


def hooks_of(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


class Odd(nn.Module):
    """Gives a tuple from one module and a dictionary from another, calls one twice and one never."""

    class Pair(nn.Module):
        def forward(self, x):
            return x + 1, x + 2

    class Named(nn.Module):
        def forward(self, x):
            return {"mask": None, "hidden": x * 2, "other": x * 3}

    class Nothing(nn.Module):
        def forward(self, x):
            return None

    def __init__(self):
        super().__init__()
        self.pair, self.named, self.twice, self.nothing = self.Pair(), self.Named(), nn.Tanh(), self.Nothing()
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        first, second = self.pair(x)
        self.nothing(x)
        return self.twice(self.twice(first) + self.named(second)["hidden"])


def test_features_are_what_the_modules_give_and_carry_gradient():
    module = network()
    output, features = Taps(module, ["3", "0"], EXAMPLE)(EXAMPLE)
    first = module[0](EXAMPLE)
    second = module[3](module[2](module[1](first)))
    assert list(features) == ["3", "0"]
    torch.testing.assert_close(features["0"], first)
    torch.testing.assert_close(features["3"], second)
    gradient = torch.autograd.grad(output.sum(), features["0"])[0]
    assert gradient.abs().sum() > 0


def test_several_taps_cost_one_forward_and_shapes_are_known_before():
    module, calls = network(), []
    module.register_forward_hook(lambda *_: calls.append(1))
    reader = Taps(module, ["0", "1", "3"], EXAMPLE[:1])
    calls.clear()
    reader(EXAMPLE)
    assert len(calls) == 1
    assert reader.shapes == {"0": (1, 4, 6, 6), "1": (1, 4, 6, 6), "3": (1, 5, 2, 2)}


def test_a_feature_that_is_changed_in_place_afterwards_is_read_as_it_was():
    features = Taps(network(inplace=True), ["1", "2@input", "2"], EXAMPLE)(EXAMPLE)[1]
    _, expected = Taps(network(), ["1", "2"], EXAMPLE)(EXAMPLE)
    assert features["1"].min() < 0
    torch.testing.assert_close(features["1"], expected["1"])
    torch.testing.assert_close(features["2@input"], expected["1"])
    torch.testing.assert_close(features["2"], F.relu(expected["1"]))


def test_entries_of_tuples_and_dictionaries_and_the_last_of_several_calls_are_read():
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    paths = ["pair", "pair[1]", "named", "named[other]", "twice", "twice@input"]
    output, features = Taps(Odd(), paths, x)(x)
    expected = [x + 1, x + 2, (x + 2) * 2, (x + 2) * 3, output, torch.tanh(x + 1) + (x + 2) * 2]
    for path, value in zip(paths, expected, strict=True):
        torch.testing.assert_close(features[path], value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("layer33", r"no module 'layer33' - did you mean 'layer3'\?"),
        ("layer1.0.conv3", r"near it: layer1\.0\.conv"),
        ("layer1.0.something_else_entirely", r"near it: layer1\.0\.conv1, layer1\.0\.bn1"),
        ("zzz", r"near it: conv1, bn1"),
        ("layer1[", "is not a module path"),
    ],
)
def test_an_unknown_path_is_refused_with_the_nearest_ones(path, message):
    with pytest.raises(ModelError) as refusal:
        Taps(resnet20(), path, EXAMPLE)
    assert re.search(message, str(refusal.value))


@pytest.mark.parametrize("path", ["unused", "nothing", "pair[2]", "named[mask]"])
def test_a_place_that_gives_no_tensor_is_refused(path):
    with pytest.raises(ModelError, match="gets no tensor"):
        Taps(Odd(), path, torch.randn(2, 3))


def test_a_pass_that_takes_another_way_says_what_it_did_not_reach():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.early, self.late = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.early(x) if len(x) == 1 else self.late(x)

    reader = Taps(Fork(), "early", torch.randn(1, 3))
    with pytest.raises(ModelError, match="didn't reach 'early'"):
        reader(torch.randn(2, 3))


def test_the_network_is_left_as_it_was():
    module = network(inplace=True).train()
    module[3].eval()
    before = copy.deepcopy(module.state_dict())
    reader = Taps(module, taps.AUTO, EXAMPLE)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())  # BatchNorm's statistics too
    assert [layer.training for layer in module] == [True, True, True, False, True, True]
    reader(EXAMPLE)
    assert hooks_of(module) == 0
    with pytest.raises(RuntimeError):
        reader(torch.randn(2, 7, 8, 8))
    assert hooks_of(module) == 0
    assert set(module.state_dict()) == set(before)


def test_a_copy_reads_the_copied_network():
    module = network()
    reader = Taps(module, ["3"], EXAMPLE)
    other = copy.deepcopy(reader)
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.zero_()
    expected = Taps(network(), ["3"], EXAMPLE)(EXAMPLE)[1]["3"]
    torch.testing.assert_close(other(EXAMPLE)[1]["3"], expected)
    assert not torch.allclose(reader(EXAMPLE)[1]["3"], expected)


def test_a_replaced_module_is_read():
    module = network()
    reader = Taps(module, ["1"], EXAMPLE)
    module[1] = nn.Identity()
    torch.testing.assert_close(reader(EXAMPLE)[1]["1"], module[0](EXAMPLE))


@pytest.fixture
def without_runtime_types():
    """The compiler would have to trace through the runtime shape checks that tests run with."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def test_compiled_features_and_gradients_are_the_eager_ones_and_are_compiled_once(without_runtime_types):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    eager, compiled = network(inplace=True), network(inplace=True)
    expected = Taps(eager, ["1", "3"], EXAMPLE)
    reader = Taps(compiled, ["1", "3"], EXAMPLE, compile="aot_eager")
    reader._read = torch.compile(taps._forward, backend=counter, fullgraph=True)
    for step in range(3):
        inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        for module, read in ((eager, expected), (compiled, reader)):
            output, features = read(inputs)
            module.zero_grad()
            (output.sum() + sum(feature.square().sum() for feature in features.values())).backward()
        for path, feature in expected(inputs)[1].items():
            torch.testing.assert_close(reader(inputs)[1][path], feature)
        for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, atol=1e-5, rtol=1e-4)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_a_network_that_ran_compiled_before_is_read():
    torch._dynamo.reset()
    module = network()
    compiled = torch.compile(module, backend="aot_eager")
    compiled(EXAMPLE)
    features = Taps(compiled, ["3"], EXAMPLE)(EXAMPLE)[1]
    torch.testing.assert_close(features["3"], module[:4](EXAMPLE))
    torch._dynamo.reset()


def _under_ddp(rank_inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    module = network().eval()
    reader = Taps(nn.parallel.DistributedDataParallel(module), ["3"], rank_inputs)  # has to outlive the backward pass
    output, features = reader(rank_inputs)
    (output.mean() + features["3"].square().mean()).backward()
    assert module[0].weight.grad is not None
    return features["3"].detach(), module[0].weight.grad


def test_under_ddp_features_are_read_and_gradients_averaged():
    (first, gradient), (second, other) = processes(2).call(_under_ddp, [(EXAMPLE[:1],), (EXAMPLE[1:],)])
    module = network().eval()
    feature = module[:4](EXAMPLE)
    (module[4:](feature).mean() + feature.square().mean()).backward()
    torch.testing.assert_close(torch.cat([first, second]), feature.detach())
    torch.testing.assert_close(gradient, module[0].weight.grad)
    assert torch.equal(gradient, other)


def test_auto_finds_the_stages_of_a_cnn():
    assert taps.auto(resnet20(), EXAMPLE[:1]) == ["layer1", "layer2", "layer3"]
    torchvision = import_torchvision()
    found = taps.auto(torchvision.models.mobilenet_v2(weights=None), torch.randn(1, 3, 64, 64))
    assert found == ["features.1", "features.3", "features.6", "features.13", "features"]  # 32, 16, 8, 4, 2 pixels


def test_auto_finds_the_tokens_of_a_transformer_and_maps_with_channels_last():
    import_torchvision()
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3)
    assert Taps(vit, taps.AUTO, torch.randn(1, 3, 32, 32)).shapes == {"norm": (1, 17, 24)}
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(1, 1, 1, 1), embed_dim=24)
    reader = Taps(swin, taps.AUTO, torch.randn(1, 3, 64, 64))
    assert list(reader.shapes.values()) == [(1, 24, 16, 16), (1, 48, 8, 8), (1, 96, 4, 4), (1, 192, 2, 2)]
    features = reader(torch.randn(2, 3, 64, 64))[1]
    assert [tuple(feature.shape) for feature in features.values()] == [(2, *shape[1:]) for shape in reader.shapes.values()]


def test_auto_refuses_a_network_without_positions():
    with pytest.raises(ModelError, match="no feature with spatial positions"):
        taps.auto(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(1, 4))


def test_auto_is_one_of_several_paths_and_named_once():
    assert Taps(resnet20(), ["conv1", "auto", "layer2"], EXAMPLE).paths == ("conv1", "layer1", "layer2", "layer3")


def test_the_tree_has_every_module_with_its_shape():
    module = resnet20()
    nodes = {node.path: node for node in taps.tree(module, EXAMPLE[:1])}
    assert list(nodes) == [path for path, _ in module.named_modules() if path]
    assert nodes["layer2"] == ("layer2", "Sequential", (1, 32, 4, 4))
    odd = {node.path: node.shape for node in taps.tree(Odd(), torch.randn(2, 3))}
    assert (odd["pair"], odd["nothing"], odd["unused"]) == ((2, 3), None, None)


def test_stages_are_paired_from_the_last_backwards():
    assert taps.paired(["a", "b", "c"], ["x", "y"]) == (["b", "c"], ["x", "y"])
    assert taps.paired(["a"], ["x", "y"]) == (["a"], ["y"])
    assert taps.paired([], ["x", "y"]) == ([], [])


def test_a_wrapped_network_is_tapped_by_its_own_paths():
    inner, inputs = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3)
    for wrapped in (SelectedOutputs(inner, [1]), BinaryHead(inner, 1)):
        assert torch.equal(Taps(wrapped, ["1"], inputs)(inputs)[1]["1"], inner[:2](inputs))
    with pytest.raises(ModelError, match="has no module '7'"):
        Taps(SelectedOutputs(inner, [1]), ["7"], inputs)


def test_taps_can_be_made_where_tensors_count_no_changes():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.last = nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)

        def forward(self, inputs):
            return self.last(self.relu(self.first(inputs)))

    module = InPlace().eval()
    with torch.inference_mode():
        example = torch.randn(2, 3)
        _, features = Taps(module, ["first"], example[:1])(example)
        assert torch.equal(features["first"], module.first(example))
        assert (features["first"] < 0).any(), "read as it was, before ReLU changed it in place"
