"""A distillation step of ours against torchdistill, a loop from a tutorial and a loop tuned by hand, alternating in one run.

    pip install -c constraints.txt -e ".[bench]"
    python -m benchmarks.versus_peers --train               everybody to the end under the middle teacher: accuracies
    python -m benchmarks.versus_peers                       blocks of steps under all three teachers, on an otherwise quiet machine: times
    python -m benchmarks.versus_peers --draw                the plots from the result files

Everybody trains the same ResNet-20 on the same 10,000 pictures of CIFAR-10 with the same loss, schedule, augmentation and number of
threads, each in a process of its own (`peers/contenders.py`) that runs while all others wait (`peers/turns.py`). Who is tuned computes in
bf16 where the processor has units for it, and in fp32 elsewhere; then the result file is versus_peers_fp32.json. The first block of each
is left out: compilation and worker start-up are in it. Ratios are taken between blocks of the same round. Who is compiled is held against
the compiled student. With `--train` the accuracies on the 2,000 held-back pictures are compared, too; nothing is chosen by them.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import results
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.setting import BATCH, Setting, fast_format, write_large
from benchmarks.peers.turns import Contender, ratio

MODULE = "benchmarks.peers.contenders"
TITLES = {"small": "ResNet-20", "middle": "ResNet-56", "large": "ResNet-32x4"}
BASE, STEP_OF_STUDENT, COMPILED = "torchdistill", "student alone", "compiled"
TRAINED = "middle"  # the teacher under which everybody trains to the end
EPOCH = 10_000 / BATCH
FILES = {"bf16": "versus_peers", "fp32": "versus_peers_fp32"}
FIGURES = Path(__file__).parents[1] / "docs" / "figures"


def fill_cache(setting: Setting) -> None:
    """One run of ours that nobody times: its answers are what the warm contenders find."""
    command = ["transfuse, cold cache", json.dumps(asdict(setting))]
    warm = Path(setting.folder) / "warm"
    contender = Contender("filling", MODULE, command)
    while contender.turn():
        pass
    made = next(Path(setting.folder).glob("cold-*"))
    made.rename(warm)


def take_turns(setting: Setting, names: list[str], rounds: int | None) -> dict[str, Contender]:
    """All contenders, one block each in turn; to the end, or for so many rounds."""
    contenders = {name: Contender(name, MODULE, [name, json.dumps(asdict(setting))]) for name in names}
    done = 0
    going = True
    while going and (rounds is None or done <= rounds):
        going = False
        for contender in contenders.values():
            going = contender.turn() or going
        done += 1
        last = ", ".join(f"{name} {contender.blocks[-1]:.0f}" for name, contender in contenders.items() if contender.blocks)
        click.echo(f"{setting.teacher} round {done}: {last}")
    for contender in contenders.values():
        contender.taken = contender.memory()
        if contender.result is None:
            contender.stop()
    return contenders


def alone(name: str) -> str:
    """The student alone under the compile setting of a contender."""
    return f"{STEP_OF_STUDENT}, {COMPILED}" if name.endswith(COMPILED) else STEP_OF_STUDENT


def table(contenders: dict[str, Contender]) -> list[dict[str, Any]]:
    """One row a contender: ms a step, ratios to torchdistill and to the student alone (compiled to compiled), largest memory.

    A ratio is null where its other side did not run (`--only`).
    """
    timed = {name: contender.blocks[1:] for name, contender in contenders.items()}
    rows = []
    for name, blocks in timed.items():
        median = statistics.median(blocks)
        row: dict[str, Any] = {"name": name, "ms_per_step": round(median, 1), "spread_ms": [round(min(blocks), 1), round(max(blocks), 1)]}
        row["blocks"], row["epochs_per_minute"] = len(blocks), round(60_000 / (median * EPOCH), 2)
        row["times_torchdistills_speed"] = ratio(timed[BASE], blocks) if BASE in timed else None
        row["in_steps_of_the_student_alone"] = ratio(blocks, timed[alone(name)]) if alone(name) in timed else None
        row |= contenders[name].taken
        rows.append(row)
    return rows


def ends(contenders: dict[str, Contender], earlier: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a contender that trained to the end: accuracy and largest memory; rows of those that did not run now are kept."""
    now = {name: {"name": name, **(contender.result or {})} for name, contender in contenders.items()}
    known = {**{row["name"]: row for row in earlier}, **now}
    return [known[name] for name in CONTENDERS if name in known]


