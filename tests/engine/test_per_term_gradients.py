"""PCGrad against an independent float64 formula, and in the loop: micro-batches, processes, bridges, clipping."""

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core import seeds
from transfuse.core.card import Card
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import WeightedObjective
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.order import Order
from transfuse.engine.steppers.per_term_gradients import PerTermGradients, pcgrad
from transfuse.engine.steppers.supervised import Supervised
from transfuse.testing import processes

from .conftest import network, weighted


def pcgrad_reference(gradients, orders):
    """Algorithm 1 of Yu et al. (2020), line by line, in float64."""
    projected = [np.array(gradient, dtype=np.float64) for gradient in gradients]
    for i, order in enumerate(orders):
        for j in order:
            other = np.array(gradients[j], dtype=np.float64)
            if projected[i] @ other < 0:
                projected[i] -= projected[i] @ other / (other @ other) * other
    return sum(projected)


def orders_of(count, generator):
    return [[int(other) for other in torch.randperm(count, generator=generator) if other != term] for term in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_it_is_the_papers_algorithm(count):
    generator = torch.Generator().manual_seed(count)
    for _ in range(20):
        gradients = torch.randn(count, 4, generator=generator)  # few dimensions, so that many pairs conflict
        orders = orders_of(count, generator)
        expected = torch.from_numpy(pcgrad_reference(gradients.numpy(), orders))
        torch.testing.assert_close(pcgrad(gradients, orders).double(), expected, rtol=1e-4, atol=1e-5)


def test_the_order_matters_where_three_terms_conflict_so_it_is_drawn():
    gradients = torch.tensor([[1.0, 0.0], [-0.9, 0.5], [-0.9, -0.6]])
    one, other = pcgrad(gradients, [[1, 2], [0, 2], [0, 1]]), pcgrad(gradients, [[2, 1], [0, 2], [0, 1]])
    assert not torch.allclose(one, other, atol=1e-2)


def test_terms_that_agree_or_have_nothing_to_do_with_each_other_are_added():
    for gradients in (torch.eye(3, 7), torch.rand(3, 7, generator=torch.Generator().manual_seed(0))):
        torch.testing.assert_close(pcgrad(gradients, [[1, 2], [2, 0], [0, 1]]), gradients.sum(0))


def test_of_two_that_conflict_neither_is_worked_against():
    first, second = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([-1.0, 0.0, 3.0])
    assert (first + second) @ first > 0 > first @ second
    together = pcgrad(torch.stack([first, second]), [[1], [0]])
    apart = [first - (first @ second) / (second @ second) * second, second - (second @ first) / (first @ first) * first]
    torch.testing.assert_close(together, apart[0] + apart[1])
    assert abs(apart[0] @ second) < 1e-6
    assert together @ first > 0
    assert together @ second > 0


def test_a_term_without_gradient_changes_nothing_and_gives_no_nan():
    gradients = torch.tensor([[1.0, 2.0], [0.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(pcgrad(gradients, [[1, 2], [0, 2], [1, 0]]), pcgrad(gradients[[0, 2]], [[1], [0]]))


# in the loop


class Pull(nn.Module):
    """A term that pulls the logits along a direction; `bridge` is a parameter of its own."""

    def __init__(self, direction, bridged=False):
        super().__init__()
        self.register_buffer("direction", torch.tensor(direction))
        self.bridge = nn.Parameter(torch.ones(())) if bridged else 1.0

    def forward(self, step):
        return (step.student.logits * self.direction).sum(-1) * self.bridge


def pulls(*directions, bridged=False, needs=()):
    return [
        WeightedObjective(f"pull{number}", Pull(direction, bridged), Card(title="pull", needs=needs), lambda progress: 0.5)
        for number, direction in enumerate(directions)
    ]


CONFLICT = ([1.0, 0.5, 0.0], [-1.0, 0.0, 0.4], [0.0, -1.0, -1.0])


def pool() -> ArraySamples:
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(32, 6, generator=generator), torch.randint(0, 3, (32,), generator=generator)
    labels[torch.randperm(32, generator=generator)[:20]] = -1
    return ArraySamples(inputs, labels, np.arange(32))


def trained(objectives, steps=1, rank=0, world_size=1, folder=None, student=None, scaler=None, **changes):
    student = student or network()
    loader = MemoryLoader(pool(), BatchViews(views=1, seed=0), Order(32, 14, 0, rank, world_size))
    plain = {"optimizer": ("sgd", {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}), "schedule": ("constant", {}), "select": "last"}
    stepper = Supervised(student, Preprocess(), objectives)
    settings = Settings(**{"steps": steps, "seed": 0, **plain, **changes})
    loop = Loop(PerTermGradients(stepper), loader, settings, checkpoints=Checkpoints(folder))
    loop.scaler = scaler or loop.scaler
    loop.fit()
    return student, stepper


def flat(module):
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def rows_of(objectives, samples, step=0):
    """Each weighted term's gradient with respect to the network by plain autograd, averaged over where the term is defined."""
    student, rows = network(), []
    ids = Order(32, 14, 0).batch(step)[0]
    for own in objectives:
        kept = ids[samples.labels[ids] >= 0] if own.card.needs else ids
        loss = 0.5 * (student(samples.raw(kept)) * own.objective.direction).sum(-1).mean()
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(student.parameters()))]))
    return torch.stack(rows)


