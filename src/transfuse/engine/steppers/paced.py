"""The step of a fine-tuning phase: some parameters frozen, some slower than others, as a function of progress."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from torch import Tensor, nn

from transfuse.core.policy import Rate
from transfuse.core.protocols import Stepper
from transfuse.core.types import Batch, Term

BatchNorm = Literal["follow", "train", "frozen"]


class Paced:
    """Any stepper whose student follows a phase of a policy.

    Before each step it says which parameters have a gradient, and in which mode the layers run: the rates at that progress decide, so a
    resumed run goes on with what was unfrozen. A frozen parameter gets no gradient at all, so neither decay nor a running mean moves it.
    While nothing but the head is trained, everything else runs in eval mode, dropout included.

    Args:
        stepper: computes the terms.
        rates: of all that is ever trained in the phase; what is in none of them stays frozen.
        batchnorm: follow: a layer's statistics move while its own weights are trained; train: always; frozen: statistics and weights of all
            normalisation layers with running statistics stay as they are.
        head: parameters of the head, told by identity.
    """

    def __init__(self, stepper: Stepper, rates: Sequence[Rate], batchnorm: BatchNorm, head: Collection[nn.Parameter]):
        self._stepper, self._rates, self._batchnorm = stepper, tuple(rates), batchnorm
        self._student = stepper.trained().get_submodule("student")
        self._head = {id(parameter) for parameter in head}
        fixed = {id(parameter) for layer in self._norms() for parameter in layer.parameters()} if batchnorm == "frozen" else set()
        self._own = [{id(parameter) for parameter in rate.parameters} - fixed for rate in self._rates]
        ever = set().union(*(own for own, rate in zip(self._own, self._rates, strict=True) if rate.ever))
        for parameter in self._student.parameters():
            parameter.requires_grad_(id(parameter) in ever)
        self._now: set[int] = ever
        if (combine := getattr(stepper, "combine", None)) is not None:
            self.combine = combine  # the loop asks whether there is one
        if (look := getattr(stepper, "look", None)) is not None:
            self.look = look

    def _norms(self) -> list[nn.Module]:
        """Layers with running statistics; found anew each time, since layers may be replaced."""
        return [layer for layer in self._student.modules() if getattr(layer, "running_mean", None) is not None]

    @property
    def rates(self) -> tuple[Rate, ...]:
        """What the optimiser has groups for."""
        return self._rates

    def begin_step(self, progress: float) -> None:
        """Sets gradients and modes for a step."""
        self._now = set().union(*(own for own, rate in zip(self._own, self._rates, strict=True) if rate.factor(progress) > 0))
        for parameter in self._student.parameters():
            parameter.requires_grad_(id(parameter) in self._now)
        head_alone = self._now <= self._head
        for layer in self._student.modules():
            own = [id(parameter) for parameter in layer.parameters(recurse=False)]
            layer.training = not head_alone or any(key in self._now for key in own)
        if head_alone and self._batchnorm != "train":
            return
        for layer in self._norms():
            trained = any(id(parameter) in self._now for parameter in layer.parameters(recurse=False)) or not list(layer.parameters())
            layer.training = {"train": True, "frozen": False, "follow": trained}[self._batchnorm]

    def trained(self) -> nn.Module:
        return self._stepper.trained()

    def phases(self) -> list[str]:
        return self._stepper.phases()

    def trains(self, phase: str) -> Collection[nn.Parameter] | None:
        objectives = [parameter for name, parameter in self.trained().named_parameters() if not name.startswith("student.")]
        return [*(parameter for parameter in self._student.parameters() if id(parameter) in self._now), *objectives]

    def clipped(self) -> list[list[nn.Module]]:
        return self._stepper.clipped()

    def batch_level(self) -> list[str]:
        return getattr(self._stepper, "batch_level", list)()

    def partial(self) -> bool:
        """Some parameters may have no gradient for a while."""
        return True

    def defined(self, batch: Batch) -> dict[str, Tensor | None]:
        return self._stepper.defined(batch)

    def terms(self, batch: Batch, phase: str, progress: float) -> list[Term]:
        return self._stepper.terms(batch, phase, progress)
