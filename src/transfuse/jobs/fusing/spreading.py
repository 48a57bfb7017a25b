"""What an amalgamation's student is taught, settled for every sample of its pool before training: the sources' join, spread among
neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from transfuse.core import ranks
from transfuse.core.fused import Member
from transfuse.core.types import DataSet, Model, Samples, WeightedObjective
from transfuse.errors import ModelError, RecipeError
from transfuse.fusion.spread import agreement, neighbours_of, side_by_side, spread
from transfuse.jobs.context import Context
from transfuse.jobs.fusing.features import asking, canonical, member_of
from transfuse.jobs.parts.answers import Oracle
from transfuse.objectives.outputs.amalgamate import Amalgamate, joined
from transfuse.recipe.fuse import FuseRecipe, WayBlock
from transfuse.recipe.ways import AmalgamateBlock, SpreadBlock

WHERE = "how.amalgamate.spread"
LEAST = 1e-12  # probability: a logarithm of 0 can't be taught


@dataclass
class Taught:
    """What takes the sources' place while the student learns.

    Attributes:
        objectives: those of the recipe, asking tables where they join class sets.
        oracles: all teachers that they ask.
        figures: what was found, ready for JSON; empty where nothing was spread.
    """

    objectives: list[WeightedObjective]
    oracles: Mapping[str, Oracle]
    figures: dict[str, Any] = field(default_factory=dict)


def block_of(recipe: FuseRecipe) -> SpreadBlock | str | None:
    """The recipe's `spread`, its default where `how` has no settings."""
    assert isinstance(recipe.how, list)
    return AmalgamateBlock.model_validate(recipe.how[0].parameters).spread


def decide(recipe: FuseRecipe, data: DataSet, sources: Mapping[str, Model]) -> tuple[FuseRecipe, str]:
    """`spread: auto` settled, and why in a sentence; empty where the recipe has said it.

    Raises:
        RecipeError: the recipe wants it, and it can't be had.
    """
    asked, why = block_of(recipe), why_not(recipe, data, sources)
    if asked is None:
        return recipe, ""
    if why is not None and isinstance(asked, SpreadBlock):
        raise RecipeError(f"what the student is taught can't be spread among neighbours: {why}", WHERE, "set spread: null")
    decided = None if why is not None else asked if isinstance(asked, SpreadBlock) else SpreadBlock()
    settings = {"spread": None if decided is None else decided.model_dump()}
    recipe = recipe.model_copy(update={"how": [WayBlock(name="amalgamate", parameters=settings)]})
    if isinstance(asked, SpreadBlock):
        return recipe, ""
    return recipe, f"{WHERE} = null: {why}" if decided is None else f"{WHERE}: neighbours in the sources' features are taught alike"


def why_not(recipe: FuseRecipe, data: DataSet, sources: Mapping[str, Model]) -> str | None:
    """What speaks against spreading, as far as can be told without asking anybody."""
    assert isinstance(recipe.objectives, list)
    if not any(block.method == "amalgamate" for block in recipe.objectives):
        return "no objective learns from the join of the class sets"
    if recipe.augment.mixes:
        return "a table of what is taught says nothing about mixed samples (augment.mixup, augment.cutmix)"
    if not readable(data, sources):
        return "no source has features that can be read"
    return None


def readable(data: DataSet, sources: Mapping[str, Model]) -> dict[str, Member]:
    """The backbones of the sources that have one."""
    found = {}
    for name, model in sources.items():
        try:
            found[name] = member_of(name, model, data)
        except ModelError:  # a table, or a network that doesn't end in a linear layer: the others' features tell neighbours, too
            continue
    return found


