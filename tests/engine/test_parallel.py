"""Two real processes over gloo give the single-process gradient."""

import copy
import os
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.vision import import_torchvision
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews
from transfuse.engine import parallel
from transfuse.engine.ema import Ema
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.order import Order
from transfuse.engine.steppers.supervised import Supervised
from transfuse.errors import TransfuseError

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
    from pathlib import Path

    from transfuse.engine.checkpoint import Checkpoints

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=20))

    class Slow(Checkpoints):
        def load(self):
            time.sleep(1.0 * rank)
            found = super().load()
            torch.save(torch.tensor(found[0] is None), f"{folder}/none{rank}.pt")
            return found

    loader = MemoryLoader(pool(False), BatchViews(views=1, seed=0), Order(32, 14, 0, rank, 2))
    stepper = Supervised(network(), Preprocess(), [weighted("cross_entropy")])
    Loop(stepper, loader, Settings(steps=2, seed=0, select="last"), checkpoints=Slow(Path(folder) / "checkpoints")).fit()
    parallel.stop()


def test_all_processes_look_for_a_checkpoint_before_the_first_one_is_written(tmp_path):
    mp.spawn(belated, (str(tmp_path),), nprocs=2)
    assert all(torch.load(tmp_path / f"none{rank}.pt") for rank in range(2))


def divided(rank: int, folder: str) -> None:
    """Either process finds another value of its own on validation, on either side of the target."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    loader = MemoryLoader(pool(False), BatchViews(views=1, seed=0), Order(32, 14, 0, rank, 2))
    settings = Settings(steps=4, seed=0, evaluate_every=2, stop_at=0.5)
    stepper = Supervised(network(), Preprocess(), [weighted("cross_entropy")])
    outcome = Loop(stepper, loader, settings, lambda module: {"accuracy": 0.49 + 0.02 * rank}).fit()
    torch.save((outcome.steps, outcome.best), f"{folder}/end{rank}.pt")
    parallel.stop()


def test_processes_that_measure_otherwise_decide_by_the_first_ones_figures(tmp_path):
    mp.spawn(divided, (str(tmp_path),), nprocs=2)
    assert [torch.load(tmp_path / f"end{rank}.pt") for rank in range(2)] == [(4, 0.49), (4, 0.49)]


def solitary(rank: int, folder: str) -> None:
    """The first process writes for longer than a step may take."""
    torch.set_num_threads(1)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "RANK": str(rank), "WORLD_SIZE": "2"}
    join = dist.init_process_group
    dist.init_process_group = lambda backend: join(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    parallel.start()
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
    if rank == 0:
        time.sleep(4)
    parallel.stop()
    assert not dist.is_initialized()


def test_the_others_wait_for_what_the_first_process_writes_alone(tmp_path):
    mp.spawn(solitary, (str(tmp_path),), nprocs=2)


class Wrapped(nn.Module):
    """Stands for DistributedDataParallel, which would look for the GPU that it is told of."""

    def __init__(self, module, device_ids, broadcast_buffers, find_unused_parameters):
        super().__init__()
        self.module = module

    def forward(self, inputs):
        return self.module(inputs)


@pytest.fixture
def gathered(tmp_path, monkeypatch):
    """A process group of one process, in which networks are wrapped as on a GPU."""
    monkeypatch.setattr(parallel, "DistributedDataParallel", Wrapped)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Doubled(nn.BatchNorm1d):
    """Somebody's own BatchNorm, which computes something more."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


