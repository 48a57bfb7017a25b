"""The dataclasses that cross folder borders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.core.card import Card, TaskName
from transfuse.core.numerics import TopLogits
from transfuse.core.preprocess import Preprocess

Modality = Literal["image", "columns", "text"]
EXACT_VIEW = -1  # the view of evaluation: no augmentation, the model's own resize and crop


@dataclass
class Signals:
    """What one forward pass of one model yields: logits, and inner features by module path.

    Of a teacher whose answers were stored as its largest logits there are only those, in `top`; `logits` then has no column, so that
    whoever needs all of them fails rather than learns from a part.
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    top: TopLogits | None = None

    def detach(self) -> Signals:
        return Signals(self.logits.detach(), {path: feature.detach() for path, feature in self.features.items()}, self.top)

    def select(self, rows: Tensor | slice) -> Signals:
        top = None if self.top is None else self.top.select(rows)
        return Signals(self.logits[rows], {path: feature[rows] for path, feature in self.features.items()}, top)


@dataclass
class Batch:
    """Samples of one step.

    Attributes:
        inputs: the shared raw view, before any model's preprocessing.
        ids: int64 [batch], positions in the training pool.
        views: int64 [batch], which augmentation of each sample this is.
        labels: int64 [batch] (-1 = none), float [batch, classes] or float [batch, targets] (NaN = none).
        labelled: bool [batch].
        label_probabilities: float [batch, classes] when views mix labels, else None.
        domains: int64 [batch], 0 where a sample comes from the source domain, 1 from the target domain; None in jobs without domains.
        on_host: ids and views before they were sent to a GPU, so that who looks them up need not wait for it; None if known there only.
    """

    inputs: Tensor
    ids: Tensor
    views: Tensor
    labels: Tensor
    labelled: Tensor
    label_probabilities: Tensor | None = None
    domains: Tensor | None = None
    on_host: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Tensor | slice) -> Batch:
        mixed, domains = (None if values is None else values[rows] for values in (self.label_probabilities, self.domains))
        there = (self.on_host[0][rows], self.on_host[1][rows]) if self.on_host and isinstance(rows, slice) else None
        return Batch(self.inputs[rows], self.ids[rows], self.views[rows], self.labels[rows], self.labelled[rows], mixed, domains, there)


@dataclass
class Step:
    """All that an objective may look at.

    Attributes:
        batch: the samples.
        student: the student's signals; `features` holds the tapped ones in the recipe's order.
        teachers: signals by teacher name; only those that the recipe gave to the objective.
        progress: fraction of training done, 0 to 1.
        second: the same samples in another view, row by row, with the signals of student and teachers on it; given only to objectives whose
            card needs `two_views`.
        parameters: the student's parameters by name; given only to objectives at level `parameters` or that need `student.head`.
        peers: signals of the networks that learn beside this one, by name, without gradient; empty where none does.
        rotations: the same pictures turned by 90, 180 and 270 degrees, row by row, with the signals of student and teachers on them, from
            the same forward pass; given only to objectives whose card needs `rotations`.
    """

    batch: Batch
    student: Signals
    teachers: dict[str, Signals] = field(default_factory=dict)
    progress: float = 0.0
    second: Step | None = None
    parameters: dict[str, Tensor] = field(default_factory=dict)
    peers: dict[str, Signals] = field(default_factory=dict)
    rotations: tuple[Step, ...] = ()

    @property
    def teacher(self) -> Signals:
        """The only teacher's signals."""
        if len(self.teachers) != 1:
            raise ValueError(f"this objective takes one teacher, the step has {len(self.teachers)}: {sorted(self.teachers)}")
        return next(iter(self.teachers.values()))

    def select(self, rows: Tensor) -> Step:
        teachers, peers = ({name: said.select(rows) for name, said in group.items()} for group in (self.teachers, self.peers))
        second = None if self.second is None else self.second.select(rows)
        rotations = tuple(turned.select(rows) for turned in self.rotations)
        batch, student = self.batch.select(rows), self.student.select(rows)
        return replace(self, batch=batch, student=student, teachers=teachers, peers=peers, second=second, rotations=rotations)


