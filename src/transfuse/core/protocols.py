"""The interfaces between rooms. A module (a file) satisfies a source's protocol by its functions; no base classes are inherited."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from transfuse.core.shipping import ExportRequest, Written
from transfuse.core.types import Batch, DataParts, DataRequest, Model, ModelRequest, Progress, Samples, Signals, Step, Term


@runtime_checkable
class Objective(Protocol):
    """A term of the loss: an nn.Module with plain constructor types.

    What else it may define is called once, in this order, before the optimiser is made and before a checkpoint is loaded:

    - `set_outputs(outputs: int)`: how many numbers the student predicts, for discriminators and heads that are sized by it;
    - `meet(student: Ending, teacher: Ending)`: how both networks end (`core.heads`), for objectives that need the teacher's last layer;
    - `take_head(path: str, head: nn.Module)`: where the student's head is and a copy of it, for objectives with a second one: the
      layer that makes the outputs, or the module that the objective's `head` names. The objective then taps what the head is given;
    - `take_norms(norms: Mapping[str, Norm | None])`: the BatchNorm in front of each of the teacher's taps (`core.norms`), for objectives
      that read the teacher's statistics off its weights;
    - `build(student_shapes, teacher_shapes)`: shapes of the tapped features by path, from a dry forward;
    - `watch(parameters: Mapping[str, Tensor], new: Collection[str])`: the student's named parameters as training finds them, and which
      of them start anew (a fresh head). Objectives at `parameters` level keep copies of the starting values as buffers and are handed the
      live parameters in every step (`Step.parameters`), so the student never becomes their submodule;
    - `export(student) -> nn.Module`: the network that is trained, evaluated and shipped in the student's place, made with `core.grafts`;
    - `probe(student: Trial, teacher: Trial | None) -> str`: a look at labelled training samples, for what is measured once and kept in
      buffers; says in words what was measured ("" for nothing). Not called where training goes on from a checkpoint.

    Before a job makes its folder, a copy of the objective is tried on one step whose features are those of real samples. What it raises
    then (`ValueError`, `ModelError`) is the user's to change. `inspect(step: Step)` is called there and nowhere else, for what would cost
    too much to look at in every step. An objective on features that `auto` can't find has an attribute `named_taps: str` that says why;
    its taps have to be named.

    An objective whose method takes several updates per step says so with `turns() -> dict[str, Turn]`, by phase, and gives what its second
    head says with `second_logits(step)`: see `engine.steppers.alternating`. One that is trained in stages says so with `stages()`, and
    prepares its own parts with `prepare(step)`: see `core.stages`.
    """

    def forward(self, step: Step) -> Tensor:
        """Values [batch] for a sample-level objective, else a scalar."""
        ...


class ModelSource(Protocol):
    """A file in models/: opens what stands behind its prefix (`timm:resnet50`)."""

    def open_model(self, name: str, request: ModelRequest) -> Model:
        """Opens a model by the part of the string after the prefix."""
        ...

    def catalog(self) -> Mapping[str, str]:
        """Name -> one line, of what is there to choose from; may be empty for files."""
        ...


class DataSource(Protocol):
    """A file in data/: reads what stands behind its prefix (`images:./photos`).

    It reads; `transfuse.data.open_data` splits, keeps the label budget and fits statistics, once for all sources.
    """

    def open_data(self, name: str, request: DataRequest) -> DataParts:
        """Reads a source by the part of the string after the prefix."""
        ...

    def catalog(self) -> Mapping[str, str]:
        """Name -> one line, of what is there to choose from; for files, the shape of the name."""
        ...


class Exporter(Protocol):
    """A class in export/, named like its file: one format in which a student is shipped. The constructor's parameters are the recipe's.

    Attributes:
        packages: what has to be installed, beside transfuse's own dependencies.
        marks: None where the file must give the network's own answers; else (least agreement, largest loss) with which it passes.
    """

    packages: tuple[str, ...]

    @property
    def marks(self) -> tuple[float, float] | None: ...

    def rehearse(self, request: ExportRequest) -> None:
        """Tries with an untrained network what could make `write` fail after a training; writes nothing.

        Raises:
            ExportError: the network can't be had in this format.
        """
        ...

    def write(self, request: ExportRequest) -> Written:
        """Writes the files.

        Raises:
            ExportError: the network can't be had in this format.
        """
        ...

    def open(self, folder: Path) -> Model:
        """What was written, opened from its files alone, as a user would: its network, its own preprocessing, its class names."""
        ...


class Teacher(Protocol):
    """Answers by position in one pool of samples and by view; live, cached, or read from a table."""

    @property
    def forwards(self) -> int:
        """Samples that were sent through it so far."""
        ...

    def covers(self, ids: Tensor) -> Tensor:
        """bool [batch]: for which samples there is an answer."""
        ...

    def answers(self, ids: Tensor, views: Tensor, inputs: Tensor | None = None) -> Signals:
        """Signals without gradient; `inputs` saves fetching them where they are at hand."""
        ...


@runtime_checkable
class Mixture(Protocol):
    """What mixup and cutmix do to each view of a batch."""

    @property
    def partners(self) -> Tensor:
        """int64 [batch]: positions in the pool of the samples that are mixed in."""
        ...

    def blend(self, own: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the samples and of their partners -> mixed inputs, and float32 [batch]: the sample's own share of each."""
        ...


