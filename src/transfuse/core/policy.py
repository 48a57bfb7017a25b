"""What a fine-tuning policy is told (layer groups) and what it answers (phases with rates), as plain values between rooms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn


@dataclass(frozen=True)
class Group:
    """Layers that are frozen or trained together.

    Attributes:
        name: path of the module that they lie in; "head" for the last group.
        parameters: each belongs to one group alone, told by identity.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class Rate:
    """How fast some parameters learn.

    Attributes:
        name: what notes and logs call them.
        parameters: told by identity, never by value.
        factor: progress of the phase (0 to 1) -> multiplier of the learning rate; 0: frozen. A pure function, so a run that is resumed in
            the middle of a schedule trains what it trained before.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    factor: Callable[[float], float]

    @property
    def ever(self) -> bool:
        """Whether they are trained at any time of the phase; schedules are looked at in 65 places."""
        return any(self.factor(place / 64) > 0 for place in range(65))


@dataclass(frozen=True)
class Phase:
    """One of the trainings that a policy consists of.

    Attributes:
        name: of the phase in logs and file names; empty for the last one, whose validation selects.
        share: of the steps.
        rates: of all that is ever trained in it; the rest stays frozen.
        head_alone: nothing but the head is trained, so the features in front of it are constants.
    """

    name: str
    share: float
    rates: tuple[Rate, ...]
    head_alone: bool = False


class Policy(Protocol):
    """A file in policies/: a class with plain constructor types.

    What else it may define:

    - `dress(network, head, seed)`: changes the network in place before training (adapters, another normalisation), `head` being the
      parameters that start anew, and `undress(network)`: makes a plain network of the same architecture of it again, for shipping.
    """

    def phases(self, groups: Sequence[Group]) -> Sequence[Phase]:
        """From the layer groups, stem first and head last, to one or several phases."""
        ...


def always(factor: float) -> Callable[[float], float]:
    """The same multiplier throughout."""
    return lambda progress: factor


def from_then_on(begin: float, factor: float = 1.0) -> Callable[[float], float]:
    """Frozen before `begin` of the phase, the multiplier from then on."""
    return lambda progress: factor if progress >= begin else 0.0
