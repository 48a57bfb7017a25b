"""A recipe without `auto`: every open value is decided once, from facts, with a reason that is said aloud and kept."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfuse.core.card import TaskName
from transfuse.core.signature import parameters
from transfuse.engine.optim import OPTIMIZERS
from transfuse.engine.schedule import weight_function
from transfuse.errors import RecipeError
from transfuse.recipe import caching
from transfuse.recipe.augment import asked, changes, unmixable, without_two_views
from transfuse.recipe.augment import refused as refused_augment
from transfuse.recipe.control import control_key_values, control_objectives
from transfuse.recipe.facts import Facts
from transfuse.recipe.methods import ObjectiveBlock
from transfuse.recipe.needs import card_of, expanded, refusals
from transfuse.recipe.schema import Recipe

__all__ = ["Facts", "control_key_values", "control_objectives", "resolve", "sentences"]

DEFAULT_EPOCHS = 30.0
DEFAULT_VIEWS = 8  # the fewest that cost no accuracy beside fresh ones: docs/cache.md, benchmarks/results/views_study.json
COMPILE_PAYS_AFTER = 2000  # steps; before that, compiling costs more than it saves
MOST_WORKERS = 8
PRIMARY_METRIC: dict[TaskName, str] = {"classification": "accuracy", "multilabel": "f1", "regression": "rmse"}
_FREE_TEXT = ("source", "unlabelled", "architecture", "out", "options", "classes", "how")  # where the word auto is somebody's own


def resolve(recipe: Recipe, facts: Facts) -> tuple[Recipe, dict[str, str]]:
    """Replaces every `auto`, and every null that stands for one.

    Args:
        recipe: as it was loaded; not changed.
        facts: of the data, the models and the machine.

    Returns:
        The resolved recipe, and recipe key -> reason for each value that was decided here.

    Raises:
        RecipeError: an objective's needs are not met, or two values contradict each other; one line per problem.
    """
    return _Resolution(recipe, facts).done()


def resolve_data(recipe: Recipe, facts: Facts) -> tuple[Recipe, dict[str, str]]:
    """The same for a job that trains nothing: of its recipe, only the data can be undecided."""
    found = _Resolution(recipe, facts)
    for key in recipe.data_blocks:
        found.data(_value_at(found.values, key.split(".")), key)
    return type(recipe).model_validate(found.values), found.reasons


def sentences(recipe: Recipe, reasons: Mapping[str, str]) -> list[str]:
    """What was decided, for people: "train.precision = bf16: the CPU has matrix units for it".

    What holds for a teacher's training just as for the student's is said once.

    Args:
        recipe: the resolved recipe.
        reasons: as `resolve` gives them.
    """
    values = recipe.model_dump()
    said, heard = [], set()
    for key, reason in reasons.items():
        decided = f"{_shown(_value_at(values, key.split('.')))}: {reason}"
        train, _, name = key.rpartition("train.")
        if not train or (name, decided) not in heard:
            said.append(f"{key} = {decided}")
        heard.add((name, decided))
    return said


def _never(weight: Any) -> bool:
    """Whether a loss weight is 0 from beginning to end; schedules are straight or half a cosine, so three places tell."""
    return weight != "auto" and all(weight_function(weight)(progress) == 0 for progress in (0.0, 0.5, 1.0))


def _value_at(value: Any, parts: list[str]) -> Any:
    """The value of a key as people write it: `teacher` for the teacher of that name, objectives by name."""
    if not parts:
        return value
    if isinstance(value, list):
        named = next(block for block in value if block["name"] == parts[0])
        return _value_at({**named["parameters"], **named}, parts[1:])
    if parts[0] == "teacher" and "teacher" not in value:
        return _value_at(value["teachers"], parts)
    return _value_at(value[parts[0]], parts[1:])


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{entry['name']} ({entry['weight']:g})" if isinstance(entry, dict) else _shown(entry) for entry in value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


class _Resolution:
    """The values on their way, with reasons and problems as they come up."""

    def __init__(self, recipe: Recipe, facts: Facts):
        self.recipe, self.facts = recipe, facts
        self.values = recipe.model_dump()
        self.reasons: dict[str, str] = {}
        self.problems: list[str] = []

    def done(self) -> tuple[Recipe, dict[str, str]]:
        values, facts = self.values, self.facts
        if values["out"] is None and facts.out is not None:
            self.set(values, "out", facts.out, "out", "the recipe names no folder")
        for key in self.recipe.data_blocks:
            self.data(_value_at(values, key.split(".")), key)
        self.augment(values["augment"])
        self.train(values["train"], "train", facts.n_pool)
        for name, teacher in values.get("teachers", {}).items():
            if teacher["train"] is not None:
                key = "teacher.train" if name == "teacher" else f"teachers.{name}.train"
                self.train(teacher["train"], key, facts.n_labelled)
        self.cache(values["cache"])
        if "objectives" in values:
            self.objectives()
            self.kept_answers(values["cache"])
        elif values["cache"]["top_k"] == "auto":
            values["cache"]["top_k"] = None  # no teacher, no logits to keep
        self.leftovers(values, "")
        if self.problems:
            raise RecipeError("\n".join(self.problems))
        if "objectives" in values:
            values["objectives"] = [ObjectiveBlock.model_validate(block).entry() for block in values["objectives"]]
        return type(self.recipe).model_validate(values), self.reasons

    def set(self, block: dict[str, Any], name: str, value: Any, key: str, reason: str) -> None:
        block[name] = value
        self.reasons[key] = reason

    def auto(self, block: dict[str, Any], name: str, prefix: str, decided: tuple[Any, str]) -> None:
        """Sets a value and its reason where the recipe says auto."""
        if block[name] == "auto":
            self.set(block, name, decided[0], f"{prefix}.{name}", decided[1])

    def data(self, data: dict[str, Any], key: str) -> None:
        self.auto(data, "task", key, (self.facts.task, "what the labels are"))
        self.auto(data, "size", key, _size(self.facts))

    def augment(self, augment: dict[str, Any]) -> None:
        self.problems += refused_augment(augment, self.facts)
        if changes(augment):
            decided = (DEFAULT_VIEWS, f"{DEFAULT_VIEWS} fixed views of each sample, so that a teacher has to answer each only once")
        else:
            decided = (1, "nothing is augmented, so all views are the same")
        self.auto(augment, "views", "augment", decided)
        self.second_view(augment)

    def second_view(self, augment: dict[str, Any]) -> None:
        """Refuses changes of a second view that nobody looks at, or that change nothing."""
        if augment["second"] is None:
            return
        blocks = self.values.get("objectives", [])
        cards = [card_of(block["name"], block["method"], self.facts) for block in blocks if isinstance(block, dict)]
        if not any("two_views" in card.needs for card in cards):
            self.problems.append("augment.second: no objective compares two views of a sample; remove it, or add one such as mlld")
        elif not asked(augment["second"]):
            self.problems.append("augment.second: changes nothing; name a change such as randaugment, or remove it")

    def train(self, train: dict[str, Any], key: str, pool: int) -> None:
        facts = self.facts
        if train["epochs"] is None and train["steps"] is None:
            self.set(train, "epochs", DEFAULT_EPOCHS, f"{key}.epochs", "the default, as the recipe gives neither epochs nor steps")
        if 0 < pool < train["batch_size"]:
            self.set(train, "batch_size", pool, f"{key}.batch_size", f"the training pool has only {pool} samples")
        if train["accumulate"] > train["batch_size"]:
            self.problems.append(f"{key}.accumulate: {train['accumulate']} micro-batches can't share {train['batch_size']} samples")
        if train["stop"]["metric"] is None:
            metric = PRIMARY_METRIC[facts.task]
            self.set(train["stop"], "metric", metric, f"{key}.stop.metric", f"the first metric of {facts.task}")
        if train["precision"] not in ("auto", "fp32") and facts.device == "cpu" and not facts.bf16_units:
            reason = "as the recipe says, but the CPU has no matrix units for it: fp32 would be several times faster"
            self.reasons[f"{key}.precision"] = reason
        self.auto(train, "precision", key, _precision(facts))
        self.auto(train, "channels_last", key, _channels_last(facts))
        steps = train["steps"] or math.ceil((train["epochs"] or DEFAULT_EPOCHS) * max(pool, 1) / train["batch_size"])
        self.auto(train, "compile", key, _compile(facts, steps))
        self.auto(train, "loader", key, _loader(facts))
        self.auto(train, "workers", key, _workers(facts, train["loader"]))

    def cache(self, cache: dict[str, Any]) -> None:
        named = os.environ.get("TRANSFUSE_CACHE")
        reason = "$TRANSFUSE_CACHE" if named else "the usual place; set $TRANSFUSE_CACHE for another"
        self.auto(cache, "dir", "cache", (caching.default_folder(), reason))
        cache["dir"] = str(Path(cache["dir"]).expanduser())

    def objectives(self) -> None:
        facts = self.facts
        blocks = self.values["objectives"]
        if blocks == "auto":
            blocks = [ObjectiveBlock(name="auto", method="auto").model_dump()]
        if any(block["method"] == "auto" for block in blocks):
            blocks = expanded(blocks, facts)
            names = " and ".join(block["name"] for block in blocks)
            self.reasons["objectives"] = f"the default for {facts.task}{' with peers' if facts.peers else ''}: {names}"
        for block in blocks:
            key = f"objectives.{block['name']}"
            found = refusals(block, facts)
            card = card_of(block["name"], block["method"], facts)
            found += without_two_views(card.needs, self.values["augment"])
            tables = [name for name in self.facts.tables if block["teacher"] in (None, name) or name in (block["teacher"] or ())]
            found += unmixable(card.needs, self.values["augment"], tables if card.asks_teachers else ())
            self.problems += [f"{key}: {text}" for text in found]
            if not found:
                self.objective(block, key)
        if facts.peers and not any("peers" in card_of(block["name"], block["method"], facts).needs for block in blocks):
            self.problems.append("peers: no objective learns from them; add dml to the objectives, or remove peers")
        if all(_never(block["weight"]) for block in blocks):
            self.problems.append("objectives: every weight is 0, so there is nothing to learn from")
        self.values["objectives"] = blocks
        for block in blocks:
            if card_of(block["name"], block["method"], facts).decays and not _never(block["weight"]):
                self.no_decay(self.values["train"]["optimizer"], block["name"])

    def no_decay(self, optimizer: dict[str, Any], objective: str) -> None:
        """Takes away the optimiser's weight decay, which would pull to 0 what a term holds elsewhere; one that isn't its default stays."""
        name, settings = next(iter(optimizer.items()))
        usual = next((one.default for one in parameters(OPTIMIZERS[name]) if one.name == "weight_decay"), 0.0)
        key = f"train.optimizer.{name}.weight_decay"
        if usual and settings["weight_decay"] == usual:
            reason = f"{objective} takes its place, as its paper says, for the control too; the optimizer's own is {usual:g}"
            self.set(settings, "weight_decay", 0.0, key, reason)
        elif settings.get("weight_decay"):
            self.reasons[key] = f"as the recipe says; {objective} takes its place in the paper, as it pulls to 0 what that holds elsewhere"

    def kept_answers(self, cache: dict[str, Any]) -> None:
        """How many logits the cache keeps, at which temperatures, and who can't learn from that."""
        blocks = self.values["objectives"]
        cards = [card_of(block["name"], block["method"], self.facts) for block in blocks]
        networks = [name for name in self.facts.teachers if name not in self.facts.tables]
        kept, reason = caching.largest_kept(cache["top_k"], self.facts, self.values["augment"]["views"] != "fresh")
        if cache["top_k"] != kept:
            self.set(cache, "top_k", kept, "cache.top_k", reason)
        if kept is None:
            return
        if cache["temperatures"] is None and (asked := caching.asked_temperatures(blocks, cards)):
            reason = "those of the objectives; for another one the teacher has to be asked again"
            self.set(cache, "temperatures", asked, "cache.temperatures", reason)
        for block, card in zip(blocks, cards, strict=True):
            found = caching.refused(block, card, kept, cache["temperatures"] or [], networks)
            self.problems += [f"objectives.{block['name']}: {text}" for text in found]

    def objective(self, block: dict[str, Any], key: str) -> None:
        facts, card = self.facts, card_of(block["name"], block["method"], self.facts)
        self.auto(block, "weight", key, (card.paper_weight, "the paper's weight"))
        if block["teacher"] is None and card.asks_teachers:
            if len(facts.teachers) == 1:
                self.set(block, "teacher", facts.teachers[0], f"{key}.teacher", "the only teacher")
            else:
                self.set(block, "teacher", list(facts.teachers), f"{key}.teacher", "all teachers, as none is named")
        if "distribution" in block["parameters"]:
            independent = facts.task == "multilabel" or facts.n_classes == 1
            reason = "each output is a yes or no of its own" if independent else "one label per sample"
            self.auto(block["parameters"], "distribution", key, ("bernoulli" if independent else "softmax", reason))

    def leftovers(self, value: Any, key: str) -> None:
        """A method of somebody else's may have an `auto` that no rule knows: the user has to decide."""
        if isinstance(value, dict):
            name = value.get("name") if "method" in value and "parameters" in value else None
            for part, entry in value.items():
                if part not in _FREE_TEXT:
                    inner = "" if name and part == "parameters" else f".{part}" if key else part
                    self.leftovers(entry, key + inner)
        elif isinstance(value, list):
            for entry in value:
                self.leftovers(entry, f"{key}.{entry['name']}" if isinstance(entry, dict) and "name" in entry else key)
        elif value == "auto" and not any(problem.startswith(key.rsplit(".", 1)[0]) for problem in self.problems):
            self.problems.append(f"{key}: nothing says what auto means here; give a value")


