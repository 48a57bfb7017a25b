"""LoHa: the change of a frozen matrix is an elementwise product of two low-rank ones (through peft)."""

from typing import Annotated

from annotated_types import Ge, Gt

from transfuse.policies._peft import Adapted


class Loha(Adapted):
    """W + (alpha / rank) (B1 A1) * (B2 A2): rank up to rank^2 (Hyeon-Woo, Ye-Bin, Oh, 2022, ICLR, https://arxiv.org/abs/2108.06098).

    Args:
        rank: of each factor.
        alpha: scale of the change, over the rank.
        targets: module paths, or endings of them; null: all.
    """

    def __init__(self, rank: Annotated[int, Ge(1)] = 8, alpha: Annotated[float, Gt(0)] = 8.0, targets: list[str] | None = None):
        def configure(peft: object, paths: list[str]) -> object:
            return peft.LoHaConfig(target_modules=paths, r=rank, alpha=alpha)  # type: ignore[attr-defined]

        super().__init__("loha", targets, configure)
