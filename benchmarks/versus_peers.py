"""A distillation step of ours against torchdistill, a loop from a tutorial and a loop tuned by hand, alternating in one run.

    pip install -c constraints.txt -e ".[bench]"
    python -m benchmarks.versus_peers                       all three teachers
    python -m benchmarks.versus_peers --teachers middle

Everybody trains the same ResNet-20 on the same 10,000 pictures of CIFAR-10 with the same loss, schedule, augmentation and number of
threads, each in a process of its own (`peers/contenders.py`) that runs while all others wait (`peers/turns.py`). The first block of each
is left out: compilation and worker start-up are in it. Ratios are taken between blocks of the same round. Under the middle teacher
everybody trains to the end, and the accuracies on the 2,000 held-back pictures are compared; nothing is chosen by them.
"""

from __future__ import annotations

import json
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
from benchmarks.peers.setting import BATCH, Setting
from benchmarks.peers.turns import Contender

BASE, STEP_OF_STUDENT = "torchdistill", "student alone"
TRAINED = "middle"  # the teacher under which everybody trains to the end
EPOCH = 10_000 / BATCH


def fill_cache(setting: Setting) -> None:
    """One run of ours that nobody times: its answers are what the warm contenders find."""
    command = ["transfuse, cold cache", json.dumps(asdict(setting))]
    warm = Path(setting.folder) / "warm"
    contender = Contender("filling", command)
    while contender.turn():
        pass
    made = next(Path(setting.folder).glob("cold-*"))
    made.rename(warm)


def take_turns(setting: Setting, names: list[str], rounds: int | None) -> dict[str, Contender]:
    """All contenders, one block each in turn; to the end, or for so many rounds."""
    contenders = {name: Contender(name, [name, json.dumps(asdict(setting))]) for name in names}
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
        if contender.result is None:
            contender.stop()
    return contenders


def table(contenders: dict[str, Contender]) -> list[dict[str, Any]]:
    """One row a contender: ms a step, ratios to torchdistill and to the student alone, memory, accuracy."""
    timed = {name: contender.blocks[1:] for name, contender in contenders.items()}
    rows = []
    for name, blocks in timed.items():
        median = statistics.median(blocks)
        row: dict[str, Any] = {"name": name, "ms_per_step": round(median, 1), "spread_ms": [round(min(blocks), 1), round(max(blocks), 1)]}
        row["blocks"], row["epochs_per_minute"] = len(blocks), round(60_000 / (median * EPOCH), 2)
        row["times_torchdistills_speed"] = ratio(timed[BASE], blocks)
        row["in_steps_of_the_student_alone"] = ratio(blocks, timed[STEP_OF_STUDENT])
        rows.append({**row, **(contenders[name].result or {})})
    return rows


def ratio(above: list[float], below: list[float]) -> dict[str, Any]:
    """Median and quartiles of the ratio over rounds."""
    found = sorted(one / two for one, two in zip(above, below, strict=False))
    return {
        "median": round(statistics.median(found), 3),
        "quartiles": [round(found[len(found) // 4], 3), round(found[3 * len(found) // 4], 3)],
    }


@click.command()
@click.option("--teachers", default="small,middle,large", show_default=True, help="which of them, with commas between")
@click.option("--epochs", default=8, show_default=True, help="of the training under the middle teacher")
@click.option("--rounds", default=6, show_default=True, help="of timed blocks under the other teachers")
@click.option("--block", default=20, show_default=True, help="optimiser steps a turn")
@click.option("--only", default=None, help="names of contenders, with commas between '/' signs")
def main(teachers: str, epochs: int, rounds: int, block: int, only: str | None) -> None:
    """Runs the comparison and writes results/versus_peers.json."""
    names = only.split("/") if only else list(CONTENDERS)
    earlier = results.FOLDER / "versus_peers.json"
    found = json.loads(earlier.read_text())["teachers"] if earlier.exists() else {}
    for teacher in teachers.split(","):
        with tempfile.TemporaryDirectory() as folder:
            complete = teacher == TRAINED
            steps = round(epochs * EPOCH) if complete else block * (rounds + 2)
            setting = Setting(teacher, steps, torch.get_num_threads(), block, seed=0, folder=folder)
            fill_cache(setting)
            contenders = take_turns(setting, names, None if complete else rounds)
            found[teacher] = {"steps": steps, "block": block, "threads": setting.threads, "rows": table(contenders)}
            shutil.rmtree(folder, ignore_errors=True)
            Path(folder).mkdir()
        if not only:
            click.echo(results.write("versus_peers", {"teachers": found}))


if __name__ == "__main__":
    main()
