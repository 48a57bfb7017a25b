"""A rule on weights or features that the recipe names alone: what would stop it is found before anything is written.

Among several ways one that can't work says why, and the others go on; alone it would leave a run folder that can't be finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch

from transfuse.core.fused import pooled
from transfuse.core.types import DataSet
from transfuse.engine.loader import is_labelled
from transfuse.errors import DataError, ModelError, RecipeError
from transfuse.fusion import features as feature_rules
from transfuse.fusion import weights as weight_rules
from transfuse.fusion.types import Calibration, Parent
from transfuse.jobs.fusing.features import member_of
from transfuse.jobs.fusing.sources import Source
from transfuse.jobs.fusing.weights import alike, base_of
from transfuse.jobs.parts.networks import example
from transfuse.recipe.fuse import FuseRecipe, WayBlock


def refuse(recipe: FuseRecipe, data: DataSet, sources: Mapping[str, Source]) -> None:
    """
    Raises:
        TransfuseError: the recipe's only way can't work with these sources or data, and why; `where` is how.NAME.
    """
    if not isinstance(recipe.how, list) or len(recipe.how) > 1:
        return
    block = recipe.how[0]
    room, _, name = block.name.partition(".")
    if room not in ("weights", "features"):
        return
    rules: Any = weight_rules if room == "weights" else feature_rules
    tasks = rules.card(name).tasks
    if data.task not in tasks:
        raise RecipeError(
            f"it is defined for {' and '.join(tasks)}, and the task is {data.task}", f"how.{block.name}", "choose another way"
        )
    try:
        refuse_weights(recipe, data, sources, block) if room == "weights" else refuse_features(data, sources, block)
    except ModelError as error:
        where = f"how.{block.name}"
        raise ModelError(error.what, where if error.where in (None, "how") else f"{where} ({error.where})", error.fix) from error


def refuse_weights(recipe: FuseRecipe, data: DataSet, sources: Mapping[str, Source], block: WayBlock) -> None:
    """
    Raises:
        ModelError: inputs, outputs, shapes or the origin of the weights differ, or the rule takes another number of sources.
    """
    name = block.name.partition(".")[2]
    members = alike(sources)
    parents = [Parent(member.name, member.model.network) for member in members]
    preprocess = members[0].model.preprocess
    assert preprocess is not None
    shown = data.train.exact(torch.arange(min(4, len(data.train))), preprocess)
    silent = torch.full((len(shown),), -1)
    calibration = Calibration(lambda count: islice([(shown[:count], silent[:count])], 1), evaluate=lambda network: 0.0)
    base = base_of(recipe, data, members[0]) if recipe.base is not None else None
    weight_rules.refuse(name, weight_rules.get(name)(**block.parameters), parents, calibration, base)


def refuse_features(data: DataSet, sources: Mapping[str, Source], block: WayBlock) -> None:
    """
    Raises:
        ModelError: a source whose features can't be read, or features that the rule can't bring together.
        DataError: no labelled training sample.
    """
    if not bool(is_labelled(data.train.labels).any()):
        fix = "give labels, or train a student with how: distill or amalgamate, which need none"
        raise DataError("the head of fused features learns from labels, and no training sample has one", f"how.{block.name}", fix)
    dims = []
    for name, source in sources.items():
        member = member_of(name, source.model, data)
        with torch.no_grad():
            dims.append(pooled(member.network(example(source.model, data))).shape[1])
    feature_rules.get(block.name.partition(".")[2])(**block.parameters).build(dims)
