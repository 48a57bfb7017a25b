"""The end of a fusion: the test part is looked at, and summary.json, report and card are written."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transfuse.core.types import Model
from transfuse.evaluate import metrics
from transfuse.evaluate.summary import transfer_summary
from transfuse.jobs.context import Context
from transfuse.jobs.deliver import finish
from transfuse.jobs.deliver.finish import Ask, asking, keep_predictions, known_reasons, summary_of
from transfuse.jobs.fusing import ways as fuse_ways
from transfuse.jobs.fusing.panel import Panel, Way
from transfuse.jobs.rundir import write_json
from transfuse.recipe.fuse import FuseRecipe


@dataclass
class Found:
    """What a fusion found.

    Attributes:
        panel: sources and data.
        singles: every source as it is.
        tried: every way to fuse that was tried.
        chosen: the one that was taken.
        plain: the plain ensemble.
        student: what it was distilled into; None: it is shipped itself.
        joint: the same student from labels alone.
    """

    panel: Panel
    singles: Mapping[str, Way]
    tried: Mapping[str, Way]
    chosen: Way
    plain: Way
    student: Model | None = None
    joint: Model | None = None


def evaluate(context: Context, recipe: FuseRecipe, found: Found, began: float) -> None:
    """Writes predictions and summary.json.

    Student: what is shipped. Control: the best single source, chosen on validation. Ensemble: the mean probability of all sources. Joint:
    the student from labels alone, where one was trained.
    """
    panel, data, threads = found.panel, found.panel.data, recipe.budget.threads
    best = fuse_ways.best(panel, list(found.singles.values()))
    assert best is not None
    alone = best.name.partition(" ")[2]
    asks, costs = asked(recipe, found, best)
    said = {name: keep_predictions(context, data, name, ask) for name, ask in asks.items()}
    blocks = {name: summary_of(data, said[name], costs[name], recipe.seed) for name in asks}
    sources: dict[str, Any] = {}
    for name, oracle in panel.oracles.items():
        said[name] = keep_predictions(context, data, name, panel.asking(name))
        sources[name] = summary_of(data, said[name], oracle.cost(threads), recipe.seed)
    labels = data.test.labels.numpy()
    transfer = transfer_summary(data.task, labels, said["student"], said["control"], {name: said[name] for name in sources}, recipe.seed)
    plain = transfer_summary(data.task, labels, said["student"], said["ensemble"], None, recipe.seed)
    names = {"gain": "over_ensemble", "gain_interval": "over_ensemble_interval", "mcnemar": "over_ensemble_mcnemar"}
    transfer |= {ours: plain.get(key) for key, ours in names.items()}
    ledger = context.ledger
    summary = {
        **finish.heading(recipe, data),
        "models": blocks,
        "teachers": {},
        "sources": sources,
        "transfer": transfer,
        "fusion": {
            "chosen": found.chosen.name,
            "distilled": found.student is not None,
            "best_single": alone,
            "chosen_by": panel.metric,
            "ways": [row(panel, way) for way in [*found.singles.values(), *found.tried.values()]],
            "contributions": panel.contributions(),
            **({"diagnosis": panel.opened["diagnosis"].figures()} if "diagnosis" in panel.opened else {}),
        },
        "teacher_forwards": sum(oracle.asked() for oracle in panel.oracles.values()) + ledger.get("teacher_forwards", 0),
        "seconds": {
            "train": round(ledger.get("seconds.student", 0.0), 3),
            "total": round(ledger.get("seconds.before", 0.0) + time.monotonic() - began, 3),
        },
        "budget": finish.budget(recipe, blocks["student"]) if blocks["student"]["bytes"] is not None else {},
    }
    if recipe.samples:
        finish.keep_samples(context, data, said, {"control": said["control"]})
    write_json(context.rundir.path / "reasons.json", {"auto": known_reasons(context), "notes": context.notes})
    write_json(context.rundir.summary, summary | {"fusion": finite(summary["fusion"])})


def finite(value: Any) -> Any:
    """Figures as JSON has them: what is no number becomes null, tuples become lists."""
    if isinstance(value, dict):
        return {str(name): finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def asked(recipe: FuseRecipe, found: Found, best: Way) -> tuple[dict[str, Ask], dict[str, Any]]:
    """Who is looked at on the test part beside the sources, and what each costs."""
    data, threads = found.panel.data, recipe.budget.threads
    shipped = found.student or found.chosen.shipped
    asks: dict[str, Ask] = {}
    costs: dict[str, Any] = {}
    if shipped is not None:
        known = found.chosen.cost if found.student is None else None
        asks["student"], costs["student"] = asking(shipped), known or finish.measured(shipped, data, threads)
    else:
        assert found.chosen.ask is not None
        asks["student"], costs["student"] = found.chosen.ask, None
    assert best.ask is not None
    asks["control"], costs["control"] = best.ask, best.cost
    assert found.plain.ask is not None
    asks["ensemble"], costs["ensemble"] = found.plain.ask, found.plain.cost
    if found.joint is not None:
        asks["joint"], costs["joint"] = asking(found.joint), finish.measured(found.joint, data, threads)
    return asks, costs


def row(panel: Panel, way: Way) -> dict[str, Any]:
    """A way's line: what it reached where ways are chosen, what it reaches on the test part, what it costs, or why it failed."""
    found: dict[str, Any] = {**way.figures, "name": way.name, "validation": way.score, "test": None, "bytes": None, "latency_ms": None}
    if way.why is not None:
        return found | {"why": way.why}
    if way.ask is not None:
        said = panel.units(way.ask(panel.data.test))
        found["test"] = metrics.compute(panel.data.task, said, panel.data.test.labels)[panel.metric]
    if way.cost is not None:
        found |= {"bytes": way.cost["bytes"], "latency_ms": way.cost["latency_ms"]["batch_1"]["p50"]}
    return found
