"""What a finite number of views costs: accuracy at 1, 2, 4, 8, 16, 32 views and fresh ones, on a short and on a long schedule.

    nice -n 19 python -m benchmarks.views_study --work DIR     goes on where it was
    python -m benchmarks.views_study --draw                 the plot from the result file

A published ResNet-20 teaches a plain ConvNet on 2,000 pictures of CIFAR-10 with random crops and flips. A run is an ordinary job; its
figures are kept in DIR when it ends, and a study that is started again goes on with the runs that are missing. Every run has the same
settings but for `augment.views`, the number of epochs and the seed. With as many views as epochs no view comes twice: these are fresh
views, remembered so that the five seeds share them; one run with `views: fresh` and a live teacher stands beside them. More views than
epochs give the same run as `fresh` and are not run again. The default of `augment.views` is chosen on 5,000 pictures that the
student does not train on (4,000 of the training part and one half of the held-back ones); the other half is only reported.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy import stats

import transfuse
from benchmarks import data, real_weights, results

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "views_study.svg"
VIEWS = (1, 2, 4, 8, 16, 32)
EPOCHS = {"short": 8, "long": 64}
SEEDS = range(5)
POOL, CHOOSING = 2000, 4000
STUDENT = {"source": "builtin:convnet", "options": {"widths": [16, 32, 64]}}
TRAIN = {"batch_size": 128, "optimizer": {"adamw": {"lr": 0.003}}, "precision": "fp32", "select": "last", "evaluate_every": 1000}
AUGMENT = {"crop": 4, "flip": True}


def halves(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the held-back pictures for choosing and for reporting: stratified, seed 0."""
    generator = np.random.default_rng(0)
    choosing, reporting = [], []
    for label in np.unique(labels):
        places = generator.permutation(np.flatnonzero(labels == label))
        choosing.append(places[: len(places) // 2])
        reporting.append(places[len(places) // 2 :])
    return np.sort(np.concatenate(choosing)), np.sort(np.concatenate(reporting))


def prepare(work: Path) -> tuple[str, str]:
    """Writes the data and the teacher's weights into the folder; returns their source strings."""
    arrays, weights = work / "cifar10.npz", work / "akamaster_resnet20.safetensors"
    if not arrays.exists():
        cifar = data.cifar10()
        choosing, reporting = halves(cifar["y_test"])
        learnt, unseen = slice(0, POOL), slice(POOL, POOL + CHOOSING)
        np.savez(
            arrays,
            x_train=cifar["x_train"][learnt],
            y_train=cifar["y_train"][learnt],
            x_val=np.concatenate([cifar["x_train"][unseen], cifar["x_test"][choosing]]),
            y_val=np.concatenate([cifar["y_train"][unseen], cifar["y_test"][choosing]]),
            x_test=cifar["x_test"][reporting],
            y_test=cifar["y_test"][reporting],
            classes=cifar["classes"],
        )
    if not weights.exists():
        real_weights.convert("akamaster_resnet20", data.weights("."), work)
    return f"arrays:{arrays}", f"file:{weights}"


def measure(work: Path, views: int | str, epochs: int, seed: int) -> dict[str, Any]:
    """One run's figures."""
    pictures, teacher = prepare(work)
    out = work / "run"
    shutil.rmtree(out, ignore_errors=True)
    run = transfuse.distill(
        data=pictures,
        teacher=teacher,
        student=STUDENT,
        train={**TRAIN, "epochs": epochs},
        augment={**AUGMENT, "views": views},
        cache={"dir": str(work / "cache")},
        control="none",
        samples=False,
        seed=seed,
        out=str(out),
    )
    kept = np.load(out / "predictions" / "student.npz")
    correct = {part: kept[f"{part}outputs"].argmax(1) == kept[f"{part}labels"] for part in ("val_", "")}  # of the test part without prefix
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    loss = [line["loss"] for line in lines if "loss" in line][-1]
    figures = {"choosing": correct["val_"].mean(), "reporting": correct[""].mean(), "loss": loss}
    return {
        **{name: round(float(value), 5) for name, value in figures.items()},
        "teacher_forwards": run.summary["teacher_forwards"],
        "seconds": round(run.summary["seconds"]["train"], 1),
    }


def planned() -> dict[str, tuple[int | str, int, int]]:
    """Name -> views, epochs and seed of every run; those of one seed together, so that a study that is cut short compares."""
    found: dict[str, tuple[int | str, int, int]] = {}
    for seed, (schedule, epochs) in itertools.product(SEEDS, EPOCHS.items()):
        for views in [*(views for views in VIEWS if views < epochs), epochs]:
            found[f"{schedule}/{'fresh' if views == epochs else views}/{seed}"] = views, epochs, seed
    found["long/live/0"] = "fresh", EPOCHS["long"], 0
    return found


def against_fresh(rows: dict[str, list[float]]) -> dict[str, dict[str, float | None]]:
    """Per number of views: mean difference to fresh views over the seeds, with its 95 % t interval (the seeds are paired)."""
    found = {}
    for views, values in rows.items():
        if views != "fresh":
            differences = np.array(values) - np.array(rows["fresh"])
            mean, spread = differences.mean(), differences.std(ddof=1)
            half = stats.t.ppf(0.975, len(differences) - 1) * spread / np.sqrt(len(differences))
            found[views] = {"mean": round(float(mean), 4), "low": round(float(mean - half), 4), "high": round(float(mean + half), 4)}
    return found


def summarise(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means, spreads and differences per schedule."""
    found: dict[str, Any] = {}
    for schedule in EPOCHS:
        part: dict[str, Any] = {}
        for figure in ("choosing", "reporting", "loss"):
            arms = [*(str(views) for views in VIEWS if views < EPOCHS[schedule]), "fresh"]
            rows = {views: [runs[f"{schedule}/{views}/{seed}"][figure] for seed in SEEDS] for views in arms}
            part[figure] = {
                views: {"mean": round(statistics.mean(values), 4), "std": round(statistics.stdev(values), 4)}
                for views, values in rows.items()
            }
            if figure != "loss":
                part[f"{figure}, minus fresh"] = against_fresh(rows)
        found[schedule] = part
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    """Points lost to fresh views against the number of views, one panel a schedule, on both parts of the pictures; bars are intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for panel, (schedule, epochs) in zip(figure.subplots(1, 2, sharey=True), EPOCHS.items(), strict=True):
        arms = [views for views in VIEWS if views < epochs]
        for part, colour, shift in (("choosing", "#0f766e", -0.06), ("reporting", "#94a3b8", 0.06)):
            rows = [found[schedule][f"{part}, minus fresh"][str(views)] for views in arms]
            means = [100 * row["mean"] for row in rows]
            spans = [[100 * (row["mean"] - row["low"]) for row in rows], [100 * (row["high"] - row["mean"]) for row in rows]]
            places = [place + shift for place in range(len(arms))]
            panel.errorbar(
                places, means, yerr=spans, fmt="o-", color=colour, linewidth=1, capsize=3, markersize=4, label=f"{part} pictures"
            )
        panel.axhline(0, color="#1f2937", linewidth=0.8)
        panel.set_xticks(range(len(arms)), [str(views) for views in arms])
        panel.set_title(f"{schedule}: {epochs} epochs", fontsize=10)
        panel.set_xlabel("views of each sample", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False, loc="lower right")
    figure.axes[0].set_ylabel("points beside fresh views\n(5 seeds, 95 % interval)", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


@click.command(help=__doc__)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("runs/views_study"), help="folder for what the study keeps while it runs"
)
@click.option("--draw", "only_draw", is_flag=True, help="draw the plot from the result file")
def main(work: Path, only_draw: bool) -> None:
    if only_draw:
        draw(json.loads((results.FOLDER / "views_study.json").read_text()), FIGURE)
        return
    work.mkdir(parents=True, exist_ok=True)
    ledger = work / "runs.json"
    runs: dict[str, dict[str, Any]] = json.loads(ledger.read_text()) if ledger.exists() else {}
    for name, (views, epochs, seed) in planned().items():
        if name not in runs:
            runs[name] = measure(work, views, epochs, seed)
            ledger.write_text(json.dumps(runs, indent=1))
            click.echo(f"{name}: {runs[name]}")
    settings = {"pool": POOL, "epochs": EPOCHS, "student": STUDENT, "train": TRAIN, "augment": AUGMENT, "teacher": "akamaster ResNet-20"}
    path = results.write("views_study", {"settings": settings, **summarise(runs), "runs": runs})
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
