"""Feature fusion: sources -> backbones -> remembered features -> heads -> one network; then, if asked for, all of it is trained.

A job opens the sources once (`open_backbones`), which is where they are asked, and then tries rules on what is remembered
(`fuse_features`): a rule costs the training of a small head.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.core.fused import FusedHead, FusedNetwork, Member, Origin, backbone, described
from transfuse.core.grafts import grafts_of
from transfuse.core.preprocess import Preprocess
from transfuse.core.seeds import derive, fresh_weights
from transfuse.core.types import DataSet, Model, Samples
from transfuse.data import samples as pools
from transfuse.engine.loader import is_labelled
from transfuse.errors import DataError, ModelError
from transfuse.evaluate import metrics
from transfuse.fusion import contribution, standardise
from transfuse.fusion import features as rules
from transfuse.jobs.context import Context
from transfuse.jobs.fusing import starts
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.answers import Oracle
from transfuse.jobs.parts.networks import example
from transfuse.jobs.parts.peers import same_weights
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.train.training import Lesson, teach, views_of
from transfuse.models.classes import Around
from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.blocks import CacheBlock, TrainBlock
from transfuse.recipe.fused_features import FeaturesBlock
from transfuse.recipe.methods import ObjectiveBlock, parse_objective
from transfuse.recipe.needs import LABEL_OBJECTIVE

MOST_FITTED = 5000  # samples that standardisation looks at, where so many have no label


@dataclass
class Backbones:
    """Sources without their last layers, and what they say about training and validation samples.

    Attributes:
        context: the job.
        data: as the sources see it.
        settings: the recipe's block.
        seed: the run's.
        members: by source.
        preprocess: raw inputs as all members take them.
        train: labelled training samples; their `raw` are all members' features side by side.
        val: the same of the validation part.
        maps: each source's standardisation, (mean, matrix); empty for none.
        dims: width of each source's features.
        forwards: samples that sources were sent.
        heads: the sources' own last layers, where heads begin with them; empty else.
        scores: validation score of every set of sources that was tried, by rule.
        begun: what each of these reached before its training, where it began with the sources' own heads.
    """

    context: Context
    data: DataSet
    settings: FeaturesBlock
    seed: int
    members: dict[str, Member]
    preprocess: Preprocess
    train: pools.ArraySamples
    val: pools.ArraySamples
    maps: dict[str, standardise.Map]
    dims: dict[str, int]
    forwards: int = 0
    heads: starts.Heads = field(default_factory=dict)
    scores: dict[str, dict[frozenset[str], float]] = field(default_factory=dict)
    begun: dict[str, dict[frozenset[str], float]] = field(default_factory=dict)


@dataclass
class Fused:
    """One fused network: the model, its validation score, and what was measured, ready for JSON."""

    model: Model
    score: float
    figures: dict[str, Any]


def open_backbones(
    context: Context, sources: Mapping[str, Model], data: DataSet, settings: FeaturesBlock, cache: CacheBlock, seed: int
) -> Backbones:
    """Takes the sources' last layers off and asks for the features of training and validation samples, once.

    Args:
        context: the job.
        sources: opened, by name; left as they are.
        data: labelled in part at least.
        settings: the recipe's block.
        cache: where features are kept.
        seed: of heads and order.

    Raises:
        ModelError: a table of predictions, a network whose features can't be read, two copies of one network, features that are NaN or
            the same for all samples; the source is named.
        DataError: no labelled training sample.
    """
    refuse_copies(sources)
    labelled = torch.nonzero(is_labelled(data.train.labels))[:, 0]
    if not len(labelled):
        fix = "give labels, or train a student with how: distill or amalgamate, which need none"
        raise DataError("the head of fused features learns from labels, and no training sample has one", where="data", fix=fix)
    settings, why = starts.settled_start(settings, sources, data)
    if settings.start == "random" and why:
        context.say(f"fused heads begin at random: {why}")
    heads = starts.heads_of(sources, data) if settings.start == "sources" else {}
    shared = canonical(data, sources)
    members = {name: member_of(name, model, data) for name, model in sources.items()}
    spare = torch.nonzero(~is_labelled(data.train.labels))[: max(0, MOST_FITTED - len(labelled)), 0]
    asked = pools.subset(data.train, torch.cat([labelled, spare]))
    maps, train, val, dims, forwards = {}, [], [], {}, 0
    for name, member in members.items():
        oracle = asking(context, data, cache, name, member, shared)
        found = oracle.outputs(asked)
        maps[name] = fitted(name, found, settings)
        train.append(found[: len(labelled)])
        val.append(oracle.outputs(data.val))
        dims[name], forwards = found.shape[1], forwards + oracle.asked()
        member.to("cpu")
    labels = standardised(asked, data).labels[: len(labelled)]
    known = pools.ArraySamples(torch.cat(train, 1), labels, asked.ids[: len(labelled)])
    seen = pools.ArraySamples(torch.cat(val, 1), data.val.labels, data.val.ids)
    kept = maps if settings.standardise != "none" else {}
    return Backbones(context, data, settings, seed, members, shared, known, seen, kept, dims, forwards, heads)


def asking(context: Context, data: DataSet, cache: CacheBlock, name: str, member: Member, shared: Preprocess) -> Oracle:
    """Whoever is asked for one source's features, which are remembered on disk like any answer."""
    member.to(context.device)
    return Oracle(name, Model(member, name, preprocess=shared), data, cache, "fp32", context.device, context.say)


