"""Example steps, and ways to change every tensor of a step, for proving objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.core.card import TaskName
from transfuse.core.types import Batch, Signals, Step


@dataclass(frozen=True)
class Sizes:
    """How large an example step is to be; the kit asks for small, odd and unequal ones.

    Args:
        batch: samples.
        classes: outputs of student and teachers.
        channels: of every feature.
        student_spatial, teacher_spatial: height and width of the features.
        seed: of the random values.
    """

    batch: int = 6
    classes: int = 5
    channels: int = 6
    student_spatial: tuple[int, int] = (4, 4)
    teacher_spatial: tuple[int, int] = (4, 4)
    seed: int = 0


def example_step(
    sizes: Sizes,
    task: TaskName = "classification",
    teachers: int = 1,
    taps: int = 0,
    two_views: bool = False,
    peers: int = 0,
    rotations: bool = False,
) -> Step:
    """A step of independent normal float64 signals, every sample labelled.

    Args:
        sizes: shapes and seed.
        task: what the labels are: class numbers, multi-hot floats, or real targets.
        teachers: how many, named "first", "second", ...
        taps: features [batch, channels, height, width] per model, named "stage1", "stage2", ...
        two_views: also fill `Step.second` with other signals.
        peers: how many networks learn beside the student, named "peer1", "peer2", ...
        rotations: also fill `Step.rotations` with other signals.
    """
    generator = torch.Generator().manual_seed(sizes.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def signals(spatial: tuple[int, int]) -> Signals:
        features = {f"stage{tap + 1}": normal(sizes.batch, sizes.channels, *spatial) for tap in range(taps)}
        return Signals(2 * normal(sizes.batch, sizes.classes), features)

    def view(batch: Batch) -> Step:
        names = ["first", "second", "third", "fourth", "fifth"][:teachers]
        step = Step(batch, signals(sizes.student_spatial), {name: signals(sizes.teacher_spatial) for name in names}, progress=0.5)
        return replace(step, peers={f"peer{number + 1}": signals(sizes.student_spatial) for number in range(peers)})

    if task == "classification":
        labels = torch.randint(sizes.classes, (sizes.batch,), generator=generator)
    elif task == "multilabel":
        labels = (normal(sizes.batch, sizes.classes) > 0).double()
    else:
        labels = normal(sizes.batch, sizes.classes)
    ids, views = torch.randperm(10 * sizes.batch, generator=generator)[: sizes.batch], torch.zeros(sizes.batch, dtype=torch.int64)
    batch = Batch(normal(sizes.batch, 3, 8, 8), ids, views, labels, torch.ones(sizes.batch, dtype=torch.bool))
    step = view(batch)
    if rotations:
        turns = [replace(batch, inputs=torch.rot90(batch.inputs, turn, (2, 3))) for turn in (1, 2, 3)]
        step = replace(step, rotations=tuple(view(turn) for turn in turns))
    return replace(step, second=view(replace(batch, views=views + 1))) if two_views else step


def map_tensors(value: Any, change: Callable[[str, Tensor], Any], path: str = "") -> Any:
    """The same structure with every tensor replaced by `change(path, tensor)`; a path reads "teachers.first.logits"."""
    if isinstance(value, Tensor):
        return change(path, value)
    inner = f"{path}." if path else ""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), change, inner + f.name) for f in fields(value)})
    if isinstance(value, dict):
        return {key: map_tensors(entry, change, inner + str(key)) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(entry, change, f"{inner}{number}") for number, entry in enumerate(value))
    return value


def _owner(path: str) -> str:
    parts = path.split(".")
    inner = {"second": 1, "rotations": 2}.get(parts[0], 0)  # second.student.logits, rotations.0.student.logits
    return parts[inner] if len(parts) > inner else parts[0]


def is_student(path: str) -> bool:
    """Whether a tensor of a step is the student's: its signals, or its parameters where an objective looks at those."""
    return _owner(path).startswith("student") or _owner(path) == "parameters"


def is_teacher(path: str) -> bool:
    """Whether a tensor of a step is a teacher's or a peer's: what is learnt from, and gets no gradient."""
    return _owner(path).startswith(("teacher", "peer"))


def is_signal(path: str, tensor: Tensor) -> bool:
    """Whether a tensor is what a model computed, rather than inputs, labels or ids."""
    return tensor.is_floating_point() and (is_student(path) or is_teacher(path))


