"""What a job knows about data, models and hardware when it resolves a recipe: plain values, so that resolving is a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from transfuse.core.card import Card, TaskName

Modality = Literal["image", "columns", "text"]


@dataclass(frozen=True)
class Facts:
    """Facts about one job on one machine.

    Args:
        task: classification, multilabel or regression.
        modality: image, columns or text.
        n_train: samples of the training part, with and without labels.
        n_labelled: those of them that have a label.
        n_unlabelled: samples of the pool without a label: the rest of the training part and `data.unlabelled`.
        n_classes: numbers that a model predicts per sample (classes or targets).
        input_shape: (channels, height, width) or (columns,) of the data.
        pool_bytes: memory that the decoded training pool takes.
        free_memory_bytes: memory that is free where the pool would be held.
        device: "cpu" or "cuda".
        bf16_units: whether the device has matrix units for bfloat16.
        model_sizes: sides in pixels that the job's models ask for; empty where none does.
        has_cpp_compiler: whether torch.compile can build code here.
        teachers: names of the teachers, in the recipe's order.
        tables: those of them that are tables of predictions, so logits only.
        peers: names of the networks that learn beside the student.
        cores: CPU cores that the job may use.
        out: the run folder to take where the recipe names none.
        domains: whether the pool holds samples of a source and of a target domain.
        start: whether the student starts from trained weights, to which a frozen copy of them can answer as the teacher "start".
        live_cards: card of each objective that was handed over as an object, by its name in the recipe ("live:ClassName").
    """

    task: TaskName = "classification"
    modality: Modality = "image"
    n_train: int = 0
    n_labelled: int = 0
    n_unlabelled: int = 0
    n_classes: int = 0
    input_shape: tuple[int, ...] = ()
    pool_bytes: int = 0
    free_memory_bytes: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    bf16_units: bool = False
    model_sizes: tuple[int, ...] = ()
    has_cpp_compiler: bool = False
    teachers: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    cores: int = 1
    out: str | None = None
    domains: bool = False
    start: bool = False
    live_cards: Mapping[str, Card] = field(default_factory=dict)

    @property
    def n_pool(self) -> int:
        """Samples of one pass of the student over the training pool."""
        return self.n_labelled + self.n_unlabelled
