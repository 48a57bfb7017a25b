"""EWC against its formula; the Fisher information against its closed form, sample by sample."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.objectives.planting import assert_caught
from tests.reference.ewc import ewc_reference
from transfuse.core.types import Step, Trial
from transfuse.errors import ModelError
from transfuse.objectives.weights.ewc import EWC, diagonal_fisher, ewc_loss
from transfuse.testing import Particulars, Sizes, check_objective, example_step

SHAPES = {"body.weight": (3, 4), "body.bias": (3,), "head.weight": (2, 3)}
NEW = ("head.weight",)


def values(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


START = {name: value.float().double() for name, value in values(99).items()}
FISHER = {name: value.abs().float().double() for name, value in values(7).items() if name not in NEW}
KEPT = {name: value for name, value in START.items() if name not in NEW}
AS_ARRAYS = ({name: value.numpy() for name, value in values.items()} for values in (KEPT, FISHER))
reference = partial(ewc_reference, **dict(zip(("starting", "information"), AS_ARRAYS, strict=True)))


@pytest.fixture(scope="module")
def fisher_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("fisher") / "fisher.safetensors"
    save_file(FISHER, path)
    return str(path)


def make_step(sizes: Sizes) -> Step:
    return replace(example_step(sizes, teachers=0), parameters=values(sizes.seed))


def watching(objective, step):
    objective.watch(START, NEW)


PARTICULARS = Particulars(prepare=watching, function=lambda objective, step: ewc_loss(step.parameters, KEPT, FISHER))


def test_ewc_is_proved(fisher_file):
    check_objective(EWC, reference, {"fisher": fisher_file}, make_step, particulars=PARTICULARS)


def test_where_training_starts_it_costs_nothing(fisher_file):
    objective = EWC(fisher_file)
    objective.watch(START, NEW)
    assert objective(replace(make_step(Sizes()), parameters=START)) == 0


@pytest.mark.parametrize("what", ["decay towards zero", "plain l2"])
def test_a_missing_start_or_weighting_is_caught(fisher_file, what):
    def wrong(self, step):
        if what == "plain l2":
            return ewc_loss(step.parameters, KEPT, {name: torch.ones_like(value) for name, value in KEPT.items()})
        return ewc_loss(step.parameters, {name: torch.zeros_like(value) for name, value in KEPT.items()}, FISHER)

    assert_caught(EWC, wrong, reference, arguments={"fisher": fisher_file}, make_step=make_step, particulars=PARTICULARS)


def linear(outputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, outputs, bias=False).double()


def test_the_fisher_information_of_a_softmax_is_that_of_its_closed_form():
    network, inputs = linear(4), torch.randn(5, 3, dtype=torch.float64)
    draws = 1000
    batches = [(inputs.repeat(draws, 1), torch.zeros(5 * draws, dtype=torch.int64))]
    found = diagonal_fisher(network, batches)["weight"]
    p = network(inputs).softmax(-1)
    expected = torch.einsum("bo,bi->oi", p * (1 - p), inputs.square()) / 5  # E_y (p_o - [y = o])^2 x_i^2
    assert ((found - expected).abs() < 0.2 * expected.mean()).all()


def test_with_the_datas_labels_gradients_are_squared_sample_by_sample():
    network, inputs, labels = linear(4), torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    found = diagonal_fisher(network, [(inputs[:4], labels[:4]), (inputs[4:], labels[4:])], labels="data")["weight"]
    gap = network(inputs).softmax(-1) - torch.nn.functional.one_hot(labels, 4)
    torch.testing.assert_close(found, torch.einsum("bo,bi->oi", gap.square(), inputs.square()).detach() / 6)


@pytest.mark.parametrize(("task", "outputs"), [("regression", 2), ("multilabel", 3), ("classification", 1)])
def test_other_tasks_have_the_fisher_information_of_their_own_distribution(task, outputs):
    network, inputs = linear(outputs), torch.randn(4, 3, dtype=torch.float64)
    batches = [(inputs.repeat(800, 1), torch.zeros(3200, outputs))]
    found = diagonal_fisher(network, batches, task)["weight"]
    p = network(inputs).sigmoid()
    variance = torch.ones_like(p) if task == "regression" else p * (1 - p)
    expected = torch.einsum("bo,bi->oi", variance, inputs.square()).detach() / 4
    assert ((found - expected).abs() < 0.25 * expected.mean()).all()


def trial(network: nn.Module) -> Trial:
    inputs, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    return Trial(network, "classification", lambda samples: iter([(inputs[:samples], labels[:samples])]), torch.nn.functional.cross_entropy)


def test_a_resumed_objective_keeps_what_was_measured_at_the_first_start():
    network = nn.Linear(3, 4)
    first, resumed = EWC(samples=4, labels="data"), EWC()
    first.watch(dict(network.named_parameters()))
    step = replace(make_step(Sizes()), parameters={name: value + 1 for name, value in network.named_parameters()})
    with pytest.raises(ValueError, match="call watch"):
        first(step)
    assert "4 training samples and their labels" in first.probe(trial(network), None)
    resumed.watch(dict(network.named_parameters()))
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(resumed(step), first(step))
    assert first(step) > 0


def test_a_file_that_does_not_fit_is_named(tmp_path):
    save_file({"body.weight": torch.ones(3, 4)}, tmp_path / "some.safetensors")
    (tmp_path / "broken.safetensors").write_text("no")
    for name, words in (("some", r"body\.bias"), ("broken", "can't read"), ("absent", "can't read")):
        with pytest.raises(ModelError, match=words):
            EWC(str(tmp_path / f"{name}.safetensors")).watch(START, NEW)


def test_nothing_to_estimate_on_is_said():
    with pytest.raises(ValueError, match="no labelled sample"):
        diagonal_fisher(linear(2), [])
