"""Begins with another network's body and the best linear map from what it says to the new task's labels, in closed form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from transfuse.core.card import Card
from transfuse.core.heads import read_ending
from transfuse.errors import ModelError
from transfuse.policies.init._scene import Moved, Row, Scene
from transfuse.policies.init.copy import Copy

CARD = Card(
    title="Compressed outputs",
    paper="ridge regression, Hoerl and Kennard, Technometrics 1970",
    link="https://doi.org/10.1080/00401706.1970.10488634",
    level="parameters",
    tasks=("classification", "multilabel", "regression"),
)
STRENGTHS = tuple(10.0**power for power in range(-4, 7))


def ridge_map(
    features: Float[Tensor, "samples width"], labels: Float[Tensor, "samples outputs"], strength: float | None = None
) -> tuple[Float[Tensor, "outputs width"], Float[Tensor, "outputs"], float]:
    """W and b that minimise sum_i |y_i - W f_i - b|^2 + strength |W|^2, and the strength.

    W = (Y - mean)' (F - mean) ((F - mean)' (F - mean) + strength I)^-1. Without a strength that of 1e-4, 1e-3, ..., 1e6 with the smallest
    leave-one-out error, which has a closed form, too (scikit-learn's RidgeCV).
    """
    model: Any = RidgeCV(alphas=list(STRENGTHS) if strength is None else [strength])
    model.fit(features.double().numpy(), labels.double().numpy())
    weight = np.atleast_2d(model.coef_)
    return torch.from_numpy(weight), torch.from_numpy(np.atleast_1d(model.intercept_)), float(model.alpha_)


def logit_scale(answers: Float[Tensor, "samples classes"], labels: Float[Tensor, "samples classes"]) -> float:
    """The factor between 1 and 100 that makes answers near 0 and 1 logits with the smallest cross-entropy."""

    def loss(power: float) -> float:
        return float(-(labels * torch.log_softmax(answers * 10**power, 1)).sum(1).mean())

    found: Any = minimize_scalar(loss, bounds=(0.0, 2.0), method="bounded")
    return 10 ** float(found.x)


class CompressOutputs:
    """y = W f_large(x) + b, W and b by ridge regression on the training samples' labels.

    The body is copied (see `copy`), and the last layer becomes the map: of the features that it is given, or of the source's outputs,
    which is folded into it: W W_source. Class labels are one-hot rows; since the answers are then near 0 and 1, they are multiplied by the
    factor that makes them logits with the smallest cross-entropy on the same samples.

    Args:
        of: features: what the last layer is given; outputs: what the source says, such as the logits of other classes.
        strength: of the ridge; null: by leave-one-out error.
        samples: at most so many training samples.
    """

    def __init__(
        self,
        of: Literal["features", "outputs"] = "features",
        strength: Annotated[float, Gt(0)] | None = None,
        samples: Annotated[int, Gt(1)] = 10_000,
    ):
        self.of, self.strength, self.samples = of, strength, samples

    def __call__(self, source: nn.Module, target: nn.Module, scene: Scene) -> Moved:
        moved = Copy()(source, target, scene)
        features, labels = [], []
        for given, inputs, rows in scene.batches(self.samples):
            ending = read_ending(source, given) if self.of == "outputs" else read_ending(target, inputs)
            features.append(ending.inputs @ ending.weight.T + ending.bias if self.of == "outputs" else ending.inputs)
            labels.append(rows)
        wanted = torch.cat(labels).double()
        weight, bias, strength = ridge_map(torch.cat(features), wanted, self.strength)
        scale = 1.0
        if bool((wanted.sum(1) == 1).all()) and bool(((wanted == 0) | (wanted == 1)).all()) and wanted.shape[1] > 1:
            scale = logit_scale(torch.cat(features).double() @ weight.T + bias, wanted)
        if self.of == "outputs":
            own = read_ending(source, next(iter(scene.batches(2)))[0])
            weight, bias = weight @ own.weight.double(), weight @ own.bias.double() + bias
        path = _write(target, next(iter(scene.batches(2)))[1], weight * scale, bias * scale)
        moved.rows = [Row(row.tensor, "fitted", "", row.shape) if row.tensor.startswith(f"{path}.") else row for row in moved.rows]
        what = f"'{path}' is the ridge regression (strength {strength:g}) of the labels of {len(wanted)} training samples"
        moved.notes.append(f"{what} on the {'source’s outputs' if self.of == 'outputs' else 'features'}, times {scale:.3g}")
        return moved


def _write(target: nn.Module, inputs: Tensor, weight: Tensor, bias: Tensor) -> str:
    """Puts the map into the target's last layer.

    Raises:
        ModelError: that layer has another shape, or no bias.
    """
    ending = read_ending(target, inputs)
    layer = target.get_submodule(ending.path)
    own: dict[str, Tensor] = dict(layer.named_parameters(recurse=False))
    if not ending.plain or own["weight"].shape[:2] != weight.shape or "bias" not in own:
        has = tuple(own["weight"].shape)
        what = f"the last layer, '{ending.path}', has weights {has}, and the map {tuple(weight.shape)}"
        fix = "give the student the source's architecture, with a bias in its last layer"
        raise ModelError(what, where="init.compress_outputs", fix=fix)
    with torch.no_grad():
        own["weight"].copy_(weight.reshape(own["weight"].shape))
        own["bias"].copy_(bias)
    return ending.path
