"""Mutual learning in the loop against loops written by hand, resumed, averaged and in two processes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Signals
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.order import Order
from transfuse.engine.steppers.mutual import Cohort, Mutual, Peer
from transfuse.testing import processes

from .conftest import network, weighted

HALVED = Preprocess(scale=0.5)
SGD = ("sgd", {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0})
DML = (("cross_entropy", 0.7), ("dml", 1.5))


def wide(seed: int = 5, batchnorm: bool = False, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(24) if batchnorm else nn.Identity()
    return nn.Sequential(nn.Linear(6, 24), norm, nn.Tanh(), nn.Dropout(dropout), nn.Linear(24, 3))


def cohort(count: int = 2, alternate: bool = False, batchnorm: bool = False, dropout: float = 0.0) -> Cohort:
    """A student and one or two peers of another architecture, the first of which sees inputs of another scale."""
    peers = {"wide": Peer(wide(5, batchnorm, dropout), HALVED), "third": Peer(wide(6, batchnorm, dropout), Preprocess())}
    return Cohort(network(dropout, batchnorm), dict(list(peers.items())[: count - 1]), alternate)


def pool() -> ArraySamples:
    generator = torch.Generator().manual_seed(1)
    inputs, classes = torch.randn(32, 6, generator=generator), torch.randint(0, 3, (32,), generator=generator)
    classes[torch.randperm(32, generator=generator)[:12]] = -1
    return ArraySamples(inputs, classes, np.arange(32))


def trained(networks, terms=DML, steps=6, teachers=None, rank=0, world_size=1, folder=None, evaluate=None, **changes):
    loader = MemoryLoader(pool(), BatchViews(views=1, seed=0), Order(32, 14, 0, rank, world_size))
    asked = {"kd": tuple(teachers or ())}
    objectives = [weighted(name, weight, asked.get(name, ())) for name, weight in terms]
    stepper = Mutual(networks, Preprocess(), objectives, teachers)
    plain = {"optimizer": SGD, "schedule": ("constant", {}), "select": "last"}
    loop = Loop(stepper, loader, Settings(**{"steps": steps, "seed": 0, **plain, **changes}), evaluate, Checkpoints(folder))
    return loop, loop.fit()


def members(networks: Cohort) -> list[nn.Module]:
    return [networks.student, *networks.peers]


def loss_by_hand(own, others, labels):
    """0.7 CE over the labelled samples + 1.5 times the mean KL from the others, over all samples."""
    kept = labels >= 0
    told = [F.kl_div(own.log_softmax(-1), other.detach().softmax(-1), reduction="batchmean") for other in others]
    return 0.7 * F.cross_entropy(own[kept], labels[kept]) + 1.5 * sum(told) / len(told)


def by_hand(networks: Cohort, steps: int, alternate: bool) -> list[nn.Module]:
    nets, scales = members(copy.deepcopy(networks)), [1.0, 0.5, 1.0]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
    samples = pool()
    for step in range(steps):
        ids = Order(32, 14, 0).batch(step)[0]
        inputs, labels = samples.raw(ids), samples.labels[ids]
        for turn in [[number] for number in range(len(nets))] if alternate else [range(len(nets))]:
            said = [net(inputs * scale) for net, scale in zip(nets, scales, strict=False)]
            losses = [loss_by_hand(said[own], said[:own] + said[own + 1 :], labels) for own in turn]
            for own, loss in zip(turn, losses, strict=True):
                optimizers[own].zero_grad()
                loss.backward()
                optimizers[own].step()
    return nets


def close(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("alternate", [False, True])
def test_it_equals_a_loop_written_by_hand(count, alternate):
    networks = cohort(count, alternate)
    expected = by_hand(networks, 6, alternate)
    trained(networks)
    assert all(close(*pair) for pair in zip(members(networks), expected, strict=True))


def test_alternating_and_simultaneous_updates_differ():
    together, turns = cohort(), cohort(alternate=True)
    trained(together)
    trained(turns)
    assert not any(close(*pair) for pair in zip(members(together), members(turns), strict=True))


def test_the_student_alone_learns_from_teachers_and_every_network_from_labels_and_peers():
    class Fixed:
        forwards = 0

        def covers(self, ids):
            return ids % 2 == 0

        def answers(self, ids, views, inputs=None):
            return Signals(torch.nn.functional.one_hot(ids % 3, 3).float())

    terms = (("cross_entropy", 0.5), ("kd", 0.5), ("dml", 1.0))
    networks, without = cohort(), cohort()
    loop, _ = trained(networks, terms, teachers={"t": Fixed()})
    assert loop.names == ["loss", "cross_entropy", "kd", "dml", "peer wide.cross_entropy", "peer wide.dml"]
    trained(without, (("cross_entropy", 0.5), ("dml", 1.0)), steps=1)
    once = cohort()
    trained(once, terms, teachers={"t": Fixed()}, steps=1)
    assert same(once.peers[0], without.peers[0])
    assert not same(once.student, without.student)


@pytest.mark.parametrize("alternate", [False, True])
def test_running_statistics_take_in_each_batch_once(alternate):
    networks = cohort(3, alternate, batchnorm=True)
    trained(networks, steps=4)
    assert [int(net[1].num_batches_tracked) for net in members(networks)] == [4, 4, 4]


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    whole, pieces = cohort(3), cohort(3)
    trained(whole)
    trained(pieces, accumulate=3)
    assert all(close(*pair) for pair in zip(members(whole), members(pieces), strict=True))


def test_each_network_is_clipped_by_its_own_norm():
    before, networks = cohort(), cohort()
    trained(networks, steps=1, clip=0.01)
    for old, new in zip(members(before), members(networks), strict=True):
        moved = torch.cat([(a - b).flatten() for a, b in zip(old.parameters(), new.parameters(), strict=True)])
        assert moved.norm().item() == pytest.approx(0.001, rel=1e-3)


def test_what_is_kept_of_the_peers_is_of_the_step_at_which_the_student_was_best():
    seen = []

    def evaluate(module):
        seen.append(copy.deepcopy(module))
        return {"accuracy": [0.2, 0.9, 0.5][len(seen) - 1]}

    networks = cohort()
    _, outcome = trained(networks, evaluate=evaluate, evaluate_every=2, select="best")
    assert outcome.best_step == 4
    assert all(same(*pair) for pair in zip(members(networks), members(seen[1]), strict=True))


def test_peers_are_averaged_as_the_student_is():
    plain, averaged = cohort(), cohort()
    trained(plain, steps=1)
    trained(averaged, steps=1, ema=0.9)
    decay = 2 / 11
    for start, moved, mean in zip(members(cohort()), members(plain), members(averaged), strict=True):
        for first, last, value in zip(start.parameters(), moved.parameters(), mean.parameters(), strict=True):
            torch.testing.assert_close(value, decay * first + (1 - decay) * last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alternate", [False, True])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, alternate):
    def run(folder, stop_at=None):
        networks = cohort(3, alternate, batchnorm=True, dropout=0.4)

        def evaluate(module):
            if stop_at is not None and loops[0].state.step >= stop_at:
                raise KeyboardInterrupt
            with torch.no_grad():
                hits = module.eval()(pool().raw(range(32))).argmax(1) == pool().labels
            module.train()
            return {"accuracy": hits.float().mean().item()}

        loops = []
        settings = {"ema": 0.9, "evaluate_every": 2, "select": "best", "checkpoint_seconds": 0, "optimizer": ("adamw", {"lr": 0.01})}
        loader = MemoryLoader(pool(), BatchViews(views=1, seed=0), Order(32, 14, 0))
        stepper = Mutual(networks, Preprocess(), [weighted(*term) for term in DML])
        loops.append(Loop(stepper, loader, Settings(steps=12, seed=0, **settings), evaluate, Checkpoints(folder)))
        try:
            loops[0].fit()
        except KeyboardInterrupt:
            return None
        return networks

    whole = run(tmp_path / "whole")
    for stop_at in (2, 6, 8):
        assert run(tmp_path / "killed", stop_at) is None
    assert same(run(tmp_path / "killed"), whole)


def one_rank(rank: int, alternate: bool) -> dict[str, torch.Tensor]:
    networks = cohort(3, alternate)
    trained(networks, rank=rank, world_size=2, accumulate=2, clip=0.3, ema=0.9)
    return networks.state_dict()


@pytest.mark.parametrize("alternate", [False, True])
def test_two_processes_train_what_one_would(alternate):
    alone = cohort(3, alternate)
    trained(alone, clip=0.3, ema=0.9)
    for together in processes(2).call(one_rank, [(0, alternate), (1, alternate)]):
        assert all(torch.allclose(value, together[name], atol=1e-6) for name, value in alone.state_dict().items())
