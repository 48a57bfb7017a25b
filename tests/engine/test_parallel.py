"""Two real processes over gloo give the single-process gradient."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews
from transfuse.engine import parallel
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.order import Order
from transfuse.engine.steppers.supervised import Supervised

from .conftest import network, weighted


class FrozenNorm(nn.Module):
    """A network whose BatchNorm stays in eval, as in fine-tuning with frozen statistics."""

    def __init__(self):
        super().__init__()
        self.inner = network(batchnorm=True)

    def train(self, mode=True):
        super().train(mode)
        self.inner[1].eval()
        return self

    def forward(self, inputs):
        return self.inner(inputs)


def pool(unequal: bool) -> ArraySamples:
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(32, 6, generator=generator), torch.randint(0, 3, (32,), generator=generator)
    if unequal:
        labels[torch.randperm(32, generator=generator)[:20]] = -1
    return ArraySamples(inputs, labels, np.arange(32))


def train(frozen: bool, unequal: bool, accumulate: int, rank: int = 0, world_size: int = 1) -> list[torch.Tensor]:
    student = FrozenNorm() if frozen else network()
    loader = MemoryLoader(pool(unequal), BatchViews(views=1, seed=0), Order(32, 14, 0, rank, world_size))
    settings = Settings(
        steps=5, seed=0, optimizer=("sgd", {"lr": 0.1, "weight_decay": 0.0}), clip=0.5, accumulate=accumulate, select="last"
    )
    Loop(Supervised(student, Preprocess(), [weighted("cross_entropy")]), loader, settings).fit()
    return [value.detach().clone() for value in student.state_dict().values()]


def worker(rank: int, folder: str, frozen: bool, unequal: bool, accumulate: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(train(frozen, unequal, accumulate, rank, 2), f"{folder}/rank{rank}.pt")
    parallel.stop()


@pytest.mark.parametrize(("frozen", "unequal", "accumulate"), [(False, True, 1), (True, False, 1), (True, True, 2)])
def test_two_processes_train_what_one_would(tmp_path, frozen, unequal, accumulate):
    mp.spawn(worker, (str(tmp_path), frozen, unequal, accumulate), nprocs=2)
    alone = train(frozen, unequal, 1)
    for rank in range(2):
        together = torch.load(tmp_path / f"rank{rank}.pt")
        assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(alone, together, strict=True))


def test_the_share_of_labels_per_rank_matters_so_the_test_above_can_fail():
    labels = pool(unequal=True).labels
    counts = [[(labels[Order(32, 14, 0, rank, 2).batch(step)[0]] >= 0).sum().item() for rank in range(2)] for step in range(5)]
    assert any(first != second for first, second in counts)


def test_wrapping_in_a_single_process_changes_nothing():
    module = network(batchnorm=True)
    before = copy.deepcopy(module.state_dict())
    wrapped, notes = parallel.wrap(module, torch.device("cpu"))
    assert wrapped is module
    assert notes == []
    parallel.average_buffers(module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def hurried(rank: int, folder: str) -> None:
    """Only one of the two processes finds a checkpoint, the time limit or an interrupt due."""
    import time

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    clock = time.monotonic
    time.monotonic = (lambda: clock() + 1000 * next(ticks)) if rank else clock
    ticks = iter(range(10**6))
    loader = MemoryLoader(pool(False), BatchViews(views=1, seed=0), Order(32, 14, 0, rank, 2))
    settings = Settings(steps=5, seed=0, checkpoint_seconds=500.0, minutes=100.0, select="last")
    outcome = Loop(Supervised(network(), Preprocess(), [weighted("cross_entropy")]), loader, settings).fit()
    torch.save(outcome.steps, f"{folder}/steps{rank}.pt")
    parallel.stop()


def test_processes_whose_clocks_differ_decide_together(tmp_path):
    mp.spawn(hurried, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"steps{rank}.pt") for rank in range(2))
    assert first == second < 5


def averaged(rank: int, folder: str) -> None:
    """BatchNorm in training mode, an average of weights, and a validation whose outcome hangs on running statistics."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    seen = []

    def evaluate(module):
        seen.append(module[1].running_mean.clone())
        return {"accuracy": module[1].running_mean.sum().item()}

    loader = MemoryLoader(pool(False), BatchViews(views=1, seed=0), Order(32, 14, 0, rank, 2))
    settings = Settings(steps=6, seed=0, ema=0.9, evaluate_every=2, patience=1)
    student = network(batchnorm=True)
    outcome = Loop(Supervised(student, Preprocess(), [weighted("cross_entropy")]), loader, settings, evaluate).fit()
    torch.save([*seen, *student.state_dict().values(), torch.tensor(outcome.steps)], f"{folder}/seen{rank}.pt")
    parallel.stop()


def test_processes_judge_and_ship_the_same_average_of_weights_and_statistics(tmp_path):
    mp.spawn(averaged, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"seen{rank}.pt") for rank in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def belated(rank: int, folder: str) -> None:
    """The second process looks for a checkpoint only when the first would have written one."""
    import time
    from datetime import timedelta
    from pathlib import Path

    from transfuse.engine.checkpoint import Checkpoints

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=20))

    class Slow(Checkpoints):
        def load(self, device="cpu"):
            time.sleep(1.0 * rank)
            found = super().load(device)
            torch.save(torch.tensor(found[0] is None), f"{folder}/none{rank}.pt")
            return found

    loader = MemoryLoader(pool(False), BatchViews(views=1, seed=0), Order(32, 14, 0, rank, 2))
    stepper = Supervised(network(), Preprocess(), [weighted("cross_entropy")])
    Loop(stepper, loader, Settings(steps=2, seed=0, select="last"), checkpoints=Slow(Path(folder) / "checkpoints")).fit()
    parallel.stop()


def test_all_processes_look_for_a_checkpoint_before_the_first_one_is_written(tmp_path):
    mp.spawn(belated, (str(tmp_path),), nprocs=2)
    assert all(torch.load(tmp_path / f"none{rank}.pt") for rank in range(2))
