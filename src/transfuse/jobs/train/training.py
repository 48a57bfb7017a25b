"""Training one network of a job: from recipe blocks to a running loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from transfuse.core import ranks, seeds
from transfuse.core.preprocess import Preprocess
from transfuse.core.protocols import Evaluate, Stepper, Views
from transfuse.core.types import DataSet, Model, Samples, WeightedObjective
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews, Colour, Erasing, Mixing, Operation, RandAugment, ResizedCrop, Rotation
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.loader import Openers, SecondView, build_loader, free_memory_bytes
from transfuse.engine.loop import Loop, Outcome, Settings
from transfuse.engine.order import Order
from transfuse.engine.precision import has_cpp_compiler
from transfuse.engine.steppers.per_term_gradients import PerTermGradients
from transfuse.engine.steppers.supervised import Supervised
from transfuse.errors import NumericsError
from transfuse.evaluate import metrics
from transfuse.evaluate.predict import original_units, predict
from transfuse.jobs.context import Context
from transfuse.jobs.tracking import Tracked
from transfuse.recipe.augment import AugmentBlock, ChangesBlock
from transfuse.recipe.blocks import TrainBlock

PREPARED_AT_ONCE = 512  # validation samples in one forward pass, where nothing has to be prepared for it


@dataclass
class Lesson:
    """What one network is to learn from.

    Attributes:
        name: student, control or the teacher's name: its lines in metrics.jsonl, its checkpoints.
        pool: training samples; regression labels already standardised.
        objectives: terms of the loss.
        train: the recipe's block, resolved.
        seed: of order and dropout.
        metrics: the file that is logged to.
        teachers: by name, each opened for what the loader shows.
        stepper: what a step computes; called with the arguments of `Supervised`.
        order: which samples each step sees; None: all of the pool, shuffled.
        stage: of a training in several stages, which `jobs.stages` lays out; empty in the only or last one. Before that nothing is
            validated, averaged or stopped.
        begin: the step at which the stage begins.
        end: the step at which it ends; None: at the end of the training.
        pace: puts a policy around the stepper: what is frozen, what learns more slowly.
        snapshots: how many of the best validated weights the outcome holds.
    """

    name: str
    pool: Samples
    objectives: Sequence[WeightedObjective]
    train: TrainBlock
    seed: int
    metrics: Path
    teachers: Openers = field(default_factory=dict)
    stepper: Callable[..., Supervised] = Supervised
    order: Order | None = None
    stage: str = ""
    begin: int = 0
    end: int | None = None
    pace: Callable[[Stepper], Stepper] | None = None
    snapshots: int = 0

    @property
    def run(self) -> str:
        """What its checkpoints are kept under."""
        return f"{self.name}.{self.stage}" if self.stage else self.name


def teach(context: Context, model: Model, data: DataSet, lesson: Lesson, views: Views) -> Outcome:
    """Trains the model in place (resuming where a checkpoint stands) and leaves the selected weights in it."""
    train, network = lesson.train, model.network.to(context.device)
    channels_last = bool(train.channels_last) and data.modality == "image"
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    order = order_of(lesson)
    workers = train.workers if isinstance(train.workers, int) else 0
    loader = build_loader(lesson.pool, views, order, context.device, train.loader, workers, len(data.classes) or None)
    teachers = {name: opened(loader) for name, opened in lesson.teachers.items()}
    assert model.preprocess is not None
    stepper = lesson.stepper(
        network,
        model.preprocess,
        lesson.objectives,
        teachers,
        precision=train.precision,
        channels_last=channels_last,
        forward=compiled(network, context, lesson) if train.compile else None,
        second=SecondView(loader, lesson.teachers),
    ).to(context.device)
    metric = train.stop.metric or metrics.primary(data.task)[0]
    apart = train.gradients == "pcgrad" and len(lesson.objectives) > 1
    followed: Stepper = PerTermGradients(stepper) if apart else stepper
    loop = Loop(
        lesson.pace(followed) if lesson.pace is not None else followed,
        loader,
        in_stage(settings_of(train, order, lesson.seed, metric, metrics.higher_is_better(data.task, metric)), lesson),
        evaluate=None if lesson.stage else validator(model, data, context.device, metric, lesson.name),
        checkpoints=Checkpoints(context.rundir.checkpoints / lesson.run),
        track=Tracked(lesson.metrics, lesson.name, lesson.stage, context.trackers),
        listen=context.listen,
    )
    for note in loop.notes:
        context.say(note)
    outcome = loop.fit()
    network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return outcome


def order_of(lesson: Lesson) -> Order:
    """Which samples this process sees in each step."""
    size = len(lesson.pool)
    return lesson.order or Order(size, min(lesson.train.batch_size, size), lesson.seed, ranks.rank(), ranks.world_size())


def steps_of(train: TrainBlock, order: Order) -> int:
    """Optimiser steps from beginning to end."""
    return train.steps or order.steps(train.epochs or 30.0)


def compiled(network: nn.Module, context: Context, lesson: Lesson) -> Callable[[Tensor], Tensor] | None:
    """The network through torch.compile; None, said aloud, where there is no compiler."""
    if not has_cpp_compiler():  # code for a GPU is launched by what a compiler builds here
        context.say("train.compile: there is no C++ compiler here, so the student runs without it")
        return None
    if lesson.train.compile == "max":
        why_not = no_graphs(context.device, lesson)
        if why_not is None:
            return graphed(network)
        context.say(f"train.compile: max: {why_not}, so the student is compiled without CUDA graphs")
    return torch.compile(network)


def graphed(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network compiled with CUDA graphs: a step's kernels are launched as one."""
    replayed = torch.compile(network, mode="reduce-overhead")

    def forward(inputs: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return replayed(inputs).clone()  # the graph's own output is overwritten by the next step, and objectives may keep it

    return forward


def no_graphs(device: torch.device, lesson: Lesson) -> str | None:
    """Why CUDA graphs would not do for a training; None where they do.

    A graph's tensors are overwritten when it runs again, so a step has to be one forward and one backward pass.
    """
    needs = {need for weighted in lesson.objectives for need in weighted.card.needs}
    reasons = {
        "CUDA graphs need a GPU": device.type != "cuda",
        "several processes share the gradients": ranks.world_size() > 1,
        "train.accumulate adds up several passes": lesson.train.accumulate > 1,
        "train.gradients=pcgrad goes back several times": lesson.train.gradients != "sum",
        "objectives tap the student's features": any(weighted.student_taps for weighted in lesson.objectives),
        "objectives show the student several batches in a step": bool(needs & {"two_views", "rotations", "peers", "domains"}),
        "another stepper than the supervised one calls the student in its own way": lesson.stepper is not Supervised,
        "what is trained changes on the way": lesson.pace is not None,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def settings_of(train: TrainBlock, order: Order, seed: int, metric: str, higher: bool) -> Settings:
    """The loop's plain values from the recipe's block."""
    optimizer, schedule = next(iter(train.optimizer.items())), next(iter(train.schedule.items()))
    return Settings(
        steps=steps_of(train, order),
        seed=seed,
        optimizer=optimizer,
        schedule=schedule,
        clip=train.clip,
        accumulate=train.accumulate,
        ema=train.ema,
        fp16=train.precision == "fp16" and torch.cuda.is_available(),
        evaluate_every=max(1, round(train.evaluate_every * order.per_epoch)),
        checkpoint_seconds=train.checkpoint_seconds,
        select=train.select,
        metric=metric,
        higher_is_better=higher,
        stop_at=train.stop.at,
        patience=train.stop.patience,
        minutes=train.stop.minutes,
        allow_batch_split=train.allow_batch_split,
    )


def in_stage(settings: Settings, lesson: Lesson) -> Settings:
    """A stage's own settings: where it begins and ends, and that only the last one chooses, averages and stops by a metric."""
    if not lesson.stage:
        return replace(settings, first=lesson.begin, snapshots=lesson.snapshots)
    steps = settings.steps if lesson.end is None else lesson.end
    return replace(settings, first=lesson.begin, steps=steps, select="last", ema=None, stop_at=None, patience=None)


def validator(model: Model, data: DataSet, device: torch.device, metric: str, name: str) -> Evaluate:
    """A function from a network to its quick metrics (and the watched one) on the validation part, along the model's exact path.

    Inputs are prepared once where they fit into a small share of memory: the device's, or else the host's.
    """
    assert model.preprocess is not None
    samples, preprocess, at_once = data.val, model.preprocess, 256
    labels, home = samples.labels.numpy(), home_of_prepared(samples, preprocess, device)
    if home is not None:
        samples, preprocess, at_once = prepared(samples, preprocess, home), Preprocess(), PREPARED_AT_ONCE

    def evaluate(network: nn.Module) -> dict[str, float]:
        outputs = predict(network, samples, preprocess, device, at_once)
        if not bool(outputs.isfinite().all()):
            fix = "lower the learning rate, set train.clip=1, or use train.precision=fp32"
            raise NumericsError("the network's outputs for the validation part became NaN or infinite", where=f"training {name}", fix=fix)
        values = original_units(outputs, data.target) if data.target is not None else outputs
        found = metrics.quick(data.task, values, labels)
        return found if metric in found else {**found, metric: metrics.score(data.task, metric, values, labels)}

    return evaluate


def home_of_prepared(samples: Samples, preprocess: Preprocess, device: torch.device) -> torch.device | None:
    """Where prepared inputs take less than a sixteenth of what is free: on the device, else on the host; None where on neither."""
    one = samples.exact([0], preprocess)
    size = one.numel() * one.element_size() * len(samples)
    places = dict.fromkeys((device, torch.device("cpu")))
    return next((place for place in places if size < free_bytes(place) // 16), None)


def free_bytes(place: torch.device) -> int:
    """Memory that is free there. A GPU has its own; what the host has free says nothing about it."""
    return torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else free_memory_bytes()


def prepared(samples: Samples, preprocess: Preprocess, home: torch.device) -> Samples:
    """The samples as `exact` gives them, held there; prepared in parts, so that the host need not hold what goes to a GPU."""
    inputs = torch.empty(len(samples), *samples.exact([0], preprocess).shape[1:], device=home)
    for rows in torch.arange(len(samples)).split(PREPARED_AT_ONCE):
        inputs[rows[0] : rows[-1] + 1] = samples.exact(rows, preprocess)
    return ArraySamples(inputs, samples.labels, samples.ids)


def views_of(augment: AugmentBlock) -> Views:
    """The recipe's augmentation, with the second view's own changes where it has some.

    Those draw from a seed of their own, so that the second view of a sample is cropped elsewhere than the first, whatever both do.
    """
    count, mix = None if augment.views == "fresh" else int(augment.views), _mixing(augment)
    second = None
    if (own := augment.second) is not None:
        second = BatchViews(count, seeds.derive(augment.seed, "second"), own.crop, own.flip, _operations(own), mix)
    return BatchViews(count, augment.seed, augment.crop, augment.flip, _operations(augment), mix, second)


def _operations(changes: ChangesBlock) -> list[Operation]:
    """What moves pixels comes before what changes them, what hides them last."""
    operations: list[Operation] = []
    if (part := changes.resized_crop) is not None:
        operations.append(ResizedCrop((part.scale[0], part.scale[1]), (part.ratio[0], part.ratio[1])))
    if changes.rotation:
        operations.append(Rotation(changes.rotation))
    if (random := changes.randaugment) is not None:
        operations.append(RandAugment(random.num_ops, random.magnitude))
    if (colour := changes.colour) is not None:
        operations.append(Colour(colour.brightness, colour.contrast, colour.saturation, colour.hue))
    if (hole := changes.erasing) is not None:
        operations.append(Erasing(hole.probability, (hole.scale[0], hole.scale[1]), (hole.ratio[0], hole.ratio[1]), hole.fill))
    return operations


def _mixing(augment: AugmentBlock) -> Mixing | None:
    if not augment.mixes:
        return None
    found = Mixing()
    if augment.mixup is not None:
        found = replace(found, mixup=augment.mixup.alpha, mixup_probability=augment.mixup.probability)
    if augment.cutmix is not None:
        found = replace(found, cutmix=augment.cutmix.alpha, cutmix_probability=augment.cutmix.probability)
    return found
