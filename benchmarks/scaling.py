"""How a distillation's cost grows: time, memory and disk against the number of samples, of classes and of views, as a plot.

    python -m benchmarks.scaling [--work DIR]

Every point is two ordinary jobs, each a process of its own: one with an empty cache, whose steps ask the teacher and store, and one by
another seed that finds all answers. Pictures are random (16x16, cost doesn't look at them); a ResNet-8 teaches a small ConvNet, one epoch
per view, so both see each view of each sample once. Validation and test parts have 512 samples at every point: their answers are kept
whole and in fp32 whatever the number of classes, and would else grow with its square.

Memory is a process's largest: resident, in which mapped pages of the cache count that the system can take back at any time, and anonymous,
which is what the job has to have (sampled 50 times a second). Beside it stands how much more that is than at the first point of the axis,
since an interpreter with its libraries takes some hundred MB before any data. Above 4,096 classes the cache keeps the 100 largest logits;
table and plot say where. A point that was measured is kept in DIR and not measured again.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import results

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "scaling.svg"
SIDE, HELD_BACK = 16, 512
SAMPLED_EVERY = 0.02  # seconds between looks at a process's anonymous memory
TRAIN = {"batch_size": 128, "precision": "fp32", "compile": False, "select": "last", "evaluate_every": 1e6}
AXES = {
    "samples": [1_024, 4_096, 16_384, 32_768],
    "classes": [10, 100, 1_000, 4_096, 8_192],
    "views": [1, 4, 16],
}


@dataclass(frozen=True)
class Point:
    """What one job is asked to do; every axis moves one of these and leaves the others."""

    samples: int = 4_096
    classes: int = 10
    views: int = 1


def points() -> dict[str, list[Point]]:
    """Axis -> its points; the axis of classes has as many samples as its last point has classes, so that only classes change."""
    most = AXES["classes"][-1]
    return {
        "samples": [Point(samples=count) for count in AXES["samples"]],
        "classes": [Point(samples=most, classes=count) for count in AXES["classes"]],
        "views": [Point(views=count) for count in AXES["views"]],
    }


class Anonymous:
    """The largest anonymous memory of this process, looked at now and then by a thread; Linux alone tells."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLED_EVERY):
            self.look()

    def look(self) -> None:
        """Once now."""
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        self.peak_mb = max(self.peak_mb, int(line.split()[1]) / 1024)

    def over(self) -> float:
        """Ends the watch: the peak in MB."""
        self._over.set()
        self._thread.join()
        self.look()
        return self.peak_mb