class Views(Protocol):
    """Augmentation as a pure function of (augment.seed, sample, view)."""

    views: int | None  # None: fresh ones for ever

    @property
    def second(self) -> Views | None:
        """What a sample's second view is made by, number by number; None: by these, in the view after the first."""
        ...

    def view_of_epoch(self, epoch: Tensor) -> Tensor: ...

    def apply(self, raw: Tensor, ids: Tensor, views: Tensor) -> Tensor: ...

    def mixture(self, ids: Tensor, views: Tensor, pool_size: int) -> Mixture | None:
        """Who is mixed with whom, after `apply`; None where nothing is mixed."""
        ...


class Loader(Protocol):
    """Shared raw views of a pool, on the device, whether it lives in memory or on disk."""

    samples: Samples

    def fetch(self, ids: Tensor, views: Tensor) -> Tensor: ...

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start .. stop - 1."""
        ...


class Stepper(Protocol):
    """What a training step computes; the loop alone does backward, clipping and the optimiser step.

    A stepper with a method `combine(gradients: [terms, parameters]) -> [parameters]` is given the gradient of every weighted term, summed
    over micro-batches and ranks, as flat rows in the order of `trained().parameters()`; what it returns is the step's gradient. One with a
    method `kept() -> nn.Module` says what is averaged, validated and chosen in the student's place: a module around it that answers as it.
    One with a method `look() -> str | None` says what it found wrong since, once the loop waits for the GPU anyway.
    """

    def trained(self) -> nn.Module:
        """All that the optimiser, clipping, DDP and the checkpoint must hold: student and objectives."""
        ...

    def phases(self) -> list[str]:
        """The alternating phases of one step; most have one."""
        ...

    def trains(self, phase: str) -> Collection[nn.Parameter] | None:
        """The parameters that a phase changes; None: all that `trained` holds."""
        ...

    def clipped(self) -> list[list[nn.Module]]:
        """Groups of modules, each of which is clipped by the norm of its own gradient; most have one."""
        ...

    def defined(self, batch: Batch) -> dict[str, Tensor | None]:
        """Per term, on which samples of the batch it is defined; decides the averages before anything is computed."""
        ...

    def terms(self, batch: Batch, phase: str, progress: float) -> list[Term]: ...


Evaluate = Callable[[nn.Module], dict[str, float]]
Listener = Callable[[Progress], None]


class Reporter(Protocol):
    """Whoever listens to a job: the console, or nobody (`Silent`)."""

    def say(self, text: str) -> None:
        """A note in one sentence: what was decided, what is going on."""
        ...

    def progress(self, progress: Progress) -> None: ...

    def result(self, summary: Mapping[str, Any], path: Path) -> None:
        """The finished run: its summary.json and its folder."""
        ...


class Silent:
    """The reporter of jobs that are called from Python: says nothing."""

    def say(self, text: str) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def result(self, summary: Mapping[str, Any], path: Path) -> None: ...
