"""One network made of several: each one's own preprocessing and backbone, a rule that fuses their features, and a new head.

It is described so that a .json can tell how to make it again: `fused:` in models does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transfuse.core.heads import read_ending
from transfuse.core.preprocess import Preprocess
from transfuse.errors import ModelError

CLOSE = 1e-4  # relative; between a network's features and what its last layer was given


class Affine(nn.Module):
    """y = matrix (x - mean): fitted once, never trained.

    Args:
        dim: numbers in and out.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return (features - self.mean) @ self.matrix.T


@dataclass(frozen=True)
class Origin:
    """What a backbone was: enough to make it again without its weights."""

    architecture: str | None
    options: dict[str, Any] = field(default_factory=dict)
    grafts: list[dict[str, Any]] = field(default_factory=list)


class Member(nn.Module):
    """One source of a fused network: raw inputs in, what its last layer was given out, [batch, width].

    Args:
        network: without its last layer; see `headless`.
        preprocess: its own.
        eight_bits: whether raw inputs are pictures of 8 bits, which a resize rounds as Pillow does.
        origin: what the network was.
        head: path of the layer that was taken away.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, eight_bits: bool, origin: Origin, head: str):
        super().__init__()
        self.network, self.preprocess, self.eight_bits = network, preprocess, eight_bits
        self.origin, self.head = origin, head

    def forward(self, raw: Tensor) -> Float[Tensor, "batch width"]:
        if self.eight_bits and raw.is_floating_point():
            raw = raw.round().clamp(0, 255).to(torch.uint8)
        return pooled(self.network(self.preprocess.exact_batch(raw)))


def pooled(features: Tensor) -> Float[Tensor, "batch width"]:
    """Maps averaged over positions, tokens over tokens."""
    return features.mean((2, 3)) if features.ndim == 4 else features.mean(1) if features.ndim == 3 else features


def headless(network: nn.Module, path: str) -> nn.Module:
    """The network, changed in place, with nothing where its last layer was: it gives what that layer was given."""
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, nn.Identity())
    return network


def backbone(network: nn.Module, example: Tensor) -> tuple[nn.Module, str]:
    """A network without its last layer, changed in place, and that layer's path.

    Args:
        network: logits out; wrappers that choose or rescale outputs taken off.
        example: inputs of one forward pass.

    Raises:
        ModelError: there is no last layer, or something other than a pooling follows it.
    """
    ending = read_ending(network, example)
    changed = headless(network, ending.path).eval()
    with torch.no_grad():
        found = pooled(changed(example))
    scale = float(ending.inputs.abs().max().clamp(min=1e-6))
    if found.shape != ending.inputs.shape or float((found - ending.inputs).abs().max()) > CLOSE * scale:
        what = f"what follows '{ending.path}', the last layer of {type(network).__name__}, changes features, so they can't be read there"
        raise ModelError(what, fix="give a network whose last layer makes the logits, or fuse outputs instead")
    return changed, ending.path


class FusedHead(nn.Module):
    """What is on top of the backbones: standardised features, the rule, a linear head.

    Args:
        dims: width of each source's features.
        rule: built for them; `dim` wide.
        outputs: classes or targets.
        rule_name: in the registry of rules.
        settings: the rule's constructor arguments.
    """

    def __init__(self, dims: Sequence[int], rule: nn.Module, outputs: int, rule_name: str, settings: dict[str, Any]):
        super().__init__()
        self.dims, self.outputs = list(dims), outputs
        self.rule_name, self.settings = rule_name, dict(settings)
        self.standards = nn.ModuleList([nn.Identity() for _ in dims])
        self.rule = rule
        width: Any = rule.dim
        self.head = nn.Linear(width, outputs)

    def standardise(self, maps: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Fixes every source's map, (mean, matrix)."""
        standards = []
        for dim, (mean, matrix) in zip(self.dims, maps, strict=True):
            standard = Affine(dim)
            standard.mean.copy_(mean)
            standard.matrix.copy_(matrix)
            standards.append(standard)
        self.standards = nn.ModuleList(standards)

    def begin(self, heads: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Starts at the mean of linear heads on the sources' own features, (weight, bias) each; whether the rule can hold that.

        What the standardisation y = M (x - m) did to the features is undone: W x + b = (W M^-1) y + (b + W m).
        """
        begin = getattr(self.rule, "begin", None)
        if begin is None:
            return False
        shown = []
        for (weight, bias), standard in zip(heads, self.standards, strict=True):
            weight, bias = weight.double() / len(heads), bias.double() / len(heads)
            if isinstance(standard, Affine):
                bias = bias + weight @ standard.mean.double()
                weight = torch.linalg.solve(standard.matrix.double(), weight, left=False)
            shown.append((weight, bias))
        top = begin(shown)
        if top is None:
            return False
        with torch.no_grad():
            self.head.weight.copy_(top[0])
            self.head.bias.copy_(top[1])
        return True

    def features(self, columns: Float[Tensor, "batch all"]) -> list[Float[Tensor, "batch _"]]:
        """Every source's standardised features, from all of them side by side."""
        parts = columns.split(self.dims, dim=1)
        return [standard(part) for standard, part in zip(self.standards, parts, strict=True)]

    def forward(self, columns: Float[Tensor, "batch all"]) -> Float[Tensor, "batch outputs"]:
        return self.head(self.rule(self.features(columns)))

    def fold(self) -> None:
        """Takes each source's map into the linear layer behind it, which then gives the same: W' = W M, b' = b - W M mean.

        A map whose source has no linear layer of its own stays.
        """
        maps = getattr(self.rule, "projections", None)
        for place, (standard, project) in enumerate(zip(self.standards, maps or [], strict=maps is not None)):
            layer = project[0] if isinstance(project, nn.Sequential) else project
            if not isinstance(standard, Affine) or not isinstance(layer, nn.Linear):
                continue
            with torch.no_grad():
                weight = layer.weight.double() @ standard.matrix.double()
                layer.bias.sub_((weight @ standard.mean.double()).to(layer.bias.dtype))
                layer.weight.copy_(weight)
            self.standards[place] = nn.Identity()


class FusedNetwork(nn.Module):
    """The whole network: raw inputs in, logits out.

    Args:
        members: by source, in the order of the head's `dims`.
        top: what is on top of them.
    """

    def __init__(self, members: dict[str, Member], top: FusedHead):
        super().__init__()
        self.names = list(members)
        self.members = nn.ModuleList(members.values())
        self.top = top

    def columns(self, raw: Tensor) -> Float[Tensor, "batch all"]:
        """All members' features side by side."""
        return torch.cat([member(raw) for member in self.members], dim=1)

    def forward(self, raw: Tensor) -> Float[Tensor, "batch outputs"]:
        return self.top(self.columns(raw))


def described(network: FusedNetwork) -> tuple[str | None, dict[str, Any]]:
    """Architecture and options that make the network again; the architecture is None where a member's has no name."""
    members, named = [], True
    for name, member in zip(network.names, network.members, strict=True):
        assert isinstance(member, Member)
        named = named and member.origin.architecture is not None
        about = {"name": name, "architecture": member.origin.architecture, "options": member.origin.options, "grafts": member.origin.grafts}
        members.append({**about, "head": member.head, "preprocess": member.preprocess.to_dict(), "eight_bits": member.eight_bits})
    top = network.top
    standards = [isinstance(standard, Affine) for standard in top.standards]
    options = {"members": members, "settings": top.settings, "dims": top.dims, "standards": standards, "outputs": top.outputs}
    return (f"fused:{top.rule_name}" if named else None), options
