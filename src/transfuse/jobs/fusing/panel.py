"""What the sources of a fusion say, asked once; how good an answer is on validation; and what one way to fuse came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from transfuse.core.types import DataSet, Model, Samples
from transfuse.errors import DataError, TransfuseError
from transfuse.evaluate import metrics
from transfuse.evaluate.predict import original_units
from transfuse.fusion import contribution
from transfuse.fusion.outputs import get as output_rule
from transfuse.jobs.fusing.sources import Source
from transfuse.jobs.parts.answers import Oracle
from transfuse.jobs.parts.pools import standardised


@dataclass
class Way:
    """What one way to fuse came to.

    Attributes:
        name: as the resolved recipe has it; "single NAME" for a source as it is.
        val: what it says about the validation part without having been fitted on it, [n, outputs]; None where it failed.
        ask: what it says about any samples.
        model: the network that does it; None where a table takes part.
        ships: whether a file can hold that network.
        why: why it failed or can't be chosen, in words.
        notes: what was decided and found on the way.
        figures: what was measured on the way, for summary.json.
        score: validation metric that chooses.
        second: -NLL on validation (-RMSE of a regression), which decides between equals.
        cost: as `evaluate.cost.measure` gives it; None where it was not measured.
    """

    name: str
    val: Tensor | None = None
    ask: Callable[[Samples], Tensor] | None = None
    model: Model | None = None
    ships: bool = True
    why: str | None = None
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    score: float | None = None
    second: float | None = None
    cost: dict[str, Any] | None = None

    @property
    def shipped(self) -> Model | None:
        """What can be written into a file and opened again; None where only its answers can."""
        return self.model if self.ships else None


@dataclass
class Panel:
    """All sources, and what they say.

    Attributes:
        data: what they are asked about.
        sources: by name.
        oracles: the same, remembered on disk.
        metric: the validation metric that chooses.
        opened: what ways of one room share, by room: the sources' backbones and their features.
    """

    data: DataSet
    sources: Mapping[str, Source]
    oracles: Mapping[str, Oracle]
    metric: str
    opened: dict[str, Any] = field(default_factory=dict)
    _said: dict[int, Tensor] = field(default_factory=dict)

    def outputs(self, samples: Samples) -> Tensor:
        """float32 [sources, n, outputs]: logits, or predictions in standard deviations of the targets."""
        if id(samples) not in self._said:
            said = []
            for name, oracle in self.oracles.items():
                if oracle.model.module is not None:
                    oracle.model.module.to(oracle.device)  # measuring costs took it to the CPU
                answers = oracle.outputs(samples)
                if not bool(answers.isfinite().all()):
                    wrong = int(torch.nonzero(~answers.isfinite().all(1))[0])
                    what = f"{oracle.model.source} has no finite answer for sample '{samples.ids[wrong]}'"
                    raise DataError(what, f"sources.{name}", "check its weights and its preprocess, or leave it out")
                said.append(answers)
            self._said[id(samples)] = torch.stack(said)
        return self._said[id(samples)]

    def asking(self, name: str) -> Callable[[Samples], Tensor]:
        """A function from samples to what one source says."""
        place = list(self.sources).index(name)
        return lambda samples: self.outputs(samples)[place]

    def labels(self) -> Tensor:
        """Of the validation part, in the terms of the networks' outputs."""
        return standardised(self.data.val, self.data).labels

    @property
    def higher(self) -> bool:
        """The direction of the metric."""
        return metrics.higher_is_better(self.data.task, self.metric)

    def value(self, outputs: Tensor) -> float:
        """The metric of answers about the validation part."""
        return metrics.score(self.data.task, self.metric, self.units(outputs), self.data.val.labels)

    def units(self, outputs: Tensor) -> Tensor:
        """Predictions in the targets' own units; logits as they are."""
        return outputs if self.data.target is None else original_units(outputs, self.data.target)

    def judge(self, way: Way) -> Way:
        """Fills in a way's scores."""
        if way.val is None:
            return way
        try:
            way.score = self.value(way.val)
            second = "rmse" if self.data.task == "regression" else "nll"
            way.second = -metrics.score(self.data.task, second, self.units(way.val), self.data.val.labels)
        except TransfuseError as error:
            way.why = error.what
        return way

    def contributions(self) -> dict[str, Any]:
        """What each source adds to the plain ensemble on validation: leaving it out, and Shapley's share where they are few.

        All groups of sources are scored from remembered answers. Positive is good, whatever the metric's direction.
        """
        said, names = self.outputs(self.data.val), list(self.sources)
        sign = 1.0 if self.higher else -1.0
        numbers = {name: place for place, name in enumerate(names)}

        def worth(group: tuple[str, ...]) -> float:
            rule = output_rule("mean_probabilities")(self.data.task)
            rule.build(len(group), said.shape[2])
            return sign * self.value(rule.fuse(said[[numbers[name] for name in group]]))

        few = len(names) <= contribution.MOST_SOURCES
        groups = contribution.coalitions(names) if few else contribution.without_each(names)
        scores = {frozenset(group): worth(group) for group in groups}
        found: dict[str, Any] = {"metric": self.metric, "leave_one_out": contribution.leave_one_out(scores, names)}
        if few:
            scores[frozenset()] = sign * self.value(self._without_any())
            found["shapley"] = contribution.shapley(scores, names)
        return found | self._one_is_right()

    def _without_any(self) -> Tensor:
        """What can be said without any source: the classes' shares, or the mean."""
        labels = self.labels()
        if self.data.task == "classification":
            counts = torch.bincount(labels[labels >= 0], minlength=self.data.outputs)
            return ((counts + 1e-6) / counts.sum()).log().expand(len(labels), -1)
        known = labels[~labels.isnan().any(1)].double()
        mean = known.mean(0).clamp(1e-6, 1 - 1e-6).logit() if self.data.task == "multilabel" else known.mean(0)
        return mean.float().expand(len(labels), -1)

    def _one_is_right(self) -> dict[str, float]:
        """The share of validation samples that at least one source gets right: what no choice of one source per sample can exceed."""
        if self.data.task != "classification":
            return {}
        labels = self.data.val.labels
        right = torch.stack([said.argmax(1) == labels for said in self.outputs(self.data.val)])[:, labels >= 0]
        return {"one_is_right": float(right.any(0).float().mean())}
