"""Several runs in one: mean, spread and interval of every figure that their summaries share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transfuse.evaluate.statistics import over_seeds

Summary = Mapping[str, Any]


def over_runs(summaries: Sequence[Summary]) -> dict[str, Any]:
    """What the runs have in common, each figure over the runs that have it.

    The interval of a mean is Student's t over runs. That of `transfer.gain` is the interval of the paired gain: student and control of a
    run share initial weights, batches and test samples, and their difference is taken within each run before it is averaged. McNemar's
    p-values are left out: they have no mean worth reading.

    Args:
        summaries: of finished runs, as summary.json holds them.

    Returns:
        {"n", "models": {name: {"metrics": {metric: spread}}}, "teachers": ..., "transfer": {figure: spread}}, with
        spread = {"n", "mean", "std", "interval", "min", "max"}; std and interval are None for a single run, with "reasons".
    """
    result: dict[str, Any] = {"n": len(summaries)}
    for group in ("models", "teachers"):
        blocks = [summary.get(group) or {} for summary in summaries]
        result[group] = {}
        for name in _names(blocks):
            metrics = [block[name].get("metrics") or {} for block in blocks if name in block]
            result[group][name] = {"metrics": _spreads(metrics)}
    transfers = [summary.get("transfer") or {} for summary in summaries]
    result["transfer"] = _spreads([{key: value for key, value in block.items() if not key.endswith("mcnemar")} for block in transfers])
    if len(summaries) < 2:
        result["reasons"] = {"std": "a single run has no spread", "interval": "a single run has no spread"}
    return result


def spread(values: Sequence[float]) -> dict[str, Any]:
    """n, mean, sample standard deviation, 95 % t-interval of the mean, least and largest."""
    found = over_seeds(values)
    return {
        "n": found.n,
        "mean": found.mean,
        "std": found.std,
        "interval": list(found.interval) if found.interval else None,
        "min": float(min(values)),
        "max": float(max(values)),
    }


def _names(blocks: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for block in blocks for name in block))


def _spreads(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {}
    for name in _names(blocks):
        values = [block[name] for block in blocks if _is_number(block.get(name))]
        if values:
            found[name] = spread(values)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