@dataclass
class Term:
    """One term's value in one step.

    Attributes:
        name: unique within the recipe; what logs and errors call it.
        values: [batch] (sample level) or a scalar (batch or parameters level).
        weight: the weight at this step.
        defined: bool [batch], where a sample-level term is defined; None means everywhere.
    """

    name: str
    values: Tensor
    weight: float
    defined: Tensor | None = None


@dataclass(frozen=True)
class Trial:
    """A network as training finds it, and labelled training samples to try it on before training.

    Attributes:
        network: in eval mode.
        task: what the outputs mean.
        batches: up to so many samples -> (inputs as the network takes them, labels), along the exact path; the same ones each time.
        loss: (outputs, labels) -> the task's label loss per sample, float [batch].
    """

    network: nn.Module
    task: TaskName
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    loss: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Turn:
    """One of the updates of which a step is made where an objective alternates; see `core.protocols.Objective`.

    Attributes:
        sign: of the objective's own term: 1 lowers it, -1 raises it, 0 leaves it out.
        others: which other terms take part.
        trains: whose weights change: all, the student below its head, or the head together with the objective's own parts.
    """

    sign: int
    others: Literal["all", "labels", "none"]
    trains: Literal["all", "body", "heads"]


@dataclass
class WeightedObjective:
    """An objective with all that belongs to the recipe: its name there, weight, teachers and taps."""

    name: str
    objective: nn.Module
    card: Card
    weight: Callable[[float], float]  # progress -> weight
    teachers: tuple[str, ...] = ()
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()

    @property
    def compares_several(self) -> bool:
        """Whether it looks at features of several teachers at once; each path in `teacher_taps` is then TEACHER:PATH."""
        return self.card.teachers == "several" and "teacher.features" in self.card.needs

    def taps_of(self, teacher: str) -> tuple[str, ...]:
        """The paths that are tapped in one of its teachers."""
        if not self.compares_several:
            return self.teacher_taps
        return tuple(path.removeprefix(f"{teacher}:") for path in self.teacher_taps if path.startswith(f"{teacher}:"))


@runtime_checkable
class Samples(Protocol):
    """An indexable part of a data set.

    Attributes:
        ids: one name per sample, str or int64 array; what predictions are keyed by.
        labels: int64 [n] (-1 = none), float [n, k] (NaN = none).
        fingerprint: hash of the content (inputs, ids; not labels), which keys caches.
    """

    ids: np.ndarray
    labels: Tensor

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def raw(self, indices: Sequence[int] | Tensor) -> Tensor:
        """uint8 [n, channels, height, width] at the canonical size, or float32 [n, columns]."""
        ...

    def exact(self, indices: Sequence[int] | Tensor, preprocess: Preprocess) -> Tensor:
        """Float inputs along a model's exact evaluation path, from the original file where there is one."""
        ...


@dataclass
class Target:
    """Regression targets: names and the train split's mean and standard deviation; models predict (y - mean) / std."""

    names: list[str]
    mean: list[float]
    std: list[float]


@dataclass
class DataSet:
    """An opened data source.

    Attributes:
        train, val, test: labelled parts; `val` is what selection looks at, `test` only the final report.
        unlabelled: extra inputs for teachers to answer on, or None.
        task: classification, multilabel or regression.
        classes: class names (classification, multilabel); empty for regression.
        modality: image, columns or text.
        input_shape: (channels, height, width) or (columns,).
        preprocess: what a model with none of its own is given (train statistics).
        source: the recipe's string, or "live".
        target: scaling of regression targets.
        notes: what was decided while opening, said aloud and kept in the report.
    """

    train: Samples
    val: Samples
    test: Samples
    unlabelled: Samples | None
    task: TaskName
    classes: list[str]
    modality: Modality
    input_shape: tuple[int, ...]
    preprocess: Preprocess
    source: str
    target: Target | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> int:
        """How many numbers a model predicts per sample."""
        return len(self.target.names) if self.target else len(self.classes)