def test_a_step_of_the_loop_is_the_formula_on_the_gradients_of_its_weighted_terms():
    objectives = pulls(*CONFLICT)
    rows = rows_of(objectives, pool())
    seeds.seed_step(0, "combine", 0, "all")
    orders = [[other for other in torch.randperm(3).tolist() if other != term] for term in range(3)]
    expected = torch.from_numpy(pcgrad_reference(rows.numpy(), orders))
    student, _ = trained(objectives)
    moved = (flat(network()) - flat(student)).double() / 0.1
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(moved, rows.sum(0).double(), atol=1e-3), "the terms don't conflict, so this test could not fail"


def test_agreeing_terms_train_as_their_sum_does(problem):
    def train(apart):
        student = network()
        stepper = Supervised(student, Preprocess(), [weighted("cross_entropy", 0.5), weighted("cross_entropy", 0.3, smoothing=0.01)])
        stepper._weighted[1].name = "smoothed"
        settings = Settings(steps=20, seed=0, optimizer=("sgd", {"lr": 0.1}), select="last")
        Loop(PerTermGradients(stepper) if apart else stepper, problem.loader(), settings).fit()
        return flat(student)

    torch.testing.assert_close(train(True), train(False), rtol=1e-4, atol=1e-5)


def test_micro_batches_are_summed_before_terms_give_way():
    whole, _ = trained(unequally_labelled(), steps=4)
    pieces, _ = trained(unequally_labelled(), steps=4, accumulate=3)
    torch.testing.assert_close(flat(pieces), flat(whole), rtol=1e-4, atol=1e-5)


def test_a_bridge_has_its_own_terms_gradient():
    objectives = pulls(*CONFLICT[:2], bridged=True)
    ids, samples = Order(32, 14, 0).batch(0)[0], pool()
    with torch.no_grad():
        expected = [0.5 * (network()(samples.raw(ids)) * own.objective.direction).sum(-1).mean() for own in objectives]
    _, stepper = trained(objectives)
    for own, gradient in zip(stepper._weighted, expected, strict=True):
        torch.testing.assert_close((1 - own.objective.bridge.detach()) / 0.1, gradient, rtol=1e-4, atol=1e-5)


def test_clipping_bounds_the_combined_gradient():
    student, _ = trained(pulls(*CONFLICT), clip=0.01)
    assert (flat(student) - flat(network())).norm().item() == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_scaled_loss_as_fp16_needs_it_changes_nothing_and_an_overflow_skips_the_step(clip):
    plain, _ = trained(pulls(*CONFLICT), steps=4, clip=clip)
    scaled, _ = trained(pulls(*CONFLICT), steps=4, clip=clip, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**12))
    torch.testing.assert_close(flat(scaled), flat(plain), rtol=1e-4, atol=1e-6)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    start, _ = trained(pulls([1e3, 0.0, 0.0], [-1e3, 1.0, 0.0]), clip=clip, scaler=scaler)
    assert torch.equal(flat(start), flat(network()))
    assert scaler.get_scale() == 2.0**126


def test_what_no_term_reaches_is_left_alone():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.idle = network(), nn.Linear(2, 2)

        def forward(self, inputs):
            return self.inner(inputs)

    student = Idle()
    before = flat(student.idle)
    trained(pulls(*CONFLICT), student=student, optimizer=("adamw", {"lr": 0.1, "weight_decay": 0.5}), steps=2)
    assert torch.equal(flat(student.idle), before)


def test_a_resumed_run_draws_the_same_orders_and_ends_with_the_same_bits(tmp_path):
    student = network(dropout=0.5)

    class Killed(Pull):
        calls = 0

        def forward(self, step):
            Killed.calls += 1
            if Killed.calls == 6:
                raise KeyboardInterrupt
            return super().forward(step)

    whole, _ = trained(pulls(*CONFLICT), steps=9, student=network(dropout=0.5))
    killed = [*pulls(*CONFLICT[:2]), WeightedObjective("pull2", Killed(CONFLICT[2]), Card(title="pull"), lambda progress: 0.5)]
    with pytest.raises(KeyboardInterrupt):
        trained(killed, steps=9, folder=tmp_path, student=student, checkpoint_seconds=0)
    resumed, _ = trained(pulls(*CONFLICT), steps=9, folder=tmp_path, student=network(dropout=0.5), checkpoint_seconds=0)
    assert torch.equal(flat(resumed), flat(whole))


def unequally_labelled():
    objectives = pulls(CONFLICT[0]) + pulls(CONFLICT[1], CONFLICT[2], needs=("labels",))
    objectives[0].name = "unlabelled"
    return objectives


def one_rank(rank: int) -> torch.Tensor:
    return flat(trained(unequally_labelled(), steps=4, rank=rank, world_size=2, clip=0.5, accumulate=2)[0])


def test_processes_average_gradients_before_terms_give_way_and_agree():
    alone, _ = trained(unequally_labelled(), steps=4, clip=0.5)
    first, second = processes(2).call(one_rank, [(0,), (1,)])
    assert torch.equal(first, second)
    torch.testing.assert_close(first, flat(alone), rtol=1e-4, atol=1e-5)
