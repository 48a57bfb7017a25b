"""The ways to fuse, tried one after the other: what each says about validation, what it costs, and which is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from transfuse.core.types import DataSet
from transfuse.engine.loader import is_labelled
from transfuse.errors import RecipeError, TransfuseError
from transfuse.fusion import features as feature_rules
from transfuse.fusion import outputs as output_rules
from transfuse.fusion import weights as weight_rules
from transfuse.fusion.crossfit import out_of_fold
from transfuse.fusion.output_rule import OutputRule, labelled
from transfuse.jobs.context import Context
from transfuse.jobs.deliver import finish
from transfuse.jobs.fusing import sources as fuse_sources
from transfuse.jobs.fusing.features import fuse_features, open_backbones, settled
from transfuse.jobs.fusing.panel import Panel, Way
from transfuse.jobs.fusing.sources import Source
from transfuse.jobs.fusing.starts import settled_start
from transfuse.jobs.fusing.weights import as_model, inputs_of, mergeable, try_weights
from transfuse.models.ensemble import Rule, ensemble
from transfuse.recipe.blocks import BudgetBlock
from transfuse.recipe.fuse import FuseRecipe, WayBlock
from transfuse.recipe.ways import ROOMS, SINGLE, TRAINED, parse_way

Try = Callable[[Context, FuseRecipe, Panel, WayBlock], Way]
PLAIN = "outputs.mean_probabilities"  # the plain ensemble, which every fusion is held against


def decide(recipe: FuseRecipe, data: DataSet, sources: Mapping[str, Source]) -> tuple[FuseRecipe, dict[str, str]]:
    """`how: auto` as a list of ways that may apply, and why these and no others; any other recipe as it is.

    Trainings of heads are given what a machine of any kind does, so that no `auto` is left in them.
    """
    block, given = recipe.features, recipe.features.model_fields_set
    block = block.model_copy(update={"train": settled(block.train), "finetune": settled(block.finetune)})
    recipe = recipe.model_copy(update={"features": block})
    if recipe.how != "auto":
        return with_start(recipe, data, sources)
    names = [SINGLE, *(f"outputs.{name}" for name in output_rules.names() if data.task in output_rules.card(name).tasks)]
    if data.task == "regression":
        names.remove("outputs.mean_logits")  # the mean of predictions is tried as the plain ensemble
    left_out = []
    if fuse_sources.tables_among(sources):
        left_out.append("features: a table of predictions has none")
    elif not bool(is_labelled(data.train.labels).any()):
        left_out.append("features: no training sample has a label to learn a head from")
    else:
        names += [f"features.{name}" for name in feature_rules.names() if data.task in feature_rules.card(name).tasks]
    why, alike = mergeable(sources)
    if why is not None:
        left_out.append(f"weights: {why}")
    else:
        merging = [name for name in weight_rules.names() if applies(name, recipe, data, len(sources))]
        if not alike:
            left_out.append("weights but by rules that lead units of one width over to another: the sources' widths differ")
            merging = [name for name in merging if "same_shapes" not in weight_rules.card(name).needs]
        names += [f"weights.{name}" for name in merging]
    reason = "auto: all ways that apply" + "".join(f"; no {text}" for text in left_out)
    blocks = [WayBlock.model_validate(parse_way(name)) for name in names]
    if "contributions" not in given:  # heads for every set of sources and every rule would be many
        recipe = recipe.model_copy(update={"features": block.model_copy(update={"contributions": False})})
    recipe, reasons = with_start(recipe.model_copy(update={"how": blocks}), data, sources)
    return recipe, {"how": reason, **reasons}


def with_start(recipe: FuseRecipe, data: DataSet, sources: Mapping[str, Source]) -> tuple[FuseRecipe, dict[str, str]]:
    """`features.start: auto` settled, and why; at random where no way looks at it."""
    block = recipe.features
    if block.start != "auto":
        return recipe, {}
    if not any(way.name.startswith("features.") for way in recipe.how if isinstance(way, WayBlock)):
        return recipe.model_copy(update={"features": block.model_copy(update={"start": "random"})}), {}
    block, why = settled_start(block, {name: source.model for name, source in sources.items()}, data)
    return recipe.model_copy(update={"features": block}), {"features.start": why}


def applies(name: str, recipe: FuseRecipe, data: DataSet, sources: int) -> bool:
    """Whether a rule on weights has what its card needs, apart from what only the weights tell."""
    card = weight_rules.card(name)
    base = recipe.base is not None or "base" not in card.needs
    labels = "labels" not in card.needs or bool(is_labelled(data.train.labels).any())
    return base and labels and data.task in card.tasks and (card.sources == "several" or sources == 2)


def try_all(context: Context, recipe: FuseRecipe, panel: Panel) -> dict[str, Way]:
    """Every way of the recipe but those that train a student, by name; a way that fails says why and stops nobody.

    Raises:
        TransfuseError: the recipe names one way only, and it failed.
    """
    assert isinstance(recipe.how, list)
    found: dict[str, Way] = {}
    for block in recipe.how:
        if block.name == SINGLE or block.name in TRAINED:
            continue
        try:
            way = panel.judge(way_function(block.name)(context, recipe, panel, block))
        except TransfuseError as error:
            if len(recipe.how) == 1:
                raise
            way = Way(block.name, why=str(error))
        found[block.name] = way
        context.say(told(panel, way))
        for note in way.notes:
            context.say(f"{block.name}: {note}")
    return found


def way_function(name: str) -> Try:
    """What tries the ways of a room."""
    return {"outputs": try_outputs, "features": try_features, "weights": try_weights}[name.partition(".")[0]]


def singles(panel: Panel) -> dict[str, Way]:
    """Every source as it is."""
    said = panel.outputs(panel.data.val)
    found = {}
    for place, (name, source) in enumerate(panel.sources.items()):
        way = Way(f"{SINGLE} {name}", said[place], panel.asking(name))
        way.model = as_model(panel, source.member, source.member.model.network) if source.member is not None else None
        way.ships = not fuse_sources.runs_elsewhere(source)
        found[name] = panel.judge(way)
    return found


def try_outputs(context: Context, recipe: FuseRecipe, panel: Panel, block: WayBlock) -> Way:
    """A rule on outputs: fitted on validation, judged there by cross-fitting, applied to remembered answers."""
    name = block.name.partition(".")[2]
    card = output_rules.card(name)
    task = panel.data.task
    if task not in card.tasks:
        return Way(block.name, why=f"it is defined for {' and '.join(card.tasks)}, and the task is {task}")
    parameters: dict[str, Any] = {"task": task, **block.parameters}

    def make() -> OutputRule:
        return output_rules.get(name)(**parameters)

    said, labels = panel.outputs(panel.data.val), panel.labels()
    try:
        rule = make()
        rule.fit(said, labels)
        fits = "labels" in card.needs or rule.calibrate
        val = crossfitted(make, said, labels, panel) if fits else rule.fuse(said)
    except ValueError as error:
        return Way(block.name, why=str(error))
    way = Way(block.name, val, lambda samples: rule.fuse(panel.outputs(samples)))
    way.figures = figures_of(rule, list(panel.sources), fits)
    members = [source.member for source in panel.sources.values()]
    if all(member is not None for member in members):
        kept = [member for member in members if member is not None]
        way.model = ensemble(kept, Rule(name, parameters, rule), list(panel.data.classes), panel.data.target, inputs_of(panel))
        way.ships = not any(fuse_sources.runs_elsewhere(source) for source in panel.sources.values())
    return way


def try_features(context: Context, recipe: FuseRecipe, panel: Panel, block: WayBlock) -> Way:
    """A rule on features: a head is trained on remembered features of labelled training samples, chosen and judged on validation.

    Raises:
        TransfuseError: a source has no features that can be read, or there are no labels.
    """
    name = block.name.partition(".")[2]
    if panel.data.task not in feature_rules.card(name).tasks:
        return Way(block.name, why=f"it is not defined for {panel.data.task}")
    if "features" not in panel.opened:
        networks = {source: opened.model for source, opened in panel.sources.items()}
        panel.opened["features"] = open_backbones(context, networks, panel.data, recipe.features, recipe.cache, recipe.seed)
    made = fuse_features(panel.opened["features"], name, block.parameters, recipe.augment)
    ask = finish.asking(made.model)
    return Way(block.name, ask(panel.data.val), ask, made.model, notes=began_at(made.figures), figures=made.figures)


def began_at(figures: Mapping[str, Any]) -> list[str]:
    """Where a fused head began and whether training moved it, in a sentence."""
    reached = figures["reached"]
    if "start" not in reached:
        return ["its head began at random"]
    begun = f"it begins at the mean of the sources' own last layers, {reached['start']:.4f} on validation"
    kept = reached["heads"] == reached["start"]
    return [f"{begun}, and stays there: training made it no better" if kept else f"{begun}; training brings it to {reached['heads']:.4f}"]


def crossfitted(make: Callable[[], OutputRule], said: Tensor, labels: Tensor, panel: Panel) -> Tensor:
    """What a fitted rule says about validation samples that it was not fitted on; NaN for those without a label."""
    known = labelled(labels)
    answers = torch.full(said.shape[1:], torch.nan)
    answers[known] = out_of_fold(make, said[:, known], labels[known], panel.data.task)
    return answers


def figures_of(rule: OutputRule, names: Sequence[str], fits: bool) -> dict[str, Any]:
    """What a rule has learnt, for summary.json."""
    found: dict[str, Any] = {"fitted": fits}
    weights = rule.source_weights()
    if weights is not None:
        found["weights"] = dict(zip(names, weights.tolist(), strict=True))
    if rule.calibrate:
        found["temperatures"] = dict(zip(names, rule.temperatures.tolist(), strict=True))
    return found


def told(panel: Panel, way: Way) -> str:
    """A line about a way for the console."""
    if way.why is not None or way.score is None:
        return f"{way.name}: not possible: {(way.why or 'no score').splitlines()[0]}"
    how = ", cross-fitted" if way.figures.get("fitted") else ""
    return f"{way.name}: {panel.metric} {way.score:.4f} on validation{how}"


def refuse_settings(recipe: FuseRecipe, data: DataSet) -> None:
    """
    Raises:
        RecipeError: a rule's settings contradict each other, or the task.
    """
    for block in recipe.how if isinstance(recipe.how, list) else ():
        room, _, name = block.name.partition(".")
        if room not in ROOMS:
            continue
        task = {"task": data.task} if room == "outputs" else {}
        try:
            ROOMS[room].get(name)(**task, **block.parameters)
        except ValueError as error:
            raise RecipeError(str(error), where=f"how.{block.name}") from error


def measure(recipe: FuseRecipe, panel: Panel, ways: Sequence[Way]) -> None:
    """Costs of the networks among the ways. Rules on outputs run the same networks, so latency and MACs are measured once for them."""
    shared: Mapping[str, Any] | None = None
    for way in ways:
        if way.model is None or way.why is not None:
            continue
        if way.name.startswith(f"{SINGLE} "):
            way.cost = panel.oracles[way.name.partition(" ")[2]].cost(recipe.budget.threads)
        elif way.name.startswith("outputs."):
            shared = shared or finish.measured(way.model, panel.data, recipe.budget.threads)
            way.cost = {**shared, **sizes(way)}
        else:
            way.cost = finish.measured(way.model, panel.data, recipe.budget.threads)


def sizes(way: Way) -> dict[str, int | None]:
    """Parameters and bytes of a way's own network."""
    from transfuse.evaluate.cost import count_parameters, tensor_bytes

    assert way.model is not None
    network = way.model.network
    return {"parameters": count_parameters(network), "bytes": tensor_bytes(network)}


