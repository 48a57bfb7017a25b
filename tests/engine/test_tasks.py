"""Steps on two labelled sets: each term on its own samples, from its own head, with a fixed or a learnt weight."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transfuse.core.types import Batch, WeightedObjective
from transfuse.data.views import BatchViews
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.order import SeveralOrder, counts_of
from transfuse.engine.steppers.tasks import SeveralTasks, TaskLoss
from transfuse.objectives import card, get


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, inputs):
        return self.head(self.body(inputs).tanh())


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([4, 1, 0, 3, 0, -1])
    domains = torch.tensor([0, 1, 1, 0, 1, 1])
    inputs = torch.randn(6, 3, generator=generator)
    return Batch(inputs, torch.arange(6), torch.zeros(6, dtype=torch.int64), labels, labels >= 0, domains=domains)


def stepper(network, own=True, uncertain=None, weight=0.3):
    torch.manual_seed(1)
    head = nn.Linear(4, 5) if own else None
    terms = [
        WeightedObjective("target", TaskLoss(get("cross_entropy")(), 1, 2, None, uncertain), card("cross_entropy"), lambda progress: 1.0),
        WeightedObjective(
            "source",
            TaskLoss(get("cross_entropy")(), 0, 5, head, uncertain),
            card("cross_entropy"),
            lambda progress: weight,
            student_taps=("head@input",) if own else (),
        ),
    ]
    return SeveralTasks(network, lambda inputs: inputs, terms), head


def total(step, given):
    masks, loss = step.defined(given), 0.0
    for term in step.terms(given, "all", 0.0):
        mask = masks[term.name]
        loss = loss + term.weight * torch.where(mask, term.values, 0.0).sum() / mask.sum()
    return loss


def test_each_set_is_averaged_over_its_own_samples_and_lambda_weighs_the_source():
    network, given = Net(), batch()
    step, head = stepper(network)
    assert step.defined(given)["target"].tolist() == [False, True, True, False, True, False]
    assert step.defined(given)["source"].tolist() == [True, False, False, True, False, False]
    features = network.body(given.inputs).tanh()
    target = F.cross_entropy(network.head(features)[[1, 2, 4]], torch.tensor([1, 0, 0]))
    source = F.cross_entropy(head(features)[[0, 3]], torch.tensor([4, 3]))
    assert total(step, given).item() == pytest.approx((target + 0.3 * source).item(), rel=1e-5)


def test_the_sources_head_gets_no_gradient_from_the_target_and_the_other_way_round():
    network, given = Net(), batch()
    step, head = stepper(network)
    terms = {term.name: term for term in step.terms(given, "all", 0.0)}
    masks = step.defined(given)
    torch.where(masks["target"], terms["target"].values, 0.0).sum().backward(retain_graph=True)
    assert head.weight.grad is None
    assert network.head.weight.grad.abs().sum() > 0
    network.zero_grad()
    torch.where(masks["source"], terms["source"].values, 0.0).sum().backward()
    assert head.weight.grad.abs().sum() > 0
    assert network.head.weight.grad is None
    assert network.body.weight.grad.abs().sum() > 0, "the backbone is both sets'"


@pytest.mark.parametrize(("form", "factor"), [("classes", 1.0), ("values", 0.5)])
def test_learnt_weights_follow_the_formula_and_settle_where_its_derivative_is_zero(form, factor):
    network, given = Net(), batch()
    given.labels = given.labels.clamp(max=1)
    step, _ = stepper(network, own=False, uncertain=form, weight=1.0)
    losses = [F.cross_entropy(network(given.inputs)[rows], given.labels[rows]).item() for rows in ([1, 2, 4], [0, 3])]
    variances = [0.7, -0.4]
    for weighted, value in zip(step._weighted, variances, strict=True):
        weighted.objective.log_variance.data.fill_(value)
    expected = sum(factor * math.exp(-s) * loss + s / 2 for s, loss in zip(variances, losses, strict=True))
    assert total(step, given).item() == pytest.approx(expected, rel=1e-5)
    for weighted, loss in zip(step._weighted, losses, strict=True):
        weighted.objective.log_variance.data.fill_(math.log(2 * factor * loss))
    total(step, given).backward()
    for weighted in step._weighted:
        assert float(weighted.objective.log_variance.grad) == pytest.approx(0, abs=1e-6)


def test_a_head_is_kept_from_the_step_whose_backbone_is_kept(problem):
    network = Net()
    network.body, network.head = nn.Linear(6, 4), nn.Linear(4, 3)
    order = SeveralOrder({"source": 20, "target": 20}, [8, 8], 0)
    loader = MemoryLoader(problem.samples, BatchViews(views=1, seed=0), order)
    step, head = stepper(network)
    seen, scores = [], iter([0.9, 0.1, 0.2])

    def evaluate(kept):
        seen.append({name: value.clone() for name, value in kept.state_dict().items()})
        assert torch.equal(kept(problem.inputs), network(problem.inputs)), "it answers as the student"
        return {"accuracy": next(scores)}

    settings = Settings(steps=3, seed=0, evaluate_every=1, optimizer=("sgd", {"lr": 0.5}), metric="accuracy", higher_is_better=True)
    Loop(step, loader, settings, evaluate=evaluate).fit()
    assert torch.equal(head.weight, seen[0]["heads.0.weight"])
    assert torch.equal(network.body.weight, seen[0]["student.body.weight"])
    assert not torch.equal(head.weight, seen[2]["heads.0.weight"])


def test_float_labels_are_read_from_the_sets_own_columns():
    network, given = Net(), batch()
    given.labels = torch.tensor([[1.0, 5.0, 7.0]] * 6)
    given.labelled = torch.ones(6, dtype=torch.bool)
    loss = TaskLoss(get("mse")(), 1, 2)
    step = SeveralTasks(network, lambda inputs: inputs, [WeightedObjective("target", loss, card("mse"), lambda progress: 1.0)])
    values = step.terms(given, "all", 0.0)[0].values
    assert torch.allclose(values, (network(given.inputs) - torch.tensor([1.0, 5.0])).square().mean(1), atol=1e-6)


def test_the_target_alone_sees_the_same_target_samples_in_the_same_steps():
    sizes, counts = {"source": 50, "target": 13}, counts_of([50, 13], 12, 0.5)
    both, alone = SeveralOrder(sizes, counts, 3), SeveralOrder(sizes, counts, 3, only=["target"])
    assert alone.steps(4.0) == both.steps(4.0)
    for step in range(12):
        ids, epochs = both.batch(step)
        mine, own_epochs = alone.batch(step)
        assert sorted((ids[ids >= 50] - 50).tolist()) == sorted(mine.tolist())
        assert sorted(epochs[ids >= 50].tolist()) == sorted(own_epochs.tolist())
        assert alone.domains(mine) is None