def cast(step: Step, dtype: torch.dtype) -> Step:
    """Every floating-point tensor in this dtype."""
    return map_tensors(step, lambda _, tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def cast_signals(step: Step, dtype: torch.dtype) -> Step:
    """The models' tensors in this dtype; inputs and labels stay as they are."""
    return map_tensors(step, lambda path, tensor: tensor.to(dtype) if is_signal(path, tensor) else tensor)


def agreeing(step: Step) -> Step | None:
    """The step in which the student says exactly what its teachers and peers say, all the same; None where shapes don't allow it."""

    def agree(one: Step) -> Step | None:
        if not one.teachers and not one.peers:
            return None
        teacher = next(iter([*one.teachers.values(), *one.peers.values()]))
        if teacher.logits.shape != one.student.logits.shape:
            return None
        pairs = list(zip(one.student.features, teacher.features.values(), strict=False))
        if any(one.student.features[path].shape != feature.shape for path, feature in pairs):
            return None
        student = Signals(teacher.logits.clone(), {**one.student.features, **{path: feature.clone() for path, feature in pairs}})
        return replace(one, student=student, teachers=dict.fromkeys(one.teachers, teacher), peers=dict.fromkeys(one.peers, teacher))

    agreed = agree(step)
    if agreed is None:
        return None
    rotations = tuple(turned for turned in map(agree, step.rotations) if turned is not None)
    return replace(agreed, second=None if step.second is None else agree(step.second), rotations=rotations)


def unlabelled(step: Step, rows: slice) -> Step:
    """The step without the labels of these rows: -1 for class numbers, NaN for the others."""
    labels, labelled = step.batch.labels.clone(), step.batch.labelled.clone()
    labels[rows] = float("nan") if labels.is_floating_point() else -1
    labelled[rows] = False
    second = None if step.second is None else unlabelled(step.second, rows)
    rotations = tuple(unlabelled(turned, rows) for turned in step.rotations)
    return replace(step, batch=replace(step.batch, labels=labels, labelled=labelled), second=second, rotations=rotations)


def shift_student_logits(step: Step) -> Step:
    """Another constant added to each sample's student logits; a softmax doesn't see it."""
    constants = torch.linspace(-3, 5, len(step.batch), dtype=step.student.logits.dtype)[:, None]
    return replace(step, student=replace(step.student, logits=step.student.logits + constants))


def scale_student_logits(step: Step) -> Step:
    """Each sample's student logits times another positive constant."""
    factors = torch.linspace(0.5, 3, len(step.batch), dtype=step.student.logits.dtype)[:, None]
    return replace(step, student=replace(step.student, logits=step.student.logits * factors))


def reverse_classes(step: Step) -> Step:
    """The classes in the opposite order, in logits and labels alike."""

    def change(path: str, tensor: Tensor) -> Tensor:
        if path.endswith("batch.labels") and not tensor.is_floating_point():
            return torch.where(tensor >= 0, step.student.logits.shape[-1] - 1 - tensor, tensor)
        classwise = path.endswith(("logits", "batch.labels", "label_probabilities"))
        return tensor.flip(-1) if classwise else tensor

    return map_tensors(step, change)


def step_table(step: Step, objective: nn.Module) -> dict[str, Any]:
    """What functions and references can ask for by parameter name; see `transfuse.testing`."""
    table: dict[str, Any] = {}
    turns = {f"turned_{90 * (number + 1)}_": turned for number, turned in enumerate(step.rotations)}
    for prefix, one in {"": step, "second_": step.second, **turns}.items():
        if one is None:
            continue
        teachers = list(one.teachers.values())
        table[f"{prefix}student_logits"] = one.student.logits
        table[f"{prefix}student_features"] = _alone(list(one.student.features.values()))
        table[f"{prefix}teachers_logits"] = [teacher.logits for teacher in teachers]
        table[f"{prefix}teachers_features"] = [_alone(list(teacher.features.values())) for teacher in teachers if teacher.features]
        table[f"{prefix}peers_logits"] = [peer.logits for peer in one.peers.values()]
        if len(teachers) == 1:
            table[f"{prefix}teacher_logits"] = teachers[0].logits
            table[f"{prefix}teacher_features"] = _alone(list(teachers[0].features.values()))
    for field in fields(step.batch):
        table[field.name] = getattr(step.batch, field.name)
    for field in fields(step):
        if field.name not in ("batch", "student", "teachers", "second", "peers", "rotations"):
            table[field.name] = getattr(step, field.name)
    table["state"] = dict([*objective.named_parameters(), *objective.named_buffers()])
    return table


def _alone(features: list[Tensor]) -> Any:
    return features[0] if len(features) == 1 else features


def as_arrays(value: Any) -> Any:
    """Tensors as numpy arrays: floats as float64, so that a reference computes in double precision."""
    if isinstance(value, Tensor):
        value = value.detach()
        return np.asarray(value.double().numpy() if value.is_floating_point() else value.numpy())
    if isinstance(value, dict):
        return {key: as_arrays(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_arrays(entry) for entry in value]
    return value
