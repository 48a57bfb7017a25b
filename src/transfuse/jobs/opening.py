"""The beginning of a job: folder, data, facts, resolved recipe."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from transfuse import data as sources
from transfuse.core import ranks
from transfuse.core.protocols import Reporter, Silent
from transfuse.core.types import DataRequest, DataSet
from transfuse.data import check
from transfuse.engine import parallel, precision
from transfuse.engine.loader import free_memory_bytes, is_labelled
from transfuse.jobs.context import Context, Live
from transfuse.jobs.networks import sizes_asked
from transfuse.jobs.rundir import RunDir, default_out, environment, write_json, write_text
from transfuse.jobs.terms import card_of
from transfuse.recipe.facts import Facts
from transfuse.recipe.load import dump
from transfuse.recipe.resolve import resolve
from transfuse.recipe.schema import DistillRecipe


def begin(
    recipe: DistillRecipe, reporter: Reporter | None, recipe_text: str | None, live: Live | None
) -> tuple[Context, DistillRecipe, DataSet]:
    """Opens and checks the data, resolves the recipe and only then makes the run folder: a refused job leaves nothing behind."""
    device = parallel.start()
    out = ranks.agreed(recipe.out or default_out(recipe.job))  # processes may start in different seconds
    context = Context(RunDir(out), reporter or Silent(), device, live or Live())
    if ranks.rank() == 0:
        context.rundir.refuse_occupied()
    data = open_data_of(recipe, context)
    for warning in check.check(data):
        context.say(warning)
    resolved, reasons = resolve(recipe, facts_of(recipe, data, context, out))
    assert isinstance(resolved, DistillRecipe)
    for line in spoken(reasons, resolved):
        context.reporter.say(line) if ranks.rank() == 0 else None
    if ranks.rank() == 0:
        context.rundir.create()
        write_text(context.rundir.recipe, recipe_text if recipe_text is not None else dump(recipe))
        write_json(context.rundir.env, environment(recipe.seed, describe(device), commit_here()))
        write_json(context.rundir.path / "reasons.json", {"auto": reasons, "notes": context.notes})
        write_text(context.rundir.resolved, dump(resolved))  # last: a folder that has it can be resumed
    ranks.barrier()
    return context, resolved, data


def spoken(reasons: dict[str, str], resolved: DistillRecipe) -> list[str]:
    """One line per `auto` value: key = value, and why. A teacher's training block repeats most of the student's; that is not said twice."""
    values = resolved.model_dump()
    lines = []
    for key, reason in reasons.items():
        parts = key.split(".")
        if "train" in parts[1:] and reasons.get(".".join(parts[parts.index("train") :])) == reason:
            continue
        value = value_at(values, parts)
        shown = f" = {value}" if isinstance(value, (str, int, float, bool)) else ""
        lines.append(f"{key}{shown} ({reason})")
    return lines


def value_at(values: Any, parts: list[str]) -> Any:
    """The value under a dotted key; entries of `objectives` by name, a single teacher as `teacher`; None where there is none."""
    for part in parts:
        if isinstance(values, list):
            entry = next((entry for entry in values if entry["name"] == part), {})
            values = {**entry.get("parameters", {}), **entry}
        elif isinstance(values, dict):
            values = values["teachers"].get("teacher") if part == "teacher" and "teachers" in values else values.get(part)
    return values


def reopen(path: str | Path, reporter: Reporter | None, live: Live | None) -> Context:
    """The context of a run that is resumed."""
    rundir = RunDir(path)
    rundir.open()
    context = Context(rundir, reporter or Silent(), parallel.start(), live or Live())
    reasons = rundir.path / "reasons.json"
    if reasons.exists():
        context.notes += json.loads(reasons.read_text(encoding="utf-8"))["notes"]
    return context


def open_data_of(recipe: DistillRecipe, context: Context) -> DataSet:
    """The recipe's data source (or the live object in its place), opened and split."""
    block = recipe.data
    size = block.size if isinstance(block.size, int) else None
    if size is None and block.source.startswith(("images:", "torchvision:")):
        size = max(sizes_asked({"student": recipe.student, **recipe.teachers}), default=None)
    request = DataRequest(
        unlabelled=block.unlabelled,
        val=block.split.val,
        test=block.split.test,
        split_seed=block.split.seed,
        labels_per_class=block.labels_per_class,
        size=size,
        task=block.task,
        unreadable=block.unreadable,
    )
    data = sources.open_data(context.live.data if context.live.data is not None else block.source, request)
    for note in data.notes:
        context.say(note)
    return data


def facts_of(recipe: DistillRecipe, data: DataSet, context: Context, out: str) -> Facts:
    """What resolving needs to know."""
    extra = len(data.unlabelled) if data.unlabelled is not None else 0
    labelled = int(is_labelled(data.train.labels).sum())
    pool_bytes = sum(getattr(part, "bytes", 0) for part in (data.train, data.unlabelled) if part is not None)
    on_gpu = context.device.type == "cuda"
    return Facts(
        task=data.task,
        modality=data.modality,
        n_train=len(data.train) + extra,
        n_labelled=labelled,
        n_unlabelled=len(data.train) - labelled + extra,
        n_classes=data.outputs,
        input_shape=data.input_shape,
        pool_bytes=pool_bytes,
        free_memory_bytes=torch.cuda.mem_get_info(context.device)[0] if on_gpu else free_memory_bytes(),
        device="cuda" if on_gpu else "cpu",
        bf16_units=precision.has_bf16_units(context.device),
        model_sizes=(max(data.input_shape[1:]),) if data.modality == "image" else (),
        has_cpp_compiler=precision.has_cpp_compiler(),
        teachers=tuple(recipe.teachers),
        tables=tuple(name for name, block in recipe.teachers.items() if block.source.startswith("predictions:")),
        cores=os.cpu_count() or 1,
        out=out,
        live_cards={f"live:{type(objective).__name__}": card_of(objective) for objective in context.live.objectives.values()},
    )


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def commit_here() -> str | None:
    """The git commit of the working directory, for env.json; None outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
