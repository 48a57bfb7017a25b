"""What a model may cost, and whether it does: of one model, and of the same model over several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def verdicts(limits: Mapping[str, float | None], block: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each limit that was asked for, what the model costs, and whether that is met; None where it wasn't measured.

    Args:
        limits: "bytes" and "latency_ms"; None: nothing was asked.
        block: the model's, as summary.json has it.

    Returns:
        {name: {"asked", "is", "met"}}; empty where nothing was asked.
    """
    latency = ((block.get("latency_ms") or {}).get("batch_1") or {}).get("p50")
    costs = {"bytes": block.get("bytes"), "latency_ms": latency}
    return {
        name: {"asked": limit, "is": costs[name], "met": None if costs[name] is None else costs[name] <= limit}
        for name in costs
        if (limit := limits.get(name)) is not None
    }


def over_runs(found: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Verdicts of several runs in one: a limit is met where every run meets it.

    Args:
        found: of each run, as `verdicts` gives them.

    Returns:
        {name: {"asked", "is": the largest, "met", "met_in": runs, "of": runs}}; None where no run was measured.
    """
    result: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for verdict in found for name in verdict):
        own = [verdict[name] for verdict in found if name in verdict]
        measured = [verdict["is"] for verdict in own if verdict["is"] is not None]
        met = sum(verdict["met"] is True for verdict in own)
        result[name] = {
            "asked": own[0]["asked"],
            "is": max(measured, default=None),
            "met": met == len(own) if measured else None,
            "met_in": met,
            "of": len(own),
        }
    return result