def fuse_features(ready: Backbones, rule: str, parameters: Mapping[str, Any], augment: AugmentBlock | None = None) -> Fused:
    """Fuses the sources' features by one rule: trains its head on remembered features, and everything after that where asked for.

    Args:
        ready: from `open_backbones`.
        rule: name in `fusion/features`.
        parameters: of its constructor.
        augment: changes of the inputs while everything is trained.
    """
    names = tuple(ready.members)
    top, score = trained_head(ready, rule, parameters, names)
    figures: dict[str, Any] = {"rule": rule, "standardise": ready.settings.standardise, "tune": ready.settings.tune, "dims": ready.dims}
    figures |= weights_of(ready, top)
    if ready.settings.contributions and len(names) > 1:
        figures["contributions"] = contributions(ready, rule, parameters, score)
    top.fold()
    network = FusedNetwork({name: copy.deepcopy(member) for name, member in ready.members.items()}, top)
    model = as_model(ready, network)
    begun = ready.begun.get(rule, {}).get(frozenset(names))
    figures["reached"] = {**({} if begun is None else {"start": begun}), "heads": score}
    if ready.settings.tune == "all":
        model, score = finetuned(ready, rule, model, score, augment)
        figures["reached"]["all"] = score
    return Fused(model, score, figures)


def trained_head(ready: Backbones, rule: str, parameters: Mapping[str, Any], names: Sequence[str]) -> tuple[FusedHead, float]:
    """Rule and head for some of the sources, trained on remembered features, and the validation score.

    Sources may know training samples by heart, so that what a head learns from their features there is worth less elsewhere. A head that
    begins with the sources' own last layers therefore stays as it began unless validation gets better by training.
    """
    known = ready.scores.setdefault(rule, {})
    places = columns_of(ready, names)
    train, val = (some_columns(part, places) for part in (ready.train, ready.val))
    data = replace(
        ready.data, train=train, val=val, unlabelled=None, modality="columns", input_shape=(len(places),), preprocess=Preprocess()
    )
    dims = [ready.dims[name] for name in names]
    with fresh_weights(derive(ready.seed, "fused", rule, *names)):
        made = rules.get(rule)(**parameters)
        made.build(dims)
        top = FusedHead(dims, made, data.outputs, rule, dict(parameters))
    if ready.maps:
        top.standardise([ready.maps[name] for name in names])
    if ready.settings.tune == "head" and hasattr(made, "projections"):
        made.projections.requires_grad_(False)
    seen = val.raw(torch.arange(len(val)))
    begun = starts.begin(top, ready.heads, tuple(names))
    first, start = copy.deepcopy(top.state_dict()), score_of(top, seen, data, val) if begun else 0.0
    model = Model(top, f"fused:{rule}", preprocess=Preprocess(), classes=list(data.classes) or None, target=data.target)
    run = f"features.{rule}" if len(names) == len(ready.members) else f"features.{rule}.{'+'.join(names)}"
    learn(ready, model, data, train, settled(ready.settings.train), run)
    score = score_of(top, seen, data, val)
    if begun:
        ready.begun.setdefault(rule, {})[frozenset(names)] = start
        if not better(data, score, start):
            top.load_state_dict(first)
            score = start
    known[frozenset(names)] = score
    return top, score


def score_of(top: FusedHead, columns: Tensor, data: DataSet, samples: Samples) -> float:
    """What a head reaches on remembered features."""
    with torch.no_grad():
        return scored(data, top.eval()(columns), samples)


def better(data: DataSet, score: float, other: float) -> bool:
    """Whether one score of the task's first metric is better than another."""
    return score > other if metrics.primary(data.task)[1] else score < other