def settle(
    context: Context,
    recipe: FuseRecipe,
    data: DataSet,
    pool: Samples,
    objectives: Sequence[WeightedObjective],
    oracles: Mapping[str, Oracle],
) -> Taught:
    """Asks the sources about the pool, joins and spreads what they say, and puts that in their place where class sets are joined.

    Answers are those along the exact path: all views of a sample are taught the same. How many were asked for goes into the ledger at
    once: a run that is resumed finds them in the cache.
    """
    block = block_of(recipe)
    if not isinstance(block, SpreadBlock):
        return Taught(list(objectives), oracles)
    asked = {name: replace(oracle, forwards=0) for name, oracle in oracles.items()}
    said = torch.stack([oracle.outputs(pool) for oracle in asked.values()])
    keep_forwards(context, sum(oracle.asked() for oracle in asked.values()))
    covered = torch.nonzero(said.isfinite().all(2).all(0))[:, 0]  # tables may lack some samples
    if len(covered) <= block.neighbours:
        known = f"{len(covered):,} of {len(pool):,} training samples have an answer from all sources"
        context.say(f"{WHERE}: {known}, too few for {block.neighbours} neighbours each: nothing is spread")
        return Taught(list(objectives), oracles)
    features, forwards = pool_features(context, recipe, data, pool, {name: oracle.model for name, oracle in oracles.items()})
    keep_forwards(context, forwards)
    neighbours = neighbours_of(side_by_side([one[covered] for one in features]), block.neighbours, recipe.seed)
    taught = Taught([], {})
    tables: dict[str, Oracle] = {}
    for weighted in objectives:
        if not isinstance(weighted.objective, Amalgamate):
            taught.objectives.append(weighted)
            continue
        rows = [list(oracles).index(name) for name in weighted.teachers]
        log_q = spread_join(context, block, weighted.objective, said[rows][:, covered], neighbours, taught.figures)
        if log_q is None:
            taught.objectives.append(weighted)
            continue
        name = f"join {weighted.name}"  # no source can be called so
        table = (pool.ids[covered.numpy()], weighted.objective.temperature * log_q)
        model = Model(None, name, classes=list(data.classes), table=table)
        tables[name] = Oracle(name, model, data, recipe.cache, recipe.train.precision, context.device)
        taught.objectives.append(replace(weighted, teachers=(name,)))
    heard = {name for weighted in taught.objectives for name in weighted.teachers}
    taught.oracles = {**{name: oracle for name, oracle in oracles.items() if name in heard}, **tables}
    return taught


def keep_forwards(context: Context, asked: int) -> None:
    """Adds samples that this process has just sent to sources to those that the run has sent before."""
    everybody = int(ranks.sum_over_ranks(torch.tensor(asked, device=context.device)))
    context.keep("teacher_forwards", context.ledger.get("teacher_forwards", 0) + everybody)


def spread_join(
    context: Context, block: SpreadBlock, objective: Amalgamate, said: Tensor, neighbours: Tensor, figures: dict[str, Any]
) -> Tensor | None:
    """log q of the pool, spread; None where neighbours are predicted too differently for that. What was found goes into the figures."""
    q = joined(list(said), objective.temperature, objective.evidence, objective.mixture).double().exp()
    alike = agreement(q, neighbours)
    figures.update(block.model_dump() | {"agreed": alike, "samples": len(q), "changed": 0})
    if alike < block.agreement:
        context.say(f"{WHERE}: {alike:.1%} of neighbours are predicted alike, fewer than {block.agreement:.0%}: nothing is spread")
        return None
    found = spread(q, neighbours, block.share, block.rounds)
    figures["changed"] = int((found.argmax(1) != q.argmax(1)).sum())
    what = f"{figures['changed']:,} of {len(q):,} samples are taught as another class than the sources' join says"
    context.say(f"{WHERE}: {alike:.1%} of {block.neighbours} neighbours are predicted alike; {what}")
    return found.clamp(min=LEAST).log().float()


def pool_features(
    context: Context, recipe: FuseRecipe, data: DataSet, pool: Samples, sources: Mapping[str, Model]
) -> tuple[list[Tensor], int]:
    """Every source's features of the pool, and how many samples sources were sent for them."""
    shared, found, forwards = canonical(data, sources), [], 0
    for name, member in readable(data, sources).items():
        oracle = asking(context, data, recipe.cache, name, member, shared)
        found.append(oracle.outputs(pool))
        forwards += oracle.asked()
    return found, forwards
