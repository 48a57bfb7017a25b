"""What a recipe asked for, in words: data, models, objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transfuse import objectives
from transfuse.errors import TransfuseError
from transfuse.report import extraction, finetuning, together


@dataclass
class Term:
    """One objective of the recipe.

    Attributes:
        name: its name in logs and overrides.
        title: what the field calls it.
        paper, link: where it comes from; empty for an objective of the user's own.
        settings: weight and parameters, as text.
    """

    name: str
    title: str
    paper: str
    link: str
    settings: str


def terms(recipe: Mapping[str, Any]) -> list[Term]:
    """The recipe's objectives, with their cards where they have one."""
    listed = recipe.get("objectives")
    found = []
    for entry in listed if isinstance(listed, list) else []:
        name, settings = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (str(entry), {})
        settings = dict(settings) if isinstance(settings, dict) else {}
        title, paper, link = _card(str(name))
        if len(recipe.get("teachers") or {}) < 2:
            settings.pop("teacher", None)  # there is nothing to choose
        text = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in settings.items() if value is not None)
        found.append(Term(str(name), title, paper, link, text))
    return found


def _card(name: str) -> tuple[str, str, str]:
    try:
        card = objectives.card(name)
    except (TransfuseError, ImportError, AttributeError):  # an object of the user's, or a plug-in that isn't installed here
        return name, "", ""
    return card.title, card.paper, card.link if card.link.startswith("https://") else ""


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def model(block: Any) -> str:
    """A model block in a few words: where it comes from, and whether it was trained here."""
    if not isinstance(block, dict):
        return str(block)
    text = str(block.get("source", "unknown"))
    if block.get("architecture"):
        text += f" as {block['architecture']}"
    if block.get("options"):
        text += f" ({', '.join(f'{key} {value}' for key, value in block['options'].items())})"
    return text + (", trained in this run" if block.get("train") else "")


def lines(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, answer) for data, models and training; empty without a recipe."""
    found: list[tuple[str, str]] = []
    adapting = recipe.get("job") == "adapt"
    for key, block in together.sets(recipe).items():
        parts = _data(block)
        if key == "target" and adapting:
            ignored = recipe.get("target_labels") == "ignore"
            parts.append("its labels are for the report alone" if ignored else "its training labels are learnt from, too")
        known = key in ("data", "source", "target")
        found.append((key.capitalize() if known else f"Source {key}", "; ".join(parts)))
    if adapting:
        whose = recipe.get("select_on", "source")
        found.append(("Selection", f"by the {whose}'s validation part{', so not unsupervised' if whose == 'target' else ''}"))
    for name, block in (recipe.get("teachers") or {}).items():
        found.append(("Teacher" if name == "teacher" else f"Teacher {name}", model(block)))
    if recipe.get("student"):
        found.append(("Student", model(recipe["student"])))
    for name, block in (recipe.get("peers") or {}).items():
        found.append((f"Peer {name}", f"{model(block)}, learns beside the student"))
    found += _compared(recipe)
    train = recipe.get("train") or {}
    if train and (recipe.get("job") != "extract" or recipe.get("control") in ("train", "reuse")):  # else nothing was trained so
        length = f"{train['steps']} steps" if train.get("steps") else f"{train.get('epochs', '?'):g} epochs" if train.get("epochs") else ""
        optimizer = next(iter(train.get("optimizer") or {}), "")
        batch = f"batches of {train['batch_size']}" if train.get("batch_size") else ""
        apart = "terms that pull against each other give way (PCGrad)" if train.get("gradients") == "pcgrad" else ""
        found.append(("Training", ", ".join(part for part in (length, batch, optimizer, train.get("precision"), apart) if part)))
    if changes := augmentation(recipe.get("augment") or {}):
        found.append(("Augmentation", changes))
    return found


def _compared(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the student is compared with; of an extraction what it is made of, too."""
    if recipe.get("job") == "extract":
        return [("Model", model(recipe.get("model"))), *extraction.lines(recipe)]
    if not recipe.get("control"):
        return []
    alone = {"adapt": "the source alone", "together": "the target alone"}.get(str(recipe.get("job")), "labels only")
    same, found = f"the same student from {alone}", together.lines(recipe) if recipe.get("job") == "together" else []
    if recipe.get("job") == "finetune":
        found, same = [("Model", model(recipe.get("model"))), *finetuning.lines(recipe)], finetuning.CONTROL
    known = {"reuse": f"{same} (a stored one is reused)", "train": same}
    return [*found, ("Control", known.get(recipe["control"], str(recipe["control"])))]


def augmentation(block: Mapping[str, Any]) -> str:
    """What changes inputs, and in how many views; empty where nothing does."""
    changes = [(name, value) for name, value in block.items() if name not in ("views", "seed") and value]
    if not changes:
        return ""
    parts = [name.replace("_", " ") + ("" if value is True else f" {_settings(value)}") for name, value in changes]
    views = block.get("views")
    often = "new views in every epoch" if views == "fresh" else f"{views} views of each sample" if views else ""
    return ", ".join(parts) + (f"; {often}" if often else "")


def _settings(value: Any) -> str:
    if not isinstance(value, dict):
        return _plain(value)
    ranges = {key: " to ".join(f"{end:g}" for end in entry) if isinstance(entry, list) else _plain(entry) for key, entry in value.items()}
    return "(" + ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in ranges.items()) + ")"


def _data(block: Mapping[str, Any]) -> list[str]:
    parts = [str(block.get("source", ""))]
    if block.get("unlabelled"):
        parts.append(f"unlabelled inputs from {block['unlabelled']}")
    if block.get("labels_per_class"):
        parts.append(f"{block['labels_per_class']} labels per class, the rest of the training part unlabelled")
    return parts


def value_of(recipe: Mapping[str, Any], key: str) -> str | None:
    """What a key of the resolved recipe holds, by the name that reasons give it; None where it can't be found.

    Objectives are addressed by name (`objectives.kd.weight`), the only teacher as `teacher`.
    """
    value: Any = recipe
    for part in key.split("."):
        if part == "teacher" and value is recipe:
            value = (recipe.get("teachers") or {}).get("teacher")
        elif isinstance(value, list):
            value = next((next(iter(entry.values())) for entry in value if isinstance(entry, dict) and next(iter(entry)) == part), None)
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return None
    return None if isinstance(value, dict) or (isinstance(value, list) and key == "objectives") else _plain(value)