def weights_of(ready: Backbones, top: FusedHead) -> dict[str, Any]:
    """How much a rule listens to each source on validation samples, and its alpha where it has one; empty where it weighs nothing."""
    shares = getattr(top.rule, "shares", None)
    if shares is None:
        return {}
    with torch.no_grad():
        said = shares(top.features(ready.val.raw(torch.arange(len(ready.val)))))
        mean, spread = said.mean(0).tolist(), said.std(0, correction=0).tolist()
        found = {"shares": {name: {"mean": mean[place], "std": spread[place]} for place, name in enumerate(ready.members)}}
        alpha = getattr(top.rule, "alpha", None)
        return found if alpha is None else {**found, "alpha": dict(zip(ready.members, alpha().tolist(), strict=True))}


def contributions(ready: Backbones, rule: str, parameters: Mapping[str, Any], score: float) -> dict[str, Any]:
    """What each source is worth on validation: alone, left out, and its Shapley value where there are few sources.

    Every set of sources has a head of its own, trained in the same way.
    """
    names = tuple(ready.members)
    few = len(names) <= contribution.MOST_SOURCES
    tried = contribution.coalitions(names) if few else [*contribution.without_each(names), *((name,) for name in names)]
    scores: dict[frozenset[str], float] = {frozenset(names): score}
    for chosen in tried:
        if frozenset(chosen) not in scores:
            scores[frozenset(chosen)] = trained_head(ready, rule, parameters, chosen)[1]
    sign = 1.0 if metrics.primary(ready.data.task)[1] else -1.0
    worth = {chosen: sign * value for chosen, value in scores.items()}
    if few:
        worth[frozenset()] = sign * without_any(ready.data)
    found = {
        "alone": {name: scores[frozenset({name})] for name in names},
        "leave_one_out": contribution.leave_one_out(worth, names) if len(names) > 1 else {},
    }
    return {**found, "shapley": contribution.shapley(worth, names)} if few else found


def without_any(data: DataSet) -> float:
    """The validation score of the best constant prediction on training labels."""
    known = data.train.labels[is_labelled(data.train.labels)]
    if data.task == "classification":
        constant = torch.bincount(known, minlength=data.outputs).float().log()
    elif data.task == "multilabel":
        constant = torch.logit(known.float().mean(0).clamp(1e-6, 1 - 1e-6))
    else:
        constant = torch.zeros(data.outputs)
    return scored(data, constant.clamp(min=-50).expand(len(data.val), -1), data.val)


def finetuned(ready: Backbones, rule: str, model: Model, score: float, augment: AugmentBlock | None) -> tuple[Model, float]:
    """The whole network trained from where the heads left it (LP-FT); what was there before, where validation gets no better by it."""
    whole = replace(model, module=copy.deepcopy(model.network).train().requires_grad_(True))
    labelled = pools.subset(ready.data.train, torch.nonzero(is_labelled(ready.data.train.labels))[:, 0])
    pool = standardised(labelled, ready.data)
    learn(ready, whole, ready.data, pool, settled(ready.settings.finetune), f"features.{rule}.all", augment)
    with torch.no_grad():
        rows = torch.arange(len(ready.data.val))
        outputs = torch.cat([whole.network.eval()(ready.data.val.exact(part, ready.preprocess)) for part in rows.split(256)])
    found = scored(ready.data, outputs, ready.data.val)
    if not better(ready.data, found, score):
        compared = f"{found:.4f} on validation, the heads alone {score:.4f}"
        ready.context.say(f"features.{rule}: training everything reaches {compared}: they are kept")
        return model, score
    return as_model(ready, whole.network), found


def learn(
    ready: Backbones, model: Model, data: DataSet, pool: Samples, train: TrainBlock, run: str, augment: AugmentBlock | None = None
) -> None:
    """Trains a model on labels."""
    blocks = [ObjectiveBlock(**parse_objective({LABEL_OBJECTIVE[data.task]: {"weight": 1.0}}))]
    objectives, _ = terms.connected([terms.build(block, (), {}) for block in blocks], model, {}, data, ready.seed)
    lesson = Lesson(run, pool, objectives, train, ready.seed, ready.context.rundir.metrics)
    teach(ready.context, model, data, lesson, views_of(augment or AugmentBlock(views=1)))