def plain_ensemble(context: Context, recipe: FuseRecipe, panel: Panel, tried: Mapping[str, Way]) -> Way:
    """The mean of all sources' probabilities with its cost, whether or not it is one of the recipe's ways."""
    if PLAIN in tried:
        return tried[PLAIN]
    way = panel.judge(try_outputs(context, recipe, panel, WayBlock.model_validate(parse_way(PLAIN))))
    measure(recipe, panel, [way])
    return way


def fits(way: Way, budget: BudgetBlock) -> bool:
    """Whether a way's network costs no more than the budget allows; what no file can hold can't be shipped at all."""
    if way.shipped is None or way.cost is None:
        return False
    latency = way.cost["latency_ms"]["batch_1"]["p50"]
    small = budget.bytes is None or way.cost["bytes"] <= budget.bytes
    return small and (budget.latency_ms is None or latency <= budget.latency_ms)


def limited(budget: BudgetBlock) -> bool:
    """Whether the recipe limits what the result may cost."""
    return budget.bytes is not None or budget.latency_ms is not None


def best(panel: Panel, ways: Sequence[Way]) -> Way | None:
    """The way with the best validation metric; of equals the one with the lower NLL, then the smaller one."""
    sign = 1.0 if panel.higher else -1.0
    known = [way for way in ways if way.score is not None and way.why is None]

    def rank(way: Way) -> tuple[float, float, float]:
        size = float(way.cost["bytes"]) if way.cost else float("inf")
        return (sign * float(way.score or 0.0), float(way.second if way.second is not None else -float("inf")), -size)

    return max(known, key=rank, default=None)
