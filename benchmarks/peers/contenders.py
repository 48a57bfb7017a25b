"""One contender of `versus_peers` in its own process: `python -m benchmarks.peers.contenders NAME '{setting as JSON}'`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.peers import setting as shared
from benchmarks.peers.setting import Setting
from benchmarks.peers.turns import Turns
from transfuse.core import vision


class Pictures(Dataset):
    """CIFAR-10 as everybody's data set: a PIL picture through torchvision's transforms, one sample at a time."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        transforms = vision.import_torchvision().transforms
        self.pictures, self.labels = arrays["x_train"], arrays["y_train"]
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(shared.MEAN, shared.STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), int(self.labels[index])


# torchdistill


class Fast(nn.Module):
    """A network in the fast format and channels last that takes and gives fp32: how a user of torchdistill would tune it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        with shared.fast():
            return self.network(inputs.contiguous(memory_format=torch.channels_last)).float()


def torchdistill(setting: Setting, turns: Turns, tuned: bool) -> dict[str, Any]:
    """torchdistill's DistillationBox driven by the loop of its examples; tuned: with our precision, memory layout and the best workers."""
    vision.import_torchvision()  # torchdistill imports it too
    from torchdistill.core.distillation import get_distillation_box

    arrays = shared.pictures()
    teacher, student = shared.teacher_network(setting), shared.student_network(setting.seed)
    if tuned:
        teacher, student = Fast(teacher), Fast(student)
    workers = 1 if tuned else 2  # 0, 1 and 2 were tried for the tuned one; its own examples use as many as there are cores
    config = {
        "num_epochs": setting.steps,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": shared.BATCH, "num_workers": workers, "drop_last": False},
        },
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {
            "key": "SGD",
            "kwargs": {"lr": shared.LR, "momentum": shared.MOMENTUM, "nesterov": True, "weight_decay": shared.WEIGHT_DECAY},
        },
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": setting.steps}, "scheduling_step": 1},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": _torchdistill_kd()}}},
    }
    device = shared.device()
    box: Any = get_distillation_box(teacher, student, {"train": Pictures(arrays)}, config, device, None, False, 1)
    turns.ready()
    step = 0
    while step < setting.steps:
        box.pre_epoch_process(epoch=0)
        for inputs, labels, extra in box.train_data_loader:
            inputs, labels = inputs.to(device), labels.to(device)
            box.post_forward_process(box.forward_process(inputs, labels, extra))
            step += 1
            turns.step(step)
            if step == setting.steps:
                break
        box.post_epoch_process()
    return {"accuracy": shared.accuracy(student, arrays)}


def _torchdistill_kd() -> dict[str, Any]:
    paths = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".", "teacher_module_io": "output"}
    weights = {"temperature": shared.TEMPERATURE, "alpha": shared.HARD, "beta": shared.SOFT, "reduction": "batchmean"}
    return {"criterion": {"key": "KDLoss", "kwargs": {**paths, **weights}}, "weight": 1.0}


# loops by hand


