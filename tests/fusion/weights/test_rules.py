"""What every rule on weights keeps to, whatever its formula."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.fusion.networks import calibration, mlp, parents, pictures, stirred
from transfuse.core.signature import parameters
from transfuse.errors import ModelError, RecipeError
from transfuse.fusion import weights

NAMES = weights.names()
ITSELF = {  # settings under which the formula gives back what all sources are
    "task_arithmetic": {"scaling": 0.5},
    "dare": {"scaling": 0.5, "drop": 0.0},
    "ties": {"keep": 1.0},
}
NEEDS_ORIGIN = [name for name in NAMES if "shared_origin" in weights.card(name).needs]


@pytest.fixture(scope="module")
def base():
    return mlp(batchnorm=True)


@pytest.fixture(scope="module")
def tuned(base):
    return [stirred(base, seed, 0.1) for seed in (1, 2)]


@pytest.fixture(scope="module")
def given():
    return calibration(pictures(64), judge=lambda network: float(sum(value.sum() for value in network.state_dict().values())))


def rule(name, **settings):
    return weights.get(name)(**settings)


def test_all_rules_are_there():
    wanted = (
        "mean weighted greedy_soup slerp task_arithmetic ties dare model_stock fisher regmean weight_matching activation_matching ot zip"
    )
    assert set(wanted.split()) == set(NAMES)
    with pytest.raises(RecipeError, match="did you mean 'ties'"):
        weights.get("tiess")


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_is_a_function_a_class_a_card_and_a_test(name):
    path = Path(weights.registry.module(name).__file__)
    defined = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert name in defined
    assert weights.card(name).link.startswith("https://")
    assert all(parameter.description for parameter in parameters(weights.get(name)))
    assert (Path(__file__).parent / f"test_{name}.py").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_network_merged_with_itself_is_itself(name, base, given):
    merged = rule(name, repair="none", **ITSELF.get(name, {})).merge(parents(base, base), given, stirred(base, 9, 0.1)).module
    for key, tensor in base.state_dict().items():
        assert torch.allclose(merged.state_dict()[key].double(), tensor.double(), atol=1e-6), key


@pytest.mark.parametrize("name", NAMES)
def test_a_merge_leaves_its_sources_as_they_were(name, base, tuned, given):
    before = [{key: tensor.clone() for key, tensor in network.state_dict().items()} for network in [*tuned, base]]
    tuned[0].layers[0].linear.weight.requires_grad_(False)
    merged = rule(name).merge(parents(*tuned), given, base).module
    for network, state in zip([*tuned, base], before, strict=True):
        assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
    assert not tuned[0].layers[0].linear.weight.requires_grad
    tuned[0].layers[0].linear.weight.requires_grad_(True)
    assert not {tensor.data_ptr() for tensor in merged.state_dict().values()} & {
        tensor.data_ptr() for tensor in tuned[0].state_dict().values()
    }
    assert not merged.training


@pytest.mark.parametrize("name", NAMES)
def test_statistics_after_a_merge_are_those_of_the_merged_network(name, base, tuned, given):
    merged = rule(name).merge(parents(*tuned), given, base).module
    if name == "greedy_soup":
        return  # may keep one source as it is; has its own test
    norm = merged.layers[1].norm
    seen = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().double()))
    with torch.no_grad():
        for batch in pictures(64).split(16):
            merged.layers[0].norm.train()  # the first layer's statistics are of the same batch, as they were while they were estimated
            merged.layers[0].norm.momentum = 0.0
            merged(batch)
    hook.remove()
    expected_mean = torch.stack([values.mean(0) for values in seen]).mean(0)
    expected_var = torch.stack([values.var(0) for values in seen]).mean(0)
    assert torch.allclose(norm.running_mean.double(), expected_mean, atol=1e-5)
    assert torch.allclose(norm.running_var.double(), expected_var, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_batchnorm_without_data_is_refused_unless_statistics_may_stay(name, base, tuned):
    with pytest.raises(ModelError, match="data"):
        rule(name).merge(parents(*tuned), None, base)


@pytest.mark.parametrize("name", NAMES)
def test_one_source_is_refused(name, base, given):
    with pytest.raises(ModelError, match="merges"):
        rule(name).merge(parents(base), given, base)


@pytest.mark.parametrize("name", [name for name in NAMES if weights.card(name).sources == "two"])
def test_three_sources_are_refused_by_rules_on_two(name, base, given):
    with pytest.raises(ModelError, match="merges two networks, and was given 3"):
        rule(name).merge(parents(base, base, base), given, base)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_no_numbers_are_refused_by_name(name, base, tuned, given):
    broken = stirred(base, 1)
    broken.layers[0].linear.weight.data[2, 3] = float("nan")
    with pytest.raises(ModelError, match=r"'layers\.0\.linear\.weight' of 'b' holds NaN"):
        rule(name).merge(parents(tuned[0], broken), given, base)


@pytest.mark.parametrize("name", [name for name in NAMES if "same_shapes" in weights.card(name).needs])
def test_other_shapes_are_refused_with_a_table(name, base, given):
    with pytest.raises(ModelError, match=r"layers\.1\.linear\.weight +16x24 +9x24"):
        rule(name).merge(parents(base, mlp(batchnorm=True, widths=[24, 9])), given, base)


@pytest.mark.parametrize("name", NEEDS_ORIGIN)
def test_networks_from_different_initial_weights_are_refused(name, base, given):
    with pytest.raises(ModelError, match="not trained from the same weights"):
        rule(name).merge(parents(base, mlp(7, batchnorm=True)), given, base)


@pytest.mark.parametrize("name", [name for name in NEEDS_ORIGIN if "base" in weights.card(name).needs])
def test_networks_that_were_not_trained_from_the_base_are_refused(name, tuned, given):
    with pytest.raises(ModelError, match="'base' and 'a' were not trained from the same weights"):
        rule(name).merge(parents(*tuned), given, mlp(7, batchnorm=True))


@pytest.mark.parametrize("name", NEEDS_ORIGIN)
def test_the_refusal_can_be_overruled(name, base, given):
    assert rule(name, check_origin=False).merge(parents(base, mlp(7, batchnorm=True)), given, base).module is not None


@pytest.mark.parametrize("name", [name for name in NAMES if "base" in weights.card(name).needs])
def test_rules_on_changes_ask_for_the_base(name, tuned, given):
    with pytest.raises(ModelError, match="base"):
        rule(name).merge(parents(*tuned), given)


def test_copies_are_noticed(base, given):
    assert "hold the same weights" in rule("mean").merge(parents(base, base), given).notes[0]


class Tied(nn.Module):
    """One weight in two places, and whole numbers."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.embed = nn.Linear(8, 8, bias=False)
        self.embed.weight.data = weight
        self.head = nn.Linear(8, 8, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("positions", torch.arange(8))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embed(inputs))) + self.positions


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("greedy_soup", "weight_matching", "activation_matching", "ot", "zip")]
)
def test_tied_weights_stay_tied_and_whole_numbers_stay(name):
    start = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    sources = [Tied(start + 0.1 * torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))) for seed in (1, 2)]
    merged = rule(name).merge(parents(*sources), calibration(torch.randn(16, 8)), Tied(start)).module
    assert merged.head.weight is merged.embed.weight
    function = getattr(weights.registry.module(name), name)
    assert torch.equal(merged.positions, torch.arange(8))
    if name in ("dare", "ties", "task_arithmetic", "model_stock"):
        made = function([source.state_dict() for source in sources], Tied(start).state_dict())
        assert torch.equal(made["embed.weight"], made["head.weight"])
