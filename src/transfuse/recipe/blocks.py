"""The blocks that recipes are made of: every key, its type, its default and what it is for."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from transfuse.recipe.methods import Auto, Block, one_method

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(value: Any) -> Any:
    """'20GB' -> 20000000000; numbers pass through."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", value)
        if not match or match[2].upper() not in _UNITS:
            raise ValueError(f"'{value}' is not a size; write bytes or 4MB, 20GB, 512KiB")
        return int(float(match[1]) * _UNITS[match[2].upper()])
    return value


ByteSize = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
ByteBudget = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)]


def source_string(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


class FoldBlock(Block):
    number: Count
    """which one, from 1"""
    of: Annotated[int, Field(ge=2)]
    """how many there are"""

    @model_validator(mode="after")
    def _there(self) -> FoldBlock:
        if self.number > self.of:
            raise ValueError(f"there is no fold {self.number} of {self.of}")
        return self


class SplitBlock(Block):
    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """fraction of the training part held out for selection, stratified"""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """fraction of all samples kept for the final report where the source has no test part"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of the splits; independent of the run's seed"""
    fold: FoldBlock | None = None
    """{number: 1, of: 5}: this fold of the training part takes the test part's place; what `validate` writes for its runs"""


class DataBlock(Block):
    source: str
    """bundled:digits, images:FOLDER, arrays:FILE.npz, idx:FOLDER, torchvision:NAME@ROOT"""
    unlabelled: str | None = None
    """more inputs without labels, for teachers to answer on (same kinds of source)"""
    split: SplitBlock = SplitBlock()
    """how val and test are made where the source doesn't bring them"""
    labels_per_class: Count | None = None
    """keep so many labels per class in the training part; the other samples there become unlabelled"""
    size: Annotated[int, Field(ge=1, le=8192)] | Auto | None = "auto"
    """side in pixels at which pictures are held; auto: the largest input that a model of the job asks for; null for tables"""
    task: Literal["auto", "classification", "multilabel", "regression"] = "auto"
    """auto: from the labels"""
    unreadable: Literal["refuse", "skip"] = "refuse"
    """what to do with files that can't be read: stop and name them, or leave them out and name them"""


class ModelBlock(Block):
    source: str
    """builtin:resnet20, timm:NAME, torchvision:NAME@WEIGHTS, file:PATH, run:PATH, predictions:FILE"""
    architecture: str | None = None
    """for a file that doesn't say it itself: builtin:resnet56"""
    options: dict[str, Any] = Field(default={})
    """constructor options of the architecture, such as {shortcut: A}"""
    preprocess: dict[str, Any] | None = None
    """how raw inputs become the model's: {size: 32, mean: [...], std: [...]}; takes the place of what the source says, except for a scale
    that it doesn't name: that stays the source's, else the data's (1/255 for 8-bit pictures)"""
    classes: dict[str, int] | list[str] | None = None
    """names of the outputs in order, or {class of the data: output number} to choose among many outputs"""
    trusted: bool = False
    """the file may be unpickled: it can run code, so only for files of your own"""


class LearnerBlock(ModelBlock):
    """A network that is trained: what it ends in and what it begins with, beside what any model has."""

    head: dict[str, Any] | None = None
    """a fresh head of another form: linear, {mlp: {widths: [256]}}, {conv: {layers: 1}} before the pool, {fusion: {taps: [layer2]}}"""
    init: dict[str, Any] | None = None
    """another network's weights to begin with: {copy: {source: run:...}}, {select: {by: norm}}, {project: {by: svd}}, drop_layers, ..."""

    @field_validator("head", mode="before")
    @classmethod
    def _head(cls, value: Any) -> Any:
        return None if value is None else one_method(value, "form")

    @field_validator("init", mode="before")
    @classmethod
    def _init(cls, value: Any) -> Any:
        return None if value is None else one_method(value, "init")


class StopBlock(Block):
    metric: str | None = None
    """validation metric that `at` and `patience` look at; null: the task's first (accuracy, f1, rmse)"""
    at: float | None = None
    """stop as soon as the metric is this good"""
    patience: Count | None = None
    """stop after so many evaluations without improvement"""
    minutes: Positive | None = None
    """stop at the first step after so many minutes; not repeatable to the bit"""


class TrainBlock(Block):
    epochs: Positive | None = None
    """passes over the training pool (labelled and unlabelled); null with `steps`: as many as that takes; default 30"""
    steps: Count | None = None
    """number of optimiser steps, instead of epochs"""
    batch_size: Count = 128
    """samples per optimiser step, over all ranks and micro-batches; at most the pool's size"""
    optimizer: dict[str, Any] = Field(default={"adamw": {}})
    """{adamw: {lr: 0.001}} or {sgd: {lr: 0.1}}"""
    schedule: dict[str, Any] = Field(default={"cosine": {}})
    """learning rate over the run: constant, cosine, one_cycle, step"""
    clip: Positive | None = None
    """largest norm of the gradient over all trained parameters"""
    gradients: Literal["sum", "pcgrad"] = "sum"
    """pcgrad: where two terms of the loss pull the network in opposite directions, each gives way; one backward pass per term"""
    accumulate: Count = 1
    """micro-batches per step: the same step in less memory"""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """decay of an exponential moving average of the weights, which is then what is evaluated and shipped"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has matrix units for it and inputs are pictures, else fp32"""
    channels_last: bool | Auto = "auto"
    """memory layout of convolutions; auto: yes for pictures"""
    compile: bool | Literal["auto", "max"] = "auto"
    """torch.compile; auto: on a GPU and for long runs; max: with CUDA graphs too, where the step is one forward and one backward pass"""
    loader: Literal["auto", "memory", "workers"] = "auto"
    """auto: in memory when the decoded training pool takes less than a quarter of what is free"""
    workers: Annotated[int, Field(ge=0)] | Auto = "auto"
    """processes that decode pictures with `loader: workers`"""
    select: Literal["best", "last"] = "best"
    """which weights are kept: best on validation, or the last"""
    evaluate_every: Positive = 1.0
    """epochs between validations"""
    stop: StopBlock = StopBlock()
    """when to stop before the end"""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    """seconds between checkpoints; 0 keeps one after every step"""
    allow_batch_split: bool = False
    """let objectives that relate the samples of a batch run on micro-batches, where they see fewer samples"""

    @field_validator("optimizer", mode="before")
    @classmethod
    def _optimizer(cls, value: Any) -> Any:
        return one_method(value, "optimizer")

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule(cls, value: Any) -> Any:
        return one_method(value, "schedule")

    @model_validator(mode="after")
    def _length(self) -> TrainBlock:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps both say how long to train; keep one")
        return self


class TeacherBlock(ModelBlock):
    train: TrainBlock | None = None
    """train the teacher here, on the labels, before it teaches; needed where its source has no trained weights"""

    @classmethod
    def like(cls, model: ModelBlock, train: TrainBlock | None = None) -> TeacherBlock:
        """A teacher of the same source; what a learner has beside that (head, init) stays with the learner."""
        return cls(**{name: getattr(model, name) for name in ModelBlock.model_fields}, train=train)


class CacheBlock(Block):
    dir: str = "auto"
    """where teachers' answers and controls are kept; auto: $TRANSFUSE_CACHE, else ~/.cache/transfuse"""
    max_bytes: ByteSize = 20 * 10**9
    """refuse to grow the teacher cache beyond this"""
    precision: Literal["fp16", "fp32"] = "fp16"
    """in which teachers' answers are stored; a step uses them as stored, also the first time"""
    top_k: Count | Auto | None = "auto"
    """keep only so many of the largest logits, and the sum of the others; null: all; auto: all up to 4096 classes, else 100"""
    temperatures: Annotated[list[Positive], Field(min_length=1)] | None = None
    """with top_k: at which the others' sum is kept, since it can't be had at another one; null: those of the objectives"""
    features: ByteBudget = 5 * 10**9
    """disk for the tapped features of one teacher in all views; where they don't fit the teacher is asked live; 0: always live"""


class BudgetBlock(Block):
    bytes: ByteSize | None = None
    """largest size of the student's weights"""
    latency_ms: Positive | None = None
    """largest p50 latency at batch 1"""
    threads: Count = 1
    """CPU threads for latency"""
