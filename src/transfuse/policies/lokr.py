"""LoKr: the change of a frozen matrix is a Kronecker product of small ones (through peft)."""

from typing import Annotated

from annotated_types import Ge, Gt

from transfuse.policies._peft import Adapted


class Lokr(Adapted):
    """W + (alpha / rank) A (x) B (Yeh et al., 2024, ICLR, https://arxiv.org/abs/2309.14859).

    Args:
        rank: of the larger factor, where it is decomposed.
        alpha: scale of the change, over the rank.
        targets: module paths, or endings of them; null: all.
    """

    def __init__(self, rank: Annotated[int, Ge(1)] = 8, alpha: Annotated[float, Gt(0)] = 8.0, targets: list[str] | None = None):
        def configure(peft: object, paths: list[str]) -> object:
            return peft.LoKrConfig(target_modules=paths, r=rank, alpha=alpha)  # type: ignore[attr-defined]

        super().__init__("lokr", targets, configure)
