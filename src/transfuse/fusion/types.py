"""What rules on weights are given and what they give back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from transfuse.core.card import TaskName

# what has to be there before a rule on weights can run; a job refuses unmet needs before anything is computed
MergeNeed = Literal[
    "same_shapes",  # every tensor of the sources has the same shape
    "shared_origin",  # the sources were trained from the same weights (the base, where one is needed), so that their units correspond
    "base",  # the weights that the sources were trained from
    "inputs",  # calibration inputs
    "labels",  # labels of the calibration inputs
    "evaluate",  # a figure on validation data to choose by
]
Repair = Literal["auto", "none", "reset", "units"]


@dataclass(frozen=True)
class MergeCard:
    """Facts about one rule on weights, as literals, so that listings can read them without importing torch.

    Args:
        title: the name people know it by.
        paper: authors, year, venue.
        link: where to read it.
        needs: what has to be there; a job refuses unmet needs before anything is computed.
        tasks: the tasks on which the formula is defined.
        cost: what it costs beyond reading the weights, in words.
        sources: how many sources it takes.
    """

    title: str
    paper: str = ""
    link: str = ""
    needs: tuple[MergeNeed, ...] = ()
    tasks: tuple[TaskName, ...] = ("classification", "multilabel", "regression")
    cost: str = ""
    sources: Literal["two", "several"] = "several"


@dataclass(frozen=True)
class Parent:
    """One trained network among those that are merged.

    Attributes:
        name: as the recipe calls it.
        module: the network; float32, on the CPU, outputs are logits or regression values. Rules never change it.
        weight: its relative weight, for rules that weight their sources.
        score: its figure on validation, higher is better, where known; rules that choose ask `Calibration.evaluate` otherwise.
    """

    name: str
    module: nn.Module
    weight: float = 1.0
    score: float | None = None


@dataclass(frozen=True)
class Calibration:
    """Data for what weights alone don't tell: activations, Fisher information, statistics, choices.

    Attributes:
        batches: up to so many training samples -> (inputs as the networks take them, labels); the same samples at each call. Labels may be
            absent (-1, NaN) for rules whose card doesn't need them.
        loss: (outputs, labels) -> the task's loss per sample, float [batch], NaN for one without a label; None where no sample has one.
        evaluate: a network -> its figure on validation data, higher is better; never test data.
        arrange: a network's outputs -> those that the labels speak of, in their order; None: they are that already. `loss` does it itself.
    """

    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    evaluate: Callable[[nn.Module], float] | None = None
    arrange: Callable[[Tensor], Tensor] | None = None


@dataclass
class Merged:
    """A merged network.

    Attributes:
        module: in eval mode, of the architecture of the first source.
        notes: what was decided and done, in sentences, for the console and the report.
        figures: what was measured on the way, ready for JSON: members of a soup, coefficients, barriers.
    """

    module: nn.Module
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


class WeightRule(Protocol):
    """A file in fusion/weights: a CARD, a pure function on state dicts named like the file, and a class with plain constructor types.

    The pure function is `NAME(states: Sequence[Mapping[str, Tensor]], ..., base=None) -> dict[str, Tensor]`: it leaves its arguments as
    they are, computes in at least fp32 and gives every tensor back in the dtype of the first state.
    """

    def merge(self, sources: Sequence[Parent], calibration: Calibration | None = None, base: nn.Module | None = None) -> Merged:
        """Makes one network of several.

        The statistics of normalisation layers are re-estimated on calibration inputs after the merge, as the rule's `repair` says.

        Raises:
            ModelError: the sources can't be merged by this rule, and why; what is needed is not there.
        """
        ...