def plain_loop(setting: Setting, turns: Turns) -> dict[str, Any]:
    """What a tutorial writes: torchvision transforms in two workers, fp32, the teacher in every step."""
    arrays = shared.pictures()
    teacher, student = shared.teacher_network(setting), shared.student_network(setting.seed)
    optimizer, schedule = shared.optimizer_of(student, setting.steps)
    loader = DataLoader(Pictures(arrays), batch_size=shared.BATCH, shuffle=True, num_workers=2)
    turns.ready()
    step = 0
    while step < setting.steps:
        for inputs, labels in loader:
            inputs, labels = inputs.to(shared.device()), labels.to(shared.device())
            with torch.no_grad():
                answers = teacher(inputs)
            loss = shared.soft_loss(student(inputs), answers, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            turns.step(step)
            if step == setting.steps:
                break
    return {"accuracy": shared.accuracy(student, arrays)}


def hand_tuned(setting: Setting, turns: Turns, with_teacher: bool = True, compiled: bool = False) -> dict[str, Any]:
    """What an expert writes: whole batches augmented in memory, the fast format, channels last; a live teacher, or labels alone."""
    arrays = shared.pictures()
    teacher, student = shared.teacher_network(setting), shared.student_network(setting.seed)
    teacher, student = (network.to(memory_format=torch.channels_last) for network in (teacher, student))  # type: ignore[call-overload]
    optimizer, schedule = shared.optimizer_of(student, setting.steps)
    forward: Callable[[Tensor], Tensor] = torch.compile(student) if compiled else student
    generator = torch.Generator().manual_seed(setting.seed)
    turns.ready()
    for step, (inputs, labels) in enumerate(_whole_batches(arrays, setting.steps, generator), start=1):
        with shared.fast():
            with torch.no_grad():
                answers = teacher(inputs) if with_teacher else None
            logits = forward(inputs)
        if answers is None:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        else:
            loss = shared.soft_loss(logits.float(), answers.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        turns.step(step)
    return {"accuracy": shared.accuracy(student, arrays)}


def _whole_batches(arrays: dict[str, np.ndarray], steps: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Random crops and flips by one gather per batch."""
    device = shared.device()
    pictures = torch.from_numpy(arrays["x_train"]).to(device).permute(0, 3, 1, 2).contiguous()
    padded = nn.functional.pad(pictures.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    labels = torch.from_numpy(arrays["y_train"]).long().to(device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (shared.MEAN, shared.STD))
    order = torch.empty(0, dtype=torch.int64)
    span = torch.arange(32, device=device)
    for _ in range(steps):
        if len(order) < shared.BATCH:
            order = torch.cat([order, torch.randperm(len(labels), generator=generator)])
        ids, order = order[: shared.BATCH], order[shared.BATCH :]
        top, left = torch.randint(0, 9, (2, len(ids)), generator=generator).to(device)
        columns = left[:, None] + span
        flipped = (torch.rand(len(ids), generator=generator) < 0.5).to(device)
        ids = ids.to(device)
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
        rows = top[:, None] + span
        cut = padded[ids[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        inputs = ((cut.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        yield inputs, labels[ids]


# ours


class Pausing:
    """A reporter through which a job takes turns: it is told about every step that is logged."""

    def __init__(self, turns: Turns):
        self.turns, self.started = turns, False

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def progress(self, progress: Any) -> None:
        if not self.started:  # the first line comes after the first step: what was before is not training
            self.started = True
            self.turns.ready()
            self.turns.last = progress.step
        else:
            self.turns.step(progress.step)

    def result(self, summary: Mapping[str, Any], path: Path) -> None: ...


def ours(setting: Setting, turns: Turns, cache: str, compiled: bool = False, views: int | str = 8) -> dict[str, Any]:
    """transfuse.distill with its defaults for this machine (bf16 where there are units for it, channels last, whole batches).

    Args:
        setting: the comparison.
        turns: to take part in.
        cache: the teacher cache's folder, empty or filled.
        compiled: train.compile.
        views: of each sample; "fresh" asks the teacher live in each step.
    """
    import transfuse

    arrays = shared.pictures()
    parts = tuple((arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test"))
    run = transfuse.distill(
        data={"source": parts, "split": {"val": 0.01, "seed": 0}},
        student="builtin:resnet20",
        teacher=shared.teacher_block(setting),
        objectives=[{"cross_entropy": {"weight": shared.HARD}}, {"kd": {"weight": shared.SOFT, "temperature": shared.TEMPERATURE}}],
        train=_train_block(setting, compiled),
        augment={"crop": 4, "flip": True, "views": views},
        cache={"dir": cache},
        control="none",
        samples=False,
        seed=setting.seed,
        out=os.path.join(setting.folder, f"{setting.teacher}-{os.getpid()}"),
        reporter=Pausing(turns),
    )
    return {
        "accuracy": run.summary["models"]["student"]["metrics"]["accuracy"],
        "teacher_forwards": run.summary["teacher_forwards"],
    }


def _train_block(setting: Setting, compiled: bool) -> dict[str, Any]:
    return {
        "steps": setting.steps,
        "batch_size": shared.BATCH,
        "optimizer": {"sgd": {"lr": shared.LR, "momentum": shared.MOMENTUM, "weight_decay": shared.WEIGHT_DECAY}},
        "schedule": {"cosine": {"warmup": 0}},
        "select": "last",
        "evaluate_every": 10_000,
        "compile": compiled,
        "checkpoint_seconds": 300.0,  # by default 30, of which most are the others' turns: each block would pay for a checkpoint
    }


CONTENDERS: dict[str, Callable[[Setting, Turns], dict[str, Any]]] = {
    "torchdistill": lambda setting, turns: torchdistill(setting, turns, tuned=False),
    "torchdistill tuned": lambda setting, turns: torchdistill(setting, turns, tuned=True),
    "plain loop": plain_loop,
    "hand-tuned loop": hand_tuned,
    "student alone": lambda setting, turns: hand_tuned(setting, turns, with_teacher=False),
    "student alone, compiled": lambda setting, turns: hand_tuned(setting, turns, with_teacher=False, compiled=True),
    "transfuse, live teacher": lambda setting, turns: ours(setting, turns, os.path.join(setting.folder, "unused"), views="fresh"),
    "transfuse, cold cache": lambda setting, turns: ours(setting, turns, os.path.join(setting.folder, f"cold-{os.getpid()}")),
    "transfuse, warm cache": lambda setting, turns: ours(setting, turns, os.path.join(setting.folder, "warm")),
    "transfuse, warm cache, compiled": lambda setting, turns: ours(setting, turns, os.path.join(setting.folder, "warm"), compiled=True),
}


def main() -> None:
    name, values = sys.argv[1:]
    setting = Setting(**json.loads(values))
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    sys.stdout = sys.stderr  # the real one is for turns
    turns = Turns(setting.block)
    turns.done(CONTENDERS[name](setting, turns))


if __name__ == "__main__":
    main()
