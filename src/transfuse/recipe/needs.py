"""Objectives against facts: which are meant, who answers for them, and why one is refused before training."""

from __future__ import annotations

from typing import Any

from transfuse import objectives
from transfuse.core.card import Card, TaskName
from transfuse.core.registry import did_you_mean
from transfuse.recipe.facts import Facts
from transfuse.recipe.forms import entry_names
from transfuse.recipe.methods import parse_objective

DEFAULT_TERMS: dict[TaskName, dict[str, dict[str, Any]]] = {
    "classification": {"cross_entropy": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0, "distribution": "auto"}},
    "multilabel": {"bce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0, "distribution": "bernoulli"}},
    "regression": {"mse": {"weight": 0.5}, "logit_mse": {"weight": 0.5}},
}
MUTUAL_TERM: dict[str, dict[str, Any]] = {"dml": {"weight": 1.0}}
"""what `auto` adds where networks learn beside the student"""
DOMAIN_TERM: dict[TaskName, dict[str, dict[str, Any]]] = {
    "classification": {"mcc": {"weight": 1.0}},
    "multilabel": {"coral": {"weight": 1.0}},
    "regression": {"coral": {"weight": 1.0}},
}
"""what `auto` adds to the labels where there are two domains"""
LABEL_OBJECTIVE: dict[TaskName, str] = {task: next(iter(terms)) for task, terms in DEFAULT_TERMS.items()}
_NETWORK_NEEDS = {
    "teacher.features": "inner features",
    "teacher.head": "the last layer",
    "teacher.batchnorm": "BatchNorm statistics",
}


def card_of(name: str, method: str, facts: Facts | None = None) -> Card:
    """The card of an objective; that of an object that was handed over is in the facts, by the objective's name in the recipe."""
    if method.startswith("live:"):
        return facts.live_cards[name] if facts and name in facts.live_cards else Card(title=method, needs=("teacher.logits",))
    return objectives.card(method)


def default_blocks(facts: Facts) -> list[dict[str, Any]]:
    """The task's default terms as dumps of ObjectiveBlocks; with peers they learn from each other, too."""
    terms = DEFAULT_TERMS[facts.task]
    if facts.domains:
        terms = {LABEL_OBJECTIVE[facts.task]: {"weight": 1.0}, **DOMAIN_TERM[facts.task]}
    if facts.start:
        terms = {LABEL_OBJECTIVE[facts.task]: {"weight": 1.0}}
    if facts.peers:
        label = LABEL_OBJECTIVE[facts.task]
        terms = {**(terms if facts.teachers else {label: {"weight": 1.0}}), **MUTUAL_TERM}
    return [parse_objective({name: settings}) for name, settings in terms.items()]


def expanded(blocks: list[dict[str, Any]], facts: Facts) -> list[dict[str, Any]]:
    """`auto` entries replaced by the job's default terms, of which other entries of the same name take the place."""
    if not any(block["method"] == "auto" for block in blocks):
        return blocks
    given = {block["name"]: block for block in blocks if block["method"] != "auto"}
    found = []
    for block in default_blocks(facts):
        own = given.pop(block["name"], None)
        if own is not None and own["weight"] == "auto":
            own = {**own, "weight": block["weight"]}
        found.append(own or block)
    found += given.values()
    names = entry_names(block["method"] for block in found)
    return [{**block, "name": name} for block, name in zip(found, names, strict=True)]


def refusals(block: dict[str, Any], facts: Facts) -> list[str]:
    """Why an objective can't be used here, in sentences; empty when it can."""
    card = card_of(block["name"], block["method"], facts)
    name, task = block["method"], facts.task
    found = []
    if task not in card.tasks:
        others = [entry for entry in DEFAULT_TERMS[task] if entry != name]
        found.append(f"is defined for {' and '.join(card.tasks)}, and the task is {task}; for that there are {' and '.join(others)}")
    if card.asks_teachers and not facts.teachers:
        found.append("needs a teacher, and the recipe has none; add teacher: SOURCE")
    if {"labels", "hard_labels"} & set(card.needs) and not facts.n_labelled:
        found.append("needs labels, and no sample of the training part has one; leave it out")
    if "peers" in card.needs and not facts.peers:
        found.append("learns from networks that train beside the student, and there are none here; add peers: {NAME: SOURCE} to a distill")
    if "rotations" in card.needs and (facts.modality != "image" or len(set(facts.input_shape[-2:])) > 1):
        shape = "x".join(map(str, facts.input_shape[-2:])) + " pixels" if facts.modality == "image" else facts.modality
        found.append(f"turns pictures by quarters, for which they have to be square, and the data are {shape}; leave it out")
    if "domains" in card.needs and not facts.domains:
        found.append("needs samples of a source and a target domain, which this job doesn't have; transfuse adapt does")
    found += _teacher_refusals(block, card, facts)
    found += _unused_taps(block, card)
    if block["parameters"].get("distribution") == "softmax" and (task == "multilabel" or facts.n_classes == 1):
        why = "several labels can be true at once" if task == "multilabel" else "a softmax over one logit is always 1"
        found.append(f"distribution: softmax doesn't fit: {why}; use distribution: bernoulli")
    return found


def _teacher_refusals(block: dict[str, Any], card: Card, facts: Facts) -> list[str]:
    asked = block["teacher"]
    if asked is None:
        names = list(facts.teachers) if card.asks_teachers else []
    else:
        names = [asked] if isinstance(asked, str) else list(asked)
        if not card.asks_teachers and names:
            return ["asks no teacher; remove the key teacher"]
    found = []
    for name in names:
        if name not in facts.teachers:
            known = ", ".join(facts.teachers) or "none"
            found.append(f"there is no teacher '{name}'{did_you_mean(name, facts.teachers)}; known: {known}")
        elif name in facts.tables:
            missing = [words for need, words in _NETWORK_NEEDS.items() if need in card.needs]
            if missing:
                found.append(f"needs {' and '.join(missing)} of teacher '{name}', which is a table of predictions and has none")
    if len(names) > 1 and card.teachers == "one" and not block["method"].startswith("live:"):
        found.append(f"takes one teacher, and there are {len(names)}: {', '.join(names)}; name one: teacher: {names[0]}")
    return found


def _unused_taps(block: dict[str, Any], card: Card) -> list[str]:
    """Taps of an objective that reads no such feature: the recipe would promise what nothing does."""
    if block["method"].startswith("live:"):
        return []  # whose taps are its author's affair
    method = objectives.get(block["method"])
    reads = {
        "student": bool({"student.features", "teacher.features"} & set(card.needs)) or hasattr(method, "build"),
        "teacher": "teacher.features" in card.needs or hasattr(method, "meet"),
    }
    unused = [whose for whose, does in reads.items() if block[f"{whose}_tap"] is not None and not does]
    return [f"{whose}_tap: reads no inner feature of the {whose}, so nothing would be done with it; remove {whose}_tap" for whose in unused]