def member_of(name: str, model: Model, data: DataSet) -> Member:
    """A source's backbone with its preprocessing inside; the source stays as it is.

    Raises:
        ModelError: it has no features that can be read.
    """
    where = f"sources.{name}"
    if model.module is None:
        fix = "leave it out of the fused features, or fuse outputs: how: weighted"
        raise ModelError(f"{model.source} is a table of predictions and has no features", where, fix)
    assert model.preprocess is not None
    plain = without_wrappers(model.network)
    origin = Origin(model.architecture, dict(model.options), grafts_of(plain))
    shown, network = example(model, data), copy.deepcopy(plain).cpu().eval()
    with torch.no_grad():
        if not bool(network(shown).isfinite().all()):
            what = f"{model.source} says NaN or infinity about sample '{data.train.ids[0]}'"
            raise ModelError(what, where, "check its weights and its preprocess, or leave it out")
    try:
        network, path = backbone(network, shown)
    except ModelError as error:
        raise ModelError(error.what, where, error.fix) from error
    eight_bits = pools.raw_dtype(data.train) == torch.uint8
    return Member(network.requires_grad_(False), model.preprocess, eight_bits, origin, path).eval()


def without_wrappers(network: nn.Module) -> nn.Module:
    """The network whose outputs were chosen or rescaled for the data; its features are the same."""
    while isinstance(network, Around):
        network = network.network
    return network


def canonical(data: DataSet, sources: Mapping[str, Model]) -> Preprocess:
    """Raw inputs as a fused network takes them: pictures in files at one size from which every member's own is cut, others as they are."""
    sizes = [model.preprocess for model in sources.values() if model.preprocess is not None and model.preprocess.size is not None]
    if data.modality != "image" or not data.source.startswith(("images:", "torchvision:")):
        return Preprocess()
    side = max([round(max(one.size or (0,)) / one.crop) for one in sizes] or [max(data.input_shape[1:])])
    return Preprocess(size=(side, side), channels=data.input_shape[0], resize="short_side")


def refuse_copies(sources: Mapping[str, Model]) -> None:
    """
    Raises:
        ModelError: two sources are the very same network.
    """
    networks = [(name, model) for name, model in sources.items() if model.module is not None]
    for place, (name, model) in enumerate(networks):
        for other, earlier in networks[:place]:
            if same_weights(model, earlier):
                what = f"{model.source} has the very weights of source '{other}', so it adds nothing"
                raise ModelError(what, where=f"sources.{name}", fix="leave one of them out")


def fitted(name: str, features: Tensor, settings: FeaturesBlock) -> standardise.Map:
    """A source's standardisation; fitted where none is asked for, too, as it refuses constant and broken features."""
    kind = "phi_s" if settings.standardise == "none" else settings.standardise
    try:
        return standardise.fit(features, kind)
    except ModelError as error:
        raise ModelError(error.what, where=f"sources.{name}", fix=error.fix) from error


def columns_of(ready: Backbones, names: Sequence[str]) -> Tensor:
    """Where the features of some sources stand among all columns."""
    starts = dict(zip(ready.dims, np.cumsum([0, *ready.dims.values()]).tolist(), strict=False))
    return torch.cat([torch.arange(starts[name], starts[name] + ready.dims[name]) for name in names])


def some_columns(samples: pools.ArraySamples, places: Tensor) -> pools.ArraySamples:
    """The samples with some of their columns."""
    return pools.ArraySamples(samples.raw(torch.arange(len(samples)))[:, places], samples.labels, samples.ids)


def scored(data: DataSet, outputs: Tensor, samples: Samples) -> float:
    """The task's first metric."""
    if data.target is not None:
        outputs = outputs * outputs.new_tensor(data.target.std) + outputs.new_tensor(data.target.mean)
    return metrics.score(data.task, metrics.primary(data.task)[0], outputs.numpy(), samples.labels.numpy())


def as_model(ready: Backbones, network: nn.Module) -> Model:
    """A fused network as a model that is saved and opened like any other."""
    assert isinstance(network, FusedNetwork)
    architecture, options = described(network)
    network.requires_grad_(True).eval()
    classes, target = list(ready.data.classes) or None, ready.data.target
    return Model(network, architecture or "live:FusedNetwork", architecture, options, ready.preprocess, classes, target, pretrained=True)


def settled(train: TrainBlock) -> TrainBlock:
    """The block of a training that is too small to ask what the machine can do."""
    plain: dict[str, Any] = {"loader": "memory", "workers": 0, "compile": False, "channels_last": False}
    plain = {name: value for name, value in plain.items() if getattr(train, name) == "auto"}
    return train.model_copy(update={**plain, **({"precision": "fp32"} if train.precision == "auto" else {})})
