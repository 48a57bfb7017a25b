"""What an adaptation needs before it trains: source and target opened as one form, a resolved recipe, refusals, the order of samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from transfuse import data as sources
from transfuse.core import ranks
from transfuse.core.types import DataSet, Model, Samples
from transfuse.data import check
from transfuse.data.domains import common_side, paired, training_pools
from transfuse.data.locate import inside
from transfuse.data.samples import concat
from transfuse.engine.loader import is_labelled
from transfuse.engine.order import PairedOrder, counts_of
from transfuse.engine.steppers.alternating import stepper_for
from transfuse.errors import DataError, RecipeError
from transfuse.evaluate import metrics
from transfuse.jobs.context import Context, split_ready
from transfuse.jobs.deliver import export
from transfuse.jobs.parts import terms
from transfuse.jobs.parts.initialisation import initialise
from transfuse.jobs.parts.networks import count_outputs, open_student
from transfuse.jobs.parts.pools import standardised
from transfuse.jobs.prepare import opening
from transfuse.jobs.prepare.refusals import refuse_augmentation, refuse_unwritable
from transfuse.jobs.prepare.rehearsal import Circumstances, refuse_impossible
from transfuse.jobs.train import control
from transfuse.recipe.adapt import AdaptRecipe
from transfuse.recipe.augment import MIXES
from transfuse.recipe.blocks import DataBlock, ModelBlock
from transfuse.recipe.needs import card_of
from transfuse.recipe.resolve import resolve, sentences

LEAST = 2  # samples of either domain in a batch: one alone has no covariance


@dataclass
class Domains:
    """Source and target, opened and in one form.

    Attributes:
        source, target: both with all parts and labels.
        pools: all training samples of each; the target's without labels unless the recipe uses them.
        data: what the student sees as its data set: the source's training part, the validation part that selects, the target's test part.
    """

    source: DataSet
    target: DataSet
    pools: tuple[Samples, Samples]
    data: DataSet


def open_both(recipe: AdaptRecipe, context: Context) -> Domains:
    """Opens both data sets, the pictures of both at one size.

    Raises:
        DataError: one can't be opened, or they don't go together.
    """
    found = opened_at_one_size({"source": recipe.source, "target": recipe.target}, recipe.student, context, ("source",))
    source, target, notes = paired(found["source"], found["target"])
    for note in notes:
        context.say(note)
    pools = training_pools(source, target, recipe.target_labels == "use")
    selecting = source if recipe.select_on == "source" else target
    name = f"{source.source} to {target.source}"
    return Domains(source, target, pools, replace(source, val=selecting.val, test=target.test, unlabelled=pools[1], source=name, notes=[]))


def opened_at_one_size(
    blocks: Mapping[str, DataBlock], student: ModelBlock, context: Context, labelled: Collection[str]
) -> dict[str, DataSet]:
    """Several data sets, the pictures of all at one size.

    Args:
        blocks: by recipe key.
        student: the network that takes them.
        context: of the job; its live data are known by the last part of a key.
        labelled: keys of those that need training labels.

    Raises:
        DataError: one can't be opened, or sizes are asked for that one network can't take.
    """
    found = {key: _open(key, block, student, context, key in labelled) for key, block in blocks.items()}
    side = common_side(list(found.values()))
    for key, block in blocks.items():
        if side is not None and found[key].input_shape[1:] != (side, side):
            if block.size != "auto":
                what = " and ".join(f"{name}.size is {other.size}" for name, other in blocks.items())
                each = "both" if len(blocks) == 2 else "all"
                raise DataError(f"{what}, but one network takes {each}", f"{key}.size", f"give {each} the same, such as {side}")
            context.say(f"{key}: pictures of {found[key].input_shape[1]}x{found[key].input_shape[2]} are held at {side}x{side}")
            found[key] = _open(key, block.model_copy(update={"size": side}), student, context, key in labelled)
    for key, opened in found.items():
        for note in opened.notes:
            context.say(f"{key}: {note}")
    return found


def _open(key: str, block: DataBlock, student: ModelBlock, context: Context, labelled: bool) -> DataSet:
    given = (context.live.data or {}).get(key.rpartition(".")[2], block.source)
    request = replace(opening.request_of(block, {"student": student}), train_labels=labelled)
    with inside(key):
        return sources.open_data(given, request)


def prepare(recipe: AdaptRecipe, context: Context) -> tuple[AdaptRecipe, dict[str, str], Domains]:
    """Opens and checks all that the job needs, without writing anything: the resolved recipe, its reasons, the data.

    Raises:
        TransfuseError: the job would be refused.
    """
    if ranks.rank() == 0:
        context.rundir.refuse_occupied()
    both = open_both(recipe, context)
    if recipe.target_labels == "use" and not bool(is_labelled(both.pools[1].labels).any()):
        raise DataError("no training sample of the target has a label", where="target_labels", fix="leave it at ignore")
    for key, opened, labels in (("source", both.source, True), ("target", both.target, recipe.target_labels == "use")):
        for warning in check.check(opened, train_labels=labels):
            context.say(f"{key}: {warning}")
    if recipe.train.stop.metric is not None:
        metrics.higher_is_better(both.data.task, recipe.train.stop.metric)
    if recipe.control not in ("reuse", "train", "none"):
        control.of_run(recipe.control)
    student = open_student(recipe.student, both.data, recipe.seed, context.live.student)
    for note in student.notes:
        context.say(f"student: {note}")
    initialise(context, recipe.student, both.data, student, recipe.seed)
    facts = opening.facts_about(both.data, both.pools, context, count_outputs(student, both.data))
    resolved, reasons = resolve(recipe, replace(facts, domains=True))
    assert isinstance(resolved, AdaptRecipe)
    for line in sentences(resolved, reasons):
        if ranks.rank() == 0:
            context.reporter.say(line)
    _refuse(resolved, both, student, context)
    export.rehearse(resolved.export, student, both.data)
    return resolved, reasons, both


def _refuse(recipe: AdaptRecipe, both: Domains, student: Model, context: Context) -> None:
    """What would else be met after minutes of training.

    Raises:
        TransfuseError: nothing learns from the labels or looks at the target, batches that can't hold both domains, mixed samples,
            augmentation that doesn't fit the pictures, objectives that find no features or can't work on them, a cache that can't be
            written.
    """
    assert isinstance(recipe.objectives, list)
    cards = [card_of(block.name, block.method) for block in recipe.objectives if block.weight != 0]
    live = any(block.method.startswith("live:") for block in recipe.objectives)
    if not live and not any({"labels", "hard_labels"} & set(card.needs) for card in cards):
        raise RecipeError("no term learns from the source's labels", where="objectives", fix="add one such as cross_entropy")
    if not live and not any(card.transfers for card in cards) and recipe.target_labels == "ignore":
        what = "no term looks at the target, so the network would learn from one domain only"
        raise RecipeError(what, where="objectives", fix="add one such as mcc, coral, dann or mcd, or leave objectives at auto")
    counts = counts_of([len(pool) for pool in both.pools], recipe.train.batch_size, recipe.target_share)
    least = max(LEAST, ranks.world_size())
    if min(counts) < least:
        held = f"a batch of {recipe.train.batch_size} would hold {counts[0]} of the source and {counts[1]} of the target"
        what = f"{held}; {least} of each are the least"
        raise RecipeError(what, where="train.batch_size", fix="raise it, or set target_share nearer to 0.5")
    mixing = [name for name in MIXES if getattr(recipe.augment, name)]
    if mixing:
        what = f"{' and '.join(mixing)} would mix samples of one domain with those of the other"
        raise RecipeError(what, where=f"augment.{mixing[0]}", fix="leave it out")
    refuse_augmentation(recipe.augment, both.data)
    objectives = [terms.build(block, (), context.live.objectives) for block in recipe.objectives]
    objectives, _ = terms.connected(objectives, student, {}, both.data, recipe.seed)
    stepper_for(objectives)
    source, target = (standardised(pool, both.data) for pool in both.pools)
    order = PairedOrder(len(source), len(target), recipe.train.batch_size, recipe.seed, recipe.target_share)
    given = Circumstances(both.data, concat(source, target), order, recipe.train, recipe.augment, recipe.cache)
    refuse_impossible(objectives, student, {}, given)
    refuse_unwritable(Path(recipe.cache.dir))


def order_of(recipe: AdaptRecipe, source_size: int, target_size: int, kind: type[PairedOrder] = PairedOrder) -> PairedOrder:
    """Which samples each step sees."""
    batch_size, share = recipe.train.batch_size, recipe.target_share
    return kind(source_size, target_size, batch_size, recipe.seed, share, ranks.rank(), ranks.world_size())


def explained(recipe: AdaptRecipe, both: Domains, order: PairedOrder) -> list[str]:
    """What a reader should know of how both domains are used."""
    held = f"each batch holds {order.source.batch_size} source and {order.target.batch_size} target samples"
    steps = recipe.train.steps or order.steps(recipe.train.epochs or 30.0)
    equal = order.source.per_epoch == order.target.per_epoch
    slower = "both" if equal else f"the {'source' if order.slower is order.source else 'target'}, which takes longer"
    labels = int(is_labelled(both.pools[1].labels).sum())
    chosen = {
        "source": "weights are chosen on the source's validation part; the target's labels are looked at in the report alone",
        "target": "weights are chosen on the target's validation part, so its labels are used: this is not unsupervised",
    }
    if labels and recipe.select_on == "source":
        chosen["source"] = "weights are chosen on the source's validation part"
    notes = [
        f"source: {split_ready(both.source)}",
        f"target: {split_ready(both.target)}",
        f"{held}; an epoch is a pass over {slower}; {steps} steps",
        chosen[recipe.select_on],
        "inputs of both are normalised with the source's statistics",
    ]
    if labels:
        notes.append(
            f"{labels} labels of the target are learnt from; the control has none of them, so the gain holds what they are worth, too"
        )
    return notes
