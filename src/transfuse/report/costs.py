"""What models cost beyond the main table: multiply-accumulates, memory, latency and throughput at several batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfuse.report import words
from transfuse.report.fusion import Table

_BATCHES = (1, 8, 64)
_MOST_COLUMNS = 5  # models side by side; more get a row each
_IN_MAIN_TABLE = ("parameters", "MACs", "size", "samples per second, batch 1", "samples per second, batch 8")  # or told by the latency
_MOST_LEFT_OUT = 6  # operators that are named
NOTE = (
    "MACs: multiply-accumulates of one sample. Memory: the weights as they are loaded, and the most bytes of tensors at one time in a "
    "pass at batch 1. Latency: p50, and p95 in brackets."
)


def tables(models: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """One table of all models that are networks; none where nothing was measured.

    Args:
        models: name -> block of the summary.
    """
    measured = {name: block for name, block in models.items() if block.get("latency_ms") or block.get("macs")}
    figures = {name: figures_of(block) for name, block in measured.items()}
    names = list(dict.fromkeys(name for found in figures.values() for name in found))
    if not names:
        return []
    if len(measured) <= _MOST_COLUMNS:
        rows = [{"cost": name, **{model: found.get(name, "") for model, found in figures.items()}} for name in names]
    else:
        names = [name for name in names if name not in _IN_MAIN_TABLE]
        rows = [{"model": model, **{name: found.get(name, "") for name in names}} for model, found in figures.items()]
    return [Table("Cost", " ".join([NOTE, *_left_out(measured)]), rows)]


def figures_of(block: Mapping[str, Any]) -> dict[str, str]:
    """Figure -> value, ready to show; those that weren't measured are absent."""
    memory = block.get("memory") or {}
    found = {
        "parameters": words.count(block.get("parameters")),
        "MACs": words.quantity(block.get("macs")) + ("*" if block.get("macs_leave_out") else ""),
        "size": words.size(block.get("bytes")),
        "weights in memory": words.size(memory.get("weights")),
        "peak memory": words.size(memory.get("peak")),
    }
    timed = {batch: (block.get("latency_ms") or {}).get(f"batch_{batch}") or {} for batch in _BATCHES}
    for batch, times in timed.items():
        if times.get("p50") is not None:
            tail = f" ({times['p95']:.3g})" if times.get("p95") is not None else ""
            found[f"latency, batch {batch}"] = f"{words.milliseconds(times['p50'])}{tail}"
    for batch, times in timed.items():
        if times.get("samples_per_second") is not None:
            found[f"samples per second, batch {batch}"] = words.quantity(times["samples_per_second"])
    return {name: value for name, value in found.items() if value}


def _left_out(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """* Not in the MACs: softmax (2 calls)."""
    calls: dict[str, int] = {}
    for block in models.values():
        calls |= block.get("macs_leave_out") or {}
    if not calls:
        return []
    named = [f"{name} ({count} call{'' if count == 1 else 's'})" for name, count in list(calls.items())[:_MOST_LEFT_OUT]]
    more = f" and {len(calls) - _MOST_LEFT_OUT} more operators" if len(calls) > _MOST_LEFT_OUT else ""
    return [f"* The MACs leave out operators that compute and can't be counted: {', '.join(named)}{more}."]
