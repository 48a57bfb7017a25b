"""Networks that share one head over their features, as a fusion leaves them: `fused:concat`.

The rules live in the room `fusion/features`, which models don't import: a fused network's .json names its rule, and the registry finds it
by that name, as it finds plug-ins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from transfuse.core.fused import Affine, FusedHead, FusedNetwork, Member, Origin, headless
from transfuse.core.grafts import regraft
from transfuse.core.preprocess import Preprocess
from transfuse.core.registry import Registry
from transfuse.core.seeds import fresh_weights
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError

_RULES = Registry("transfuse.fusion.features", "feature fusion", ModelError)


def open_model(name: str, request: ModelRequest) -> Model:
    """Builds a fused network as its .json tells; the weights come from the file.

    Raises:
        ModelError: no description, one that can't be read, or a rule that is not installed.
    """
    source, told = f"fused:{name}", dict(request.options)
    rule_class = _RULES.get(name)
    if "members" not in told:
        fix = "make one with transfuse fuse, and open it as run:FOLDER or file:FOLDER/student.safetensors"
        raise ModelError("a fused network is opened from the run that made it", source, fix)
    told["outputs"] = int(request.outputs or told.get("outputs") or 0)
    try:
        with fresh_weights(request.seed):
            rule = rule_class(**told["settings"])
            rule.build(list(told["dims"]))
            top = FusedHead(told["dims"], rule, told["outputs"], name, told["settings"])
        kept = zip(told["standards"], told["dims"], strict=True)
        top.standards = nn.ModuleList([Affine(dim) if stays else nn.Identity() for stays, dim in kept])
        network = FusedNetwork({one["name"]: _member(one, request) for one in told["members"]}, top)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"its description can't be read: {error!r}", source, "make it again with transfuse fuse") from error
    return Model(network.eval(), source, architecture=source, options=told)


def _member(told: Mapping[str, Any], request: ModelRequest) -> Member:
    from transfuse.models import open_model as open_any

    options, architecture = dict(told["options"]), told["architecture"]
    if architecture.partition(":")[0] not in ("builtin", "timm", "torchvision"):
        raise ValueError(f"{architecture} is no architecture")  # a description must not open other files
    shape = options.get("input_shape")
    asked = ModelRequest(options.get("outputs"), tuple(shape) if shape else None, options=options, seed=request.seed, task=request.task)
    network = open_any(architecture, asked).network
    regraft(network, told["grafts"])
    origin = Origin(architecture, options, list(told["grafts"]))
    return Member(headless(network, told["head"]), Preprocess.from_dict(told["preprocess"]), told["eight_bits"], origin, told["head"])


def catalog() -> Mapping[str, str]:
    """The rules; a fused network comes out of a job and is opened from its folder."""
    return {name: f"{line} Made by transfuse fuse, opened as run:FOLDER" for name, line in _RULES.summaries().items()}
