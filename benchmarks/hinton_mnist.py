"""Hinton, Vinyals and Dean (2015, https://arxiv.org/abs/1503.02531), section 3, on MNIST: test errors of 10,000.

    python -m benchmarks.hinton_mnist --out FOLDER

The paper: a net of 2 x 1200 units with dropout, weight constraints and jittered pictures makes 67 errors, one of 2 x 800 without any of
them 146, and the same one taught by the large net at temperature 20 makes 74. With no 3 in the transfer set it makes 206 errors, and 109
once the bias of class 3 is corrected.

Each training is a job of its own under FOLDER, so an interrupted benchmark goes on where it was. The settings below were chosen with
54,000 pictures to train on and 6,000 of the training pictures to look at (seed 100; what was tried stands in the result file); then each
seed trains on 59,000, keeps its last weights, and the test pictures are looked at once. The bias of class 3 is chosen on the other 1,000
training pictures without their labels: the one with which the student most often says what its teacher says.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import click
import numpy as np

import transfuse
from benchmarks import data, results

LARGE = {"widths": [1200, 1200], "dropout": [0.1, 0.3], "max_norm": 3.0}
SMALL = {"widths": [800, 800]}
TEMPERATURE = 20.0
HELD_OUT = 1_000 / 60_000
LARGE_TRAINING = {"epochs": 100, "batch_size": 512, "optimizer": {"adamw": {"lr": 0.002, "weight_decay": 0}}}
SMALL_TRAINING = {"epochs": 60, "batch_size": 512, "optimizer": {"adamw": {"lr": 0.002, "weight_decay": 0}}, "ema": 0.998}
PAPER = {"large": 67, "small": 146, "distilled": 74, "no 3s": 206, "no 3s, bias corrected": 109}
TRIED = "hinton_mnist_choices.json"


def job(out: Path, **recipe: Any) -> Any:
    """A run that is made, finished, or there already."""
    if (out / "summary.json").exists():
        return transfuse.Run(out)
    if (out / "recipe.resolved.yaml").exists():
        return transfuse.resume(out)
    return transfuse.distill(out=out, samples=False, cache={"dir": str(out.parent / "cache")}, **recipe)


def training(settings: dict[str, Any]) -> dict[str, Any]:
    """The recipe's train block: the last weights count, so the held-out pictures choose nothing."""
    return {**settings, "select": "last", "evaluate_every": max(1, settings["epochs"] // 10), "precision": "auto"}


def large_net(out: Path, seed: int, val: float, options: dict[str, Any], settings: dict[str, Any]) -> Any:
    """The large net: labels, dropout, weight constraints, pictures moved by up to two pixels."""
    return job(
        out,
        data={"source": f"idx:{data.mnist_folder()}", "split": {"val": val, "seed": 0}},
        student={"source": "builtin:mlp", "options": options},
        objectives=["cross_entropy"],
        train=training(settings),
        augment={"crop": 2, "views": "fresh"},
        control="none",
        seed=seed,
    )


def small_net(out: Path, seed: int, val: float, teacher: Path, settings: dict[str, Any]) -> Any:
    """The small net with soft targets; its control is the small net without."""
    return job(
        out,
        data={"source": f"idx:{data.mnist_folder()}", "split": {"val": val, "seed": 0}},
        teacher=f"run:{teacher}",
        student={"source": "builtin:mlp", "options": SMALL},
        objectives=[{"kd": {"weight": 1.0, "temperature": TEMPERATURE}}],
        train=training(settings),
        control="train",
        seed=seed,
    )


def small_net_on_views(out: Path, seed: int, val: float, teacher: Path, settings: dict[str, Any]) -> Any:
    """Beyond the paper: the small net on soft targets for 16 moved views of each picture, each of which the teacher answers once."""
    return job(
        out,
        data={"source": f"idx:{data.mnist_folder()}", "split": {"val": val, "seed": 0}},
        teacher=f"run:{teacher}",
        student={"source": "builtin:mlp", "options": SMALL},
        objectives=[{"kd": {"weight": 1.0, "temperature": TEMPERATURE}}],
        train=training(settings),
        augment={"crop": 2, "views": 16},
        control="none",
        seed=seed,
    )


def without_threes(out: Path, seed: int, teacher: Path, settings: dict[str, Any]) -> Any:
    """The small net on soft targets alone, no 3 among the pictures that it learns from."""
    return job(
        out,
        data={"source": f"arrays:{write_without_threes(out.parent)}"},
        teacher=f"run:{teacher}",
        student={"source": "builtin:mlp", "options": SMALL},
        objectives=[{"kd": {"weight": 1.0, "temperature": TEMPERATURE}}],
        train=training(settings),
        control="none",
        seed=seed,
    )


def write_without_threes(folder: Path) -> Path:
    """MNIST in the split of the other runs, less the 3s of its training part; validation and test keep theirs."""
    path = folder / "no_threes.npz"
    if not path.exists():
        from transfuse.core.types import DataRequest
        from transfuse.data import open_data

        opened = open_data(f"idx:{data.mnist_folder()}", DataRequest(val=HELD_OUT, split_seed=0))
        arrays: dict[str, np.ndarray] = {"classes": np.array(opened.classes)}
        for name, part in (("train", opened.train), ("val", opened.val), ("test", opened.test)):
            labels = part.labels.numpy()
            kept = np.flatnonzero((labels != 3) | (name != "train"))
            arrays |= {f"x_{name}": part.raw(kept.tolist()).numpy(), f"y_{name}": labels[kept], f"ids_{name}": part.ids[kept]}
        np.savez(path, allow_pickle=False, **arrays)
    return path


def errors(run: Any, model: str = "student", part: str = "", shift: float = 0.0) -> int:
    """How many of a part's pictures a run's model gets wrong, with class 3 raised by `shift`; "val_" is the held-out part."""
    kept = np.load(run.path / "predictions" / f"{model}.npz")
    return int((shifted(kept[f"{part}outputs"], shift) != kept[f"{part}labels"]).sum())


def shifted(logits: np.ndarray, shift: float) -> np.ndarray:
    """Decisions with the logit of class 3 raised."""
    return (logits + shift * np.eye(10, dtype=logits.dtype)[3]).argmax(1)


def bias_of_three(run: Any) -> float:
    """The shift with which student and teacher agree most often on held-out pictures, whose labels are not looked at.

    Agreement is flat between decisions, so the middle of the best stretch is taken.
    """
    predictions = run.path / "predictions"
    student = np.load(predictions / "student.npz")["val_outputs"]
    teacher = np.load(predictions / "teacher.npz")["val_outputs"].argmax(1)
    shifts = np.arange(0.0, 20.0, 0.05)
    agreement = np.array([(shifted(student, shift) == teacher).mean() for shift in shifts])
    best = np.flatnonzero(agreement == agreement.max())
    return float(shifts[best].mean())


def one_seed(out: Path, seed: int) -> dict[str, float]:
    """Test errors of all nets of one seed."""
    large = large_net(out / f"large-{seed}", seed, HELD_OUT, LARGE, LARGE_TRAINING)
    small = small_net(out / f"small-{seed}", seed, HELD_OUT, large.path, SMALL_TRAINING)
    omitted = without_threes(out / f"omitted-{seed}", seed, large.path, SMALL_TRAINING)
    views = small_net_on_views(out / f"views-{seed}", seed, HELD_OUT, large.path, SMALL_TRAINING)
    shift = bias_of_three(omitted)
    kept = np.load(omitted.path / "predictions" / "student.npz")
    threes = kept["labels"] == 3
    return {
        "large": errors(large),
        "small": errors(small, "control"),
        "distilled": errors(small),
        "distilled on 16 moved views": errors(views),
        "no 3s": errors(omitted),
        "no 3s, bias corrected": errors(omitted, shift=shift),
        "bias of 3": round(shift, 2),
        "errors on the 1,010 threes": int((kept["outputs"][threes].argmax(1) != 3).sum()),
        "the same, bias corrected": int((shifted(kept["outputs"][threes], shift) != 3).sum()),
    }


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/hinton_mnist"), show_default=True, help="where the runs lie")
@click.option("--seeds", default=3, show_default=True)
def main(out: Path, seeds: int) -> None:
    """Runs what is missing and writes results/hinton_mnist.json."""
    out.mkdir(parents=True, exist_ok=True)
    found = {}
    for seed in range(seeds):
        found[str(seed)] = one_seed(out, seed)
        click.echo(f"seed {seed}: {found[str(seed)]}")
    summary = {
        name: {
            "paper": PAPER.get(name),
            "mean": round(statistics.mean(row[name] for row in found.values()), 2),
            "std": round(statistics.stdev(row[name] for row in found.values()), 2) if seeds > 1 else None,
        }
        for name in next(iter(found.values()))
    }
    choices = results.FOLDER / TRIED
    made = {json.loads((out / f"small-{seed}" / "env.json").read_text())["commit"] for seed in range(seeds)}
    figures = {
        "runs made at commit": sorted(str(commit) for commit in made),
        "test errors of 10,000": summary,
        "by seed": found,
        "settings": {"large": {**LARGE, **LARGE_TRAINING}, "small": {**SMALL, **SMALL_TRAINING}, "temperature": TEMPERATURE},
        "tried on validation": json.loads(choices.read_text()) if choices.exists() else None,
    }
    click.echo(results.write("hinton_mnist", figures))


if __name__ == "__main__":
    main()
