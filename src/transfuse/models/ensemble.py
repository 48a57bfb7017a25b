"""Several networks side by side in one module, each with its preprocessing inside, and a rule on what they say: `ensemble:weighted`.

The rules live in the room `fusion/outputs`, which models don't import: an ensemble's .json names its rule, and the registry finds it by
that name, as it finds plug-ins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core.grafts import grafts_of, regraft
from transfuse.core.preprocess import Preprocess
from transfuse.core.registry import Registry
from transfuse.core.types import Model, ModelRequest, Target
from transfuse.errors import ModelError

_RULES = Registry("transfuse.fusion.outputs", "rule on outputs", ModelError)


@dataclass
class Member:
    """One network of an ensemble.

    Attributes:
        name: of the source.
        model: with the module as its architecture makes it (and its grafts), and its preprocessing.
        select: which of its outputs become outputs 0, 1, ...; None: all as they are.
        affine: (factors, shifts) that bring its outputs into the ensemble's scaling; None: as they are.
        pair: whether a single logit z becomes the pair (0, z).
    """

    name: str
    model: Model
    select: list[int] | None = None
    affine: tuple[list[float], list[float]] | None = None
    pair: bool = False

    def describe(self) -> dict[str, Any]:
        """What makes it again, as a .json holds it."""
        assert self.model.preprocess is not None
        return {
            "name": self.name,
            "source": self.model.source,
            "architecture": self.model.architecture,
            "options": self.model.options,
            "grafts": grafts_of(self.model.network),
            "preprocess": self.model.preprocess.to_dict(),
            "select": self.select,
            "affine": None if self.affine is None else [list(part) for part in self.affine],
            "pair": self.pair,
        }


class Prepared(nn.Module):
    """One member: from the raw inputs that all share to its outputs, in the ensemble's order and scaling.

    Args:
        member: its network, its preprocessing, and what is done to its outputs.
        eight_bits: whether raw inputs are pictures of 8 bits, which a resize rounds as Pillow does.
    """

    def __init__(self, member: Member, eight_bits: bool):
        super().__init__()
        assert member.model.preprocess is not None
        self.network, self.preprocess = member.model.network, member.model.preprocess
        self.eight_bits, self.pair = eight_bits, member.pair
        factors, shifts = member.affine or (None, None)
        for name, values in {"factor": factors, "shift": shifts, "select": member.select}.items():
            self.register_buffer(name, None if values is None else torch.tensor(values), persistent=False)  # the .json has them

    def forward(self, raw: Tensor) -> Tensor:
        if self.eight_bits and raw.is_floating_point():
            raw = raw.round().clamp(0, 255).to(torch.uint8)
        outputs = self.network(self.preprocess.exact_batch(raw))
        if self.select is not None:
            outputs = outputs.index_select(1, self.select)
        if self.factor is not None:
            outputs = outputs * self.factor + self.shift
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1) if self.pair else outputs


class Ensemble(nn.Module):
    """Networks side by side and a rule on what they say; raw inputs in, log-probabilities (log-odds, predictions) out.

    Args:
        members: by name.
        rule: a rule on outputs, built.
    """

    def __init__(self, members: Mapping[str, nn.Module], rule: nn.Module):
        super().__init__()
        self.names = list(members)
        self.members, self.rule = nn.ModuleList(members.values()), rule

    def forward(self, raw: Tensor) -> Tensor:
        return self.rule(torch.stack([member(raw).float() for member in self.members]))


@dataclass
class Rule:
    """A rule on outputs, fitted, and what makes it again: its name in the registry and its constructor's arguments."""

    name: str
    parameters: dict[str, Any]
    module: nn.Module


@dataclass
class Inputs:
    """What all members are given.

    Attributes:
        shape: of one raw sample of the data.
        preprocess: raw inputs as the ensemble takes them; without a size of its own they come as the data hold them, and members see what
            they saw alone.
        eight_bits: whether they are pictures of 8 bits.
    """

    shape: Sequence[int]
    preprocess: Preprocess
    eight_bits: bool


def ensemble(members: Sequence[Member], rule: Rule, classes: list[str], target: Target | None, inputs: Inputs) -> Model:
    """One model of several networks, which `save_model` writes and `file:`, `run:` open again.

    Args:
        members: they share their weights with the result.
        rule: what joins them.
        classes: names of the outputs; empty for a regression.
        target: of a regression, its scaling.
        inputs: what all members are given.
    """
    told = {
        "parameters": rule.parameters,
        "members": [member.describe() for member in members],
        "eight_bits": inputs.eight_bits,
        "outputs": len(target.names) if target else len(classes),
        "input_shape": list(inputs.shape),
    }
    architecture = f"ensemble:{rule.name}" if all(member.model.architecture for member in members) else None
    return Model(
        Ensemble({member.name: Prepared(member, inputs.eight_bits) for member in members}, rule.module).eval(),
        source=architecture or "live:Ensemble",
        architecture=architecture,
        options=told,
        preprocess=inputs.preprocess,
        classes=list(classes) or None,
        target=target,
        pretrained=True,
    )


def open_model(name: str, request: ModelRequest) -> Model:
    """Builds an ensemble as its .json tells; the weights come from the file.

    Raises:
        ModelError: no description, one that can't be read, or a rule that is not installed.
    """
    source, told = f"ensemble:{name}", request.options
    rule_class = _RULES.get(name)
    if "members" not in told:
        fix = "make one with transfuse fuse, and open it as run:FOLDER or file:FOLDER/student.safetensors"
        raise ModelError("an ensemble is opened from the run that made it", source, fix)
    try:
        members = [_member(entry, request) for entry in told["members"]]
        rule = rule_class(**told["parameters"])
        rule.build(len(members), told["outputs"])
        parts = {member.name: Prepared(member, told["eight_bits"]) for member in members}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"its description can't be read: {error!r}", source, "make it again with transfuse fuse") from error
    return Model(Ensemble(parts, rule).eval(), source, architecture=source, options=dict(told))


def _member(told: Mapping[str, Any], request: ModelRequest) -> Member:
    from transfuse.models import open_model as open_any

    options, architecture = dict(told["options"]), told["architecture"]
    if architecture.partition(":")[0] not in ("builtin", "timm", "torchvision", "ensemble"):
        raise ValueError(f"{architecture} is no architecture")  # a description must not open other files
    shape = options.get("input_shape")
    asked = ModelRequest(options.get("outputs"), tuple(shape) if shape else None, options=options, seed=request.seed, task=request.task)
    model = open_any(architecture, asked)
    regraft(model.network, told["grafts"])
    model.preprocess = Preprocess.from_dict(told["preprocess"])
    affine = told["affine"]
    return Member(told["name"], model, told["select"], None if affine is None else (affine[0], affine[1]), told["pair"])


def catalog() -> Mapping[str, str]:
    """The rules; an ensemble comes out of a job and is opened from its folder."""
    return {name: f"{line} Made by transfuse fuse, opened as run:FOLDER" for name, line in _RULES.summaries().items()}
