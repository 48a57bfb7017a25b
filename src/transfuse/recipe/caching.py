"""What of the teachers' answers is kept: all logits, or the largest ones and the others' sum, which not every objective can learn from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfuse.core.card import Card
from transfuse.recipe.facts import Facts

MOST_DENSE_CLASSES = 4096
DEFAULT_TOP_K = 100  # TinyViT's, for the 21,841 classes of ImageNet-21k (Wu et al., 2022, ECCV, https://arxiv.org/abs/2207.10666)


def default_folder() -> str:
    """$TRANSFUSE_CACHE, else ~/.cache/transfuse."""
    return str(Path(os.environ.get("TRANSFUSE_CACHE") or "~/.cache/transfuse").expanduser())


def largest_kept(asked: Any, facts: Facts, remembered: bool) -> tuple[int | None, str]:
    """How many logits are kept (None: all), and why.

    Args:
        asked: the recipe's cache.top_k.
        facts: of the data and the models.
        remembered: whether any answer is kept at all.
    """
    if asked is None:
        return None, "as the recipe says"
    if not remembered:
        return None, "no answer is kept"
    if facts.task != "classification" or facts.n_classes == 1:
        return None, "outputs that are no softmax are kept whole"
    if asked == "auto" and facts.n_classes <= MOST_DENSE_CLASSES:
        return None, f"all logits of up to {MOST_DENSE_CLASSES} classes are kept"
    k = DEFAULT_TOP_K if asked == "auto" else int(asked)
    if k >= facts.n_classes:
        return None, f"those are all {facts.n_classes} classes"
    return k, f"of {facts.n_classes} classes; a divergence over them and the others as one is a lower bound of the full one"


def asked_temperatures(blocks: Sequence[Mapping[str, Any]], cards: Sequence[Card]) -> list[float]:
    """The temperatures at which objectives soften a teacher of which only the largest logits are kept, in order."""
    asking = [block for block, card in zip(blocks, cards, strict=True) if "teacher.logits" in card.needs]
    return sorted({float(block["parameters"].get("temperature", 1.0)) for block in asking if not block["method"].startswith("live:")})


def refused(block: Mapping[str, Any], card: Card, top_k: int, temperatures: Sequence[float], networks: Sequence[str]) -> list[str]:
    """Why an objective can't learn from the largest logits, in sentences; empty when it can.

    Args:
        block: of the objective, with its teachers named.
        card: its card.
        top_k: how many logits are kept.
        temperatures: at which the others' sum is kept.
        networks: names of the teachers whose answers are kept so.
    """
    named = [block["teacher"]] if isinstance(block["teacher"], str) else list(block["teacher"] or [])
    asked = [name for name in named if name in networks]
    if not asked or not card.asks_teachers:
        return []
    if "teacher.logits.dense" in card.needs:
        return [f"needs all of the teacher's logits, and the cache keeps the {top_k} largest; set cache.top_k=null, or take kd"]
    if "teacher.logits" not in card.needs:
        return []
    settings = block["parameters"]
    found = []
    if block["method"].startswith("live:"):
        if not temperatures:
            found.append("is an object, so its temperature isn't known: name it in cache.temperatures")
    elif (temperature := float(settings.get("temperature", 1.0))) not in temperatures:
        kept = ", ".join(f"{known:g}" for known in temperatures)
        found.append(f"temperature {temperature:g} is not among cache.temperatures ({kept}), and the tail at it can't be rebuilt; add it")
    if settings.get("distribution") == "bernoulli":
        found.append("distribution: bernoulli needs all of the teacher's logits; set cache.top_k=null")
    if len(named) > 1 and (settings.get("combine") != "losses" or settings.get("confidence") != "equal"):
        found.append("can't merge or weigh teachers of which only the largest logits are kept; use combine: losses and confidence: equal")
    return found