def draw(found: dict[str, Any], path: Path) -> None:
    """Bars of the median time per step, one panel a teacher; whiskers are the smallest and the largest block."""
    from matplotlib.figure import Figure

    found = {teacher: found[teacher] for teacher in TITLES if teacher in found}
    figure = Figure(figsize=(3 + 4 * len(found), 3.6), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, (teacher, entry) in zip(panels, found.items(), strict=True):
        for place, row in enumerate(reversed(entry["rows"])):
            colour = "#0f766e" if row["name"].startswith("transfuse") else "#94a3b8"
            low, high = row["spread_ms"]
            median = row["ms_per_step"]
            panel.barh(place, median, color=colour, height=0.7)
            panel.plot([low, high], [place, place], color="#1f2937", linewidth=1)
            panel.text(high, place, f"  {median:.0f}", va="center", fontsize=8)
        panel.set_yticks(range(len(entry["rows"])), [row["name"] for row in reversed(entry["rows"])], fontsize=8)
        panel.set_title(f"{teacher} teacher: {TITLES[teacher]}", fontsize=9)
        panel.set_xlabel("ms per optimiser step", fontsize=8)
        panel.margins(x=0.14)
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


@click.command()
@click.option("--teachers", default="small,middle,large", show_default=True, help="which of them, with commas between")
@click.option("--train", "to_the_end", is_flag=True, help="train to the end under the middle teacher instead of timing blocks")
@click.option("--epochs", default=8, show_default=True, help="of that training")
@click.option("--rounds", default=6, show_default=True, help="of timed blocks")
@click.option("--block", default=20, show_default=True, help="optimiser steps a turn")
@click.option("--only", default=None, help="names of contenders, with '/' between; with --train their rows are replaced")
@click.option("--draw", "only_draw", is_flag=True, help="draw the plots from the result files")
def main(teachers: str, to_the_end: bool, epochs: int, rounds: int, block: int, only: str | None, only_draw: bool) -> None:
    """Runs the comparison and writes its result file."""
    names = only.split("/") if only else list(CONTENDERS)
    if only_draw:
        for file in FILES.values():
            if (results.FOLDER / f"{file}.json").exists():
                draw(json.loads((results.FOLDER / f"{file}.json").read_text())["timed"], FIGURES / f"{file}.svg")
        return
    earlier = results.FOLDER / f"{FILES[fast_format()]}.json"
    kept = json.loads(earlier.read_text()) if earlier.exists() else {}
    found = {part: kept.get(part, {}) for part in ("timed", "trained")}
    for teacher in [TRAINED] if to_the_end else teachers.split(","):
        with tempfile.TemporaryDirectory() as folder:
            steps = round(epochs * EPOCH) if to_the_end else block * (rounds + 2)
            setting = Setting(teacher, steps, torch.get_num_threads(), block, seed=0, folder=folder)
            if teacher == "large":
                write_large(folder)
            fill_cache(setting)
            load = os.getloadavg()[0]
            contenders = take_turns(setting, names, None if to_the_end else rounds)
            if to_the_end:
                found["trained"] = {
                    **results.origin(),
                    "teacher": teacher,
                    "steps": steps,
                    "seed": 0,
                    "rows": ends(contenders, found["trained"].get("rows", [])),
                }
            else:
                entry = {"steps": steps, "block": block, "threads": setting.threads, "load_before_and_after": [load, os.getloadavg()[0]]}
                found["timed"][teacher] = {**results.origin(), **entry, "rows": table(contenders)}
            shutil.rmtree(folder, ignore_errors=True)
            Path(folder).mkdir()
        if not only or to_the_end:
            click.echo(results.write(FILES[fast_format()], found))


if __name__ == "__main__":
    main()
