"""IA3: a scale per output of frozen layers is trained, and merged into them at the end (through peft)."""

from transfuse.policies._peft import Adapted


class Ia3(Adapted):
    """l * (W x) with one l per output, beginning at 1 (Liu et al., 2022, NeurIPS, https://arxiv.org/abs/2205.05638).

    The paper scales keys, values and the inputs of feed-forward layers of transformers; here the outputs of all adapted layers.

    Args:
        targets: module paths, or endings of them; null: all.
    """

    def __init__(self, targets: list[str] | None = None):
        def configure(peft: object, paths: list[str]) -> object:
            return peft.IA3Config(target_modules=paths, feedforward_modules=[])  # type: ignore[attr-defined]

        super().__init__("ia3", targets, configure)