@dataclass
class DataParts:
    """What a data source found, as it lies there: before splitting, label budget and statistics, which are the same for all sources.

    Attributes:
        train: samples to learn from; those without a label (-1, NaN) become unlabelled ones.
        val, test: parts that the source itself keeps apart, or None.
        unlabelled: inputs that have no label by nature, or None.
        task: what the labels are.
        modality: image, columns or text.
        classes: names by class number; empty for regression.
        targets: names of the regression targets; empty otherwise.
        notes: what was decided while reading.
    """

    train: Samples
    task: TaskName
    modality: Modality
    val: Samples | None = None
    test: Samples | None = None
    unlabelled: Samples | None = None
    classes: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class DataRequest:
    """What a data source is asked for.

    Attributes:
        unlabelled: one more source (string or live object) whose labels are not looked at.
        val: fraction of the training part that is held out for selection where the source has no validation part.
        test: fraction of all samples kept for the final report where the source has no test part.
        split_seed: of the splits and of the choice of labels.
        labels_per_class: how many labels per class stay in the training part; None = all.
        size: side in pixels at which pictures are held; None = as they are, or 224 where files differ in size.
        task: what the labels mean; auto = from the labels.
        unreadable: whether files that can't be read stop the job or are left out.
        train_labels: whether a training part of which no sample has a label is refused.
        fold: (number from 1, of how many): this fold of the training part takes the test part's place; None: no folds.
    """

    unlabelled: Any = None
    val: float = 0.1
    test: float = 0.2
    split_seed: int = 0
    labels_per_class: int | None = None
    size: int | None = None
    task: Literal["auto"] | TaskName = "auto"
    unreadable: Literal["refuse", "skip"] = "refuse"
    train_labels: bool = True
    fold: tuple[int, int] | None = None


@dataclass
class ModelRequest:
    """What a model source is asked for.

    Attributes:
        outputs: classes or targets that the model must predict; None = as the source has it.
        input_shape: (channels, height, width) or (columns,) of the data; None = as the source has it.
        architecture: for files without one: "builtin:resnet56".
        options: constructor options of the architecture.
        trusted: the user declares that the file may be unpickled.
        seed: of a fresh initialisation.
        task: what the outputs mean, for predictions and sidecars.
    """

    outputs: int | None = None
    input_shape: tuple[int, ...] | None = None
    architecture: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    trusted: bool = False
    seed: int = 0
    task: TaskName = "classification"


@dataclass
class Model:
    """An opened model with what it takes to use it.

    Attributes:
        module: in eval mode, float32, on the CPU; logits out. None for a table of predictions.
        source: the string that opened it, or "live:ClassName".
        architecture: what rebuilds the module ("builtin:resnet20"), or None where only the source can.
        options: constructor options that rebuild it, outputs and input shape included.
        preprocess: how raw inputs become its inputs; None = the data's.
        classes: names of its outputs, where known.
        target: scaling of its regression outputs, where known.
        pretrained: whether the weights have been trained.
        table: sample id -> row of logits, for a table of predictions.
        notes: what was decided while opening.
        fresh: those of a trained network's parameters that start anew: a replaced last layer's.
    """

    module: nn.Module | None
    source: str
    architecture: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    preprocess: Preprocess | None = None
    classes: list[str] | None = None
    target: Target | None = None
    pretrained: bool = False
    table: tuple[np.ndarray, Tensor] | None = None
    notes: list[str] = field(default_factory=list)
    fresh: tuple[nn.Parameter, ...] = ()

    @property
    def network(self) -> nn.Module:
        """The module.

        Raises:
            TypeError: the model is a table of predictions.
        """
        if self.module is None:
            raise TypeError(f"{self.source} is a table of predictions, not a network")
        return self.module


@dataclass
class Progress:
    """Where a training run, or other work in steps, stands; what consoles are told. `epoch` is NaN where there are none."""

    name: str
    step: int
    steps: int
    epoch: float
    values: dict[str, float] = field(default_factory=dict)
    note: str = ""  # something that the user should be told now
    stage: str = ""  # of a training in several stages; empty in the last one

    @property
    def title(self) -> str:
        """The training and, where it has several, the stage."""
        return f"{self.name} ({self.stage})" if self.stage else self.name


def float_labels(labels: Tensor) -> bool:
    """Whether labels are multi-hot or regression targets rather than class numbers."""
    return torch.is_floating_point(labels)