def _size(facts: Facts) -> tuple[int | None, str]:
    if facts.modality != "image":
        return None, f"{facts.modality} have no size in pixels"
    if len(set(facts.input_shape[-2:])) > 1:
        return None, "the pictures are not square, and stay as they are"
    if facts.model_sizes:
        return max(facts.model_sizes), "the largest input that a model asks for"
    return max(facts.input_shape[-2:], default=None), "the size of the data, as no model asks for another"


def _precision(facts: Facts) -> tuple[str, str]:
    where = "GPU" if facts.device == "cuda" else "CPU"
    if facts.modality != "image":
        return "fp32", "small models on tables and text gain nothing from less"
    if facts.bf16_units:
        return "bf16", f"the {where} has matrix units for it"
    return "fp32", f"the {where} has no matrix units for bf16"


def _channels_last(facts: Facts) -> tuple[bool, str]:
    if facts.modality == "image":
        return True, "convolutions on pictures are faster so"
    return False, "only pictures have channels"


def _compile(facts: Facts, steps: int) -> tuple[bool, str]:
    if facts.device != "cuda":
        return False, "on a CPU compiling takes longer than it saves in most runs; compile: true asks for it"
    if not facts.has_cpp_compiler:
        return False, "there is no C++ compiler here"
    if steps <= COMPILE_PAYS_AFTER:
        return False, f"{steps} steps are too few to win back the time for compiling"
    return True, f"{steps} steps win back the time for compiling"


def _loader(facts: Facts) -> tuple[str, str]:
    share = f"{_size_text(facts.pool_bytes)} of data, {_size_text(facts.free_memory_bytes)} free"
    if facts.pool_bytes * 4 < facts.free_memory_bytes:
        return "memory", f"the data fit well into memory ({share})"
    return "workers", f"the data would fill more than a quarter of the free memory ({share})"


def _workers(facts: Facts, loader: str) -> tuple[int, str]:
    if loader == "memory":
        return 0, "the data are in memory"
    workers = min(MOST_WORKERS, max(1, facts.cores))
    return workers, f"{facts.cores} CPU core{'s' if facts.cores != 1 else ''}"


def _size_text(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
