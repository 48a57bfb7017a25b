"""The block of a fusion that says how features are fused: what they are brought to before, and which parts are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from transfuse.recipe.blocks import TrainBlock
from transfuse.recipe.methods import Block

HEADS = TrainBlock(epochs=None, steps=600, batch_size=128, optimizer={"adamw": {"lr": 0.003, "weight_decay": 0.05}}, evaluate_every=1.0)
WHOLE = TrainBlock(epochs=5, batch_size=64, optimizer={"adamw": {"lr": 0.0001}})


class FeaturesBlock(Block):
    standardise: Literal["phi_s", "whiten", "none"] = "phi_s"
    """what each source's features are brought to: one variance in all (phi_s), also no correlation (whiten), or left (none)"""
    start: Literal["auto", "sources", "random"] = "auto"
    """where heads begin: at the mean of the sources' own last layers, undoing standardisation (sources), or at random weights"""
    tune: Literal["head", "projections", "all"] = "projections"
    """what is trained: the head and the rule's own weights; projections, too; then everything, backbones included (LP-FT)"""
    train: TrainBlock = Field(default=HEADS)
    """how rule and head are trained on the features, which are remembered"""
    finetune: TrainBlock = Field(default=WHOLE)
    """with tune: all: how the whole network is trained afterwards"""
    contributions: bool = True
    """what each source is worth: heads without it, and with every set of sources (Shapley) for up to five of them"""
