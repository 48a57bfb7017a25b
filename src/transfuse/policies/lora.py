"""LoRA: low-rank changes of frozen matrices are trained, and merged into them at the end (through peft)."""

from typing import Annotated

from annotated_types import Ge, Gt, Lt

from transfuse.policies._peft import Adapted


class Lora(Adapted):
    """W + (alpha / rank) B A beside every linear layer and plain convolution (Hu et al., 2022, ICLR, https://arxiv.org/abs/2106.09685).

    B begins at 0, so training begins at the pretrained network. The paper adapts attention alone; here all layers are, as Biderman et al.
    (2024) advise.

    Args:
        rank: of the change.
        alpha: scale of the change, over the rank.
        dropout: on the adapters' inputs.
        dora: also learn each column's length (DoRA, Liu et al., 2024, https://arxiv.org/abs/2402.09353).
        rslora: scale by alpha / sqrt(rank) instead (Kalajdzievski, 2023).
        targets: module paths, or endings of them; null: all.
    """

    def __init__(
        self,
        rank: Annotated[int, Ge(1)] = 8,
        alpha: Annotated[float, Gt(0)] = 8.0,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        dora: bool = False,
        rslora: bool = False,
        targets: list[str] | None = None,
    ):
        def configure(peft: object, paths: list[str]) -> object:
            settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "use_dora": dora, "use_rslora": rslora}
            return peft.LoraConfig(target_modules=paths, **settings)  # type: ignore[attr-defined]

        super().__init__("lora", targets, configure)