def normalised(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with BatchNorm, and inputs."""
    torch.manual_seed(0)
    if kind != "timm":
        norms = {"plain": [nn.BatchNorm1d(4)], "own": [Doubled(4)], "both": [nn.BatchNorm1d(4), Doubled(4)]}[kind]
        return nn.Sequential(nn.Linear(6, 4), *norms, nn.ReLU(), nn.Linear(4, 3)), torch.randn(8, 6)
    import_torchvision()
    import timm

    return timm.create_model("mobilenetv3_small_050", num_classes=3), torch.randn(4, 3, 32, 32)


@pytest.mark.parametrize("kind", ["plain", "timm", "own", "both"])
@torch.no_grad()
def test_synchronising_changes_no_output_and_is_taken_back_with_the_weights_that_were_learnt(gathered, kind):
    module, inputs = normalised(kind)
    module(inputs)  # so that statistics are no longer 0 and 1
    layers = [(layer, type(layer)) for layer in module.modules()]
    before = module.eval()(inputs)
    called, notes = parallel.wrap(module, torch.device("cuda", 0))
    assert torch.equal(called(inputs), before)
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in called.modules()) == (kind != "own")
    assert any("taken over all ranks" in note for note in notes) == (kind != "own")
    assert any("Doubled: not synchronised" in note for note in notes) == (kind in ("own", "both"))
    for value in module.parameters():
        value.mul_(1.1)
    learnt = called(inputs)
    parallel.unwrap(module)
    assert [(layer, type(layer)) for layer in module.modules()] == layers
    assert torch.equal(module(inputs), learnt)
    assert not torch.equal(learnt, before)


@torch.no_grad()
def test_an_average_that_began_before_synchronising_goes_on_and_stays_a_plain_network(gathered):
    module, inputs = normalised("plain")
    average = Ema(module, 0.5)
    start = copy.deepcopy(module.state_dict())
    parallel.wrap(module, torch.device("cuda", 0))
    for value in module.state_dict().values():
        value.add_(1)
    average.update(module, 10**6)
    parallel.unwrap(module)
    assert [type(layer) for layer in average.module.modules()] == [type(layer) for layer in module.modules()]
    found = average.module.state_dict()
    assert all(torch.allclose(found[name], value + 0.5) for name, value in start.items() if "weight" in name or "bias" in name)
    assert all(torch.equal(found[name], value + 1) for name, value in start.items() if "running" in name or "tracked" in name)
    module.load_state_dict(found)
    assert torch.equal(module.eval()(inputs), average.module(inputs))


@pytest.mark.parametrize("fails", [False, True])
def test_a_loop_gives_the_network_back_with_its_own_layers(monkeypatch, fails):
    def fitted(student):
        def evaluate(module):
            seen.append(type(module[1]))
            if fails:
                raise KeyboardInterrupt
            return {"accuracy": 0.5}

        loader = MemoryLoader(pool(False), BatchViews(views=1, seed=0), Order(32, 14, 0))
        try:
            Loop(Supervised(student, Preprocess(), [weighted("cross_entropy")]), loader, Settings(steps=3, seed=0), evaluate).fit()
        except KeyboardInterrupt:
            assert fails
        return student

    seen: list[type] = []
    plain = fitted(network(batchnorm=True))
    # as on GPUs, but without a group, where SyncBatchNorm computes what BatchNorm does
    monkeypatch.setattr(parallel, "wrap", lambda module, device, unused: (module, parallel._synchronised(module)))
    student = fitted(network(batchnorm=True))
    assert seen == [nn.BatchNorm1d, nn.SyncBatchNorm]
    assert [type(layer) for layer in student.modules()] == [type(layer) for layer in plain.modules()]
    assert all(torch.equal(one, two) for one, two in zip(plain.state_dict().values(), student.state_dict().values(), strict=True))


def test_statistics_of_all_but_synchronised_layers_are_averaged_wherever_they_lie(gathered, monkeypatch):
    sent = []
    monkeypatch.setattr(dist, "all_reduce", lambda values: sent.append(values.numel()))
    norms = [nn.SyncBatchNorm(3), nn.InstanceNorm1d(5, track_running_stats=True), nn.BatchNorm1d(7)]
    parallel.average_buffers(nn.Sequential(*norms).to("meta"))  # a device that isn't the CPU, as a GPU is none
    assert sent == [2 * 5 + 2 * 7]


def test_buffers_that_are_equal_on_all_processes_keep_their_bits(monkeypatch):
    monkeypatch.setattr(parallel.ranks, "active", lambda: True)
    monkeypatch.setattr(parallel.ranks, "world_size", lambda: 3)
    monkeypatch.setattr(dist, "all_reduce", lambda values: values.mul_(3))
    module, single, double = nn.Module(), torch.tensor([11184814.0]), torch.tensor([1 + 2**-40], dtype=torch.float64)
    module.register_buffer("one", single.clone())  # three times it has no place in fp32
    module.register_buffer("two", double.clone())
    parallel.average_buffers(module)
    assert torch.equal(module.one, single)
    assert torch.equal(module.two, double)


def test_more_processes_than_gpus_are_told_how_many_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert parallel.own_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(TransfuseError, match="process 2 of this machine has no GPU of its own, since there are 1") as found:
        parallel.own_device()
    assert "CUDA_VISIBLE_DEVICES=" in found.value.fix