def parts(point: Point) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Pictures and labels to train on, of all classes in equal numbers, and to hold back, of classes that are drawn."""
    generator = np.random.default_rng(0)

    def pictures(count: int) -> np.ndarray:
        return generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)

    train = pictures(point.samples), generator.permutation(np.arange(point.samples) % point.classes)
    return train, (pictures(HELD_BACK), generator.integers(0, point.classes, HELD_BACK))


def job(point: Point, cache: Path, seed: int) -> dict[str, Any]:
    """One distillation in this process: its figures."""
    import torch

    import transfuse
    from transfuse.core.types import ModelRequest
    from transfuse.recipe.load import load

    anonymous = Anonymous()
    train, held_back = parts(point)
    torch.manual_seed(0)
    teacher = transfuse.models.open_model("builtin:resnet8", ModelRequest(outputs=point.classes, input_shape=(3, SIDE, SIDE))).module
    with tempfile.TemporaryDirectory() as folder:
        run = transfuse.distill(
            data={"source": (train, held_back, held_back)},
            teacher=teacher,
            student={"source": "builtin:convnet", "options": {"widths": [8, 16, 32]}},
            train={**TRAIN, "epochs": point.views},
            augment={"crop": 2, "flip": True, "views": point.views},
            cache={"dir": str(cache)},
            control="none",
            samples=False,
            seed=seed,
            out=os.path.join(folder, "run"),
        )
        summary = run.summary
        top_k = load(run.path / "recipe.resolved.yaml").cache.top_k  # type: ignore[attr-defined]
    return {
        "seconds_train": summary["seconds"]["train"],
        "teacher_forwards": summary["teacher_forwards"],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "anonymous_mb": anonymous.over(),
        "kept": "all logits" if top_k is None else f"top {top_k}",
        "cache_mb": sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e6,
    }


def measure(point: Point) -> dict[str, Any]:
    """A cold and a warm job at one point, in processes of their own."""
    cache = Path(tempfile.mkdtemp())
    try:
        cold, warm = (in_a_process(point, cache, seed) for seed in (0, 1))
    finally:
        shutil.rmtree(cache)
    passes = point.samples * point.views
    return {
        **asdict(point),
        "kept": warm["kept"],
        "cold_seconds": round(cold["seconds_train"], 2),
        "warm_seconds": round(warm["seconds_train"], 2),
        "cold_ms_per_sample": round(1e3 * cold["seconds_train"] / passes, 4),
        "warm_ms_per_sample": round(1e3 * warm["seconds_train"] / passes, 4),
        "teacher_forwards": [cold["teacher_forwards"], warm["teacher_forwards"]],
        "cold_peak_mb": round(cold["peak_mb"]),
        "warm_peak_mb": round(warm["peak_mb"]),
        "cold_anonymous_mb": round(cold["anonymous_mb"]),
        "warm_anonymous_mb": round(warm["anonymous_mb"]),
        "data_mb": round(point.samples * SIDE * SIDE * 3 / 1e6, 1),
        "cache_mb": round(warm["cache_mb"], 2),
    }


def in_a_process(point: Point, cache: Path, seed: int) -> dict[str, Any]:
    """The figures of one job that has its memory for itself."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--job", json.dumps([asdict(point), str(cache), seed])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{point} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def over_the_smallest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of an axis, with how much more memory each took than the first one."""
    figures = ("cold_peak_mb", "warm_peak_mb", "cold_anonymous_mb", "warm_anonymous_mb")
    return [{**row, "over_the_smallest": {figure: row[figure] - rows[0][figure] for figure in figures}} for row in rows]


def exponent(rows: list[dict[str, Any]], axis: str, figure: str) -> float:
    """The slope of log figure over log axis between the two largest points of one kind of answers: 1 is growth in proportion, 0 none."""
    alike = [row for row in rows if row["kept"] == rows[0]["kept"]]
    one, two = alike[-2:]
    return round(float(np.log(two[figure] / one[figure]) / np.log(two[axis] / one[axis])), 2)


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Three axes side by side, time above and memory below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(10.5, 7), layout="constrained")
    panels = figure.subplots(2, 3, sharex="col", sharey="row")
    for column, (axis, rows) in enumerate(found.items()):
        across = [row[axis] for row in rows]
        above, below = panels[0][column], panels[1][column]
        above.plot(across, [row["cold_seconds"] for row in rows], "o-", color="#c2410c", label="first student (fills the cache)")
        above.plot(across, [row["warm_seconds"] for row in rows], "o-", color="#0f766e", label="second student (finds it)")
        below.plot(across, [row["warm_peak_mb"] for row in rows], "o-", color="#0f766e", label="largest resident memory")
        below.plot(across, [row["warm_anonymous_mb"] for row in rows], "o--", color="#0f766e", label="largest anonymous memory")
        below.plot(across, [row["cache_mb"] for row in rows], "s--", color="#6b21a8", label="cache on disk")
        below.plot(across, [row["data_mb"] for row in rows], "^:", color="#64748b", label="the pictures themselves")
        switched = [(one, two) for one, two in pairwise(rows) if one["kept"] != two["kept"]]
        for one, two in switched:
            for panel in (above, below):
                panel.axvline((one[axis] * two[axis]) ** 0.5, color="#64748b", linewidth=0.8, linestyle=":")
            at = ((one[axis] * two[axis]) ** 0.5, 0.03)
            below.annotate(f"{two['kept']} kept → ", at, xycoords=("data", "axes fraction"), fontsize=7, ha="right")
        for panel in (above, below):
            panel.set_xscale("log", base=2 if axis == "views" else 10)
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(StrMethodFormatter(""))
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        fixed = {name: value for name, value in asdict(points()[axis][0]).items() if name != axis}
        counted = [f"{value:,} {name if value > 1 else name.removesuffix('s')}" for name, value in fixed.items()]
        above.set_title("at " + ", ".join(counted), fontsize=10)
        below.set_xlabel(f"number of {axis}")
    panels[0][0].set_ylabel("training, seconds")
    panels[1][0].set_ylabel("MB")
    shown = [line for panel in (panels[0][0], panels[1][0]) for line in panel.get_lines()]
    figure.legend(handles=shown, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), default=None, help="keeps measured points")
@click.option("--job", "asked", default=None, hidden=True)
def main(work: Path | None, asked: str | None) -> None:
    """Measures what is missing, writes results/scaling.json and draws the plot."""
    if asked is not None:
        values, cache, seed = json.loads(asked)
        click.echo(json.dumps(job(Point(**values), Path(cache), seed)))
        return
    kept = work / "points.json" if work else None
    known: dict[str, Any] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    found: dict[str, list[dict[str, Any]]] = {}
    for axis, wanted in points().items():
        found[axis] = []
        for point in wanted:
            name = json.dumps(asdict(point))
            if name not in known:
                known[name] = measure(point)
                click.echo(f"{axis}: {known[name]}")
                if kept:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_text(json.dumps(known, indent=2))
            found[axis].append(known[name])
    found = {axis: over_the_smallest(rows) for axis, rows in found.items()}
    figures = ("cold_seconds", "warm_seconds", "warm_peak_mb", "warm_anonymous_mb", "cache_mb")
    slopes = {axis: {figure: exponent(rows, axis, figure) for figure in figures} for axis, rows in found.items()}
    click.echo(results.write("scaling", {"exponents_between_the_last_two_points_of_one_kind": slopes, "points": found}))
    draw(found, FIGURE)


if __name__ == "__main__":
    main()
