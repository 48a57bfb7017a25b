"""Which of a corruption's two published definitions a picture gets, and by how much its lengths are stretched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_SMALL, _CIFAR, _IMAGENET = 96, 32, 224  # pixels of the shorter side


@dataclass(frozen=True)
class Scale:
    """
    Attributes:
        small: CIFAR-10-C's constants rather than ImageNet-C's.
        factor: by which lengths in pixels are multiplied.
    """

    small: bool
    factor: float

    @classmethod
    def of(cls, height: int, width: int) -> Scale:
        side = min(height, width)
        if side < _SMALL:
            return cls(True, max(1.0, side / _CIFAR))  # a disk of less than a pixel would change nothing
        return cls(False, side / _IMAGENET)

    def pick(self, severity: int, small: Sequence[Any], large: Sequence[Any]) -> Any:
        """The constants of a severity (0 to 4)."""
        return (small if self.small else large)[severity]

    def pixels(self, length: float, least: int = 1) -> int:
        """A length of the definition in whole pixels of this picture."""
        return max(least, round(length * self.factor))
