"""Four published CIFAR-10 networks of different authors fused: ensembles on held-back pictures, and a student taught by all against one.

    python -m benchmarks.fuse_cifar run       every part that is not finished yet; stop and start it at will
    python -m benchmarks.fuse_cifar collect   writes benchmarks/results/fuse_cifar.json from what is finished

The sources have seen every training picture, so nothing is fitted, weighted or chosen on those: the training part of the data that the
fusion is given has no labels at all. Rules are fitted and chosen on one half of the held-back pictures and reported on the other.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import data, real_weights, results
from transfuse.data.splits import held_out
from transfuse.evaluate.statistics import bootstrap, mcnemar, over_seeds
from transfuse.fusion import outputs as rules

SOURCES = {
    "resnet20": "akamaster_resnet20",
    "resnet56": "akamaster_resnet56",
    "resnet20_1x1": "distiller_resnet20",
    "resnet8": "mlperf_tiny_resnet8",
}
BEST = "resnet56"  # the best single source by its authors' figures; the choosing half agrees
PICTURES = 1000
SEEDS = (0, 1, 2, 3, 4)
TAUGHT_BY = ("all", "best")
BUDGET: dict[str, Any] = {
    "train": {
        "epochs": 16,
        "batch_size": 64,
        "optimizer": {"adamw": {"lr": 0.003}},
        "precision": "fp32",
        "evaluate_every": 4,
        "checkpoint_seconds": 60,
    },
    "augment": {"views": 4, "crop": 4, "flip": True},
    "objectives": [{"cross_entropy": {"weight": 0.1}}, {"kd": {"weight": 0.9, "temperature": 4}}],
}
REDUCTION = (
    "The student is ResNet8 (78,666 numbers) on 1,000 training pictures (100 of each class) for 16 epochs with 4 views a picture, so that "
    "two cores can run it. Settings were written down before the first run and not changed; the student's weights are the best of four "
    "validations on the choosing half. It says which teaching helps a small student early, not where long training ends."
)


def prepare(work: Path) -> None:
    """Writes the sources, the pictures for the fusion (training part without labels) and those for the students, once."""
    work.mkdir(parents=True, exist_ok=True)
    for name in SOURCES.values():
        if not (work / f"{name}.safetensors").exists():
            real_weights.convert(name, data.weights("."), work)
    if (work / "students.npz").exists():
        return
    cifar = data.cifar10()
    train = held_out(cifar["y_train"], PICTURES / len(cifar["y_train"]), 0, "fuse_cifar")
    choosing = data.for_choosing(cifar["y_test"])
    arrays = {"classes": cifar["classes"]}
    for part, origin, rows in (("train", "train", train), ("val", "test", choosing), ("test", "test", ~choosing)):
        arrays[f"x_{part}"], arrays[f"y_{part}"] = cifar[f"x_{origin}"][rows], cifar[f"y_{origin}"][rows]
        arrays[f"ids_{part}"] = np.array([f"{origin}/{number}" for number in cifar[f"index_{origin}"][rows]])
    np.savez(work / "fusion.npz", allow_pickle=False, **{**arrays, "y_train": np.full(len(arrays["y_train"]), -1)})
    np.savez(work / "half.npz", allow_pickle=False, **arrays)
    (work / "half.npz").rename(work / "students.npz")


def sources_of(work: Path) -> dict[str, str]:
    return {name: f"file:{work / file}.safetensors" for name, file in SOURCES.items()}


def fuse(work: Path) -> None:
    """`transfuse fuse how=auto` as a user types it."""
    folder = work / "auto"
    if (folder / "summary.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    listed = ", ".join(f"{name}: '{source}'" for name, source in sources_of(work).items())
    command = ["transfuse", "fuse", f"data=arrays:{work / 'fusion.npz'}", f"sources={{{listed}}}", "how=auto", f"out={folder}"]
    subprocess.run([*command, f"cache.dir={work / 'cache'}", "samples=false"], check=True)


def teach(work: Path, by: str, seed: int) -> None:
    """One student; taught by all sources it is a fusion, by the best single one a distillation."""
    import transfuse

    torch.set_num_threads(1)
    folder = work / "students" / f"{by}-{seed}"
    if (folder / "recipe.resolved.yaml").exists():
        transfuse.resume(folder)
        return
    shutil.rmtree(folder, ignore_errors=True)
    values: dict[str, Any] = {
        "data": f"arrays:{work / 'students.npz'}",
        "student": "builtin:resnet8_tiny",
        **BUDGET,
        "control": "none",
        "cache": {"dir": str(work / "cache")},
        "samples": False,
        "seed": seed,
        "out": folder,
    }
    if by == "all":
        transfuse.fuse(sources=sources_of(work), how="distill", **values)
    else:
        transfuse.distill(teacher=sources_of(work)[BEST], **values)


def run_all(work: Path) -> None:
    """Every part that is not finished, each in a process of its own."""
    prepare(work)
    fuse(work)
    for seed in SEEDS:
        for by in TAUGHT_BY:
            if not (work / "students" / f"{by}-{seed}" / "summary.json").exists():
                command = [sys.executable, "-m", "benchmarks.fuse_cifar", "one", by, str(seed), "--work", str(work)]
                subprocess.run(command, check=True)
                print(f"{by}-{seed}: {correct(work / 'students' / f'{by}-{seed}', 'student').mean():.4f}", flush=True)


def read(folder: Path, model: str) -> dict[str, np.ndarray]:
    """Predictions of a model on both halves, each in the order of its ids."""
    with np.load(folder / "predictions" / f"{model}.npz") as kept:
        order, val_order = np.argsort(kept["ids"]), np.argsort(kept["val_ids"])
        found = {key: kept[key][order] for key in ("labels", "outputs")}
        return found | {f"val_{key}": kept[f"val_{key}"][val_order] for key in ("labels", "outputs")}


def correct(folder: Path, model: str) -> np.ndarray:
    """bool [n]: which pictures of the reporting half are right."""
    found = read(folder, model)
    return found["outputs"].argmax(1) == found["labels"]


def difference(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """one - other in accuracy over the same pictures: paired bootstrap interval and exact McNemar p-value."""
    gained = one.astype(float) - other.astype(float)
    interval = bootstrap(len(gained), {"gain": lambda weights: weights @ gained / len(gained)})["gain"]
    assert interval is not None
    return {
        "gain": round(float(gained.mean()), 5),
        "interval": [round(bound, 5) for bound in interval],
        "p": round(mcnemar(other, one), 5),
    }


def ensembles(folder: Path) -> dict[str, Any]:
    """Plain ensemble on all 2,000 pictures, and every rule fitted on the choosing half and reported on the other."""
    said = {name: read(folder, name) for name in SOURCES}
    labels, val_labels = (next(iter(said.values()))[key] for key in ("labels", "val_labels"))
    val, test = (torch.from_numpy(np.stack([one[key] for one in said.values()])) for key in ("val_outputs", "outputs"))
    alone = {name: one["outputs"].argmax(1) == labels for name, one in said.items()}
    everything = {name: np.concatenate([right, said[name]["val_outputs"].argmax(1) == val_labels]) for name, right in alone.items()}
    plain = rules.get("mean_probabilities")()
    plain.build(len(SOURCES), test.shape[2])
    together = plain.fuse(test).numpy().argmax(1) == labels
    both = np.concatenate([together, plain.fuse(val).numpy().argmax(1) == val_labels])
    rows: dict[str, Any] = {}
    for name in rules.names():
        for calibrate in (False, True):
            rule = rules.get(name)(calibrate=calibrate)
            rule.fit(val, torch.from_numpy(val_labels))
            log_p = rule.fuse(test).double()
            right = log_p.numpy().argmax(1) == labels
            nll = float(torch.nn.functional.nll_loss(log_p, torch.from_numpy(labels)))
            rows[name + (" with temperatures" if calibrate else "")] = {
                "accuracy": float(right.mean()),
                "nll": round(nll, 5),
                "over the best single": difference(right, alone[BEST]),
                "over the plain ensemble": difference(right, together),
            }
    return {
        "all 2,000 pictures, nothing fitted": {
            "sources": {name: float(right.mean()) for name, right in everything.items()},
            "plain ensemble": float(both.mean()),
            "plain ensemble over the best single": difference(both, everything[BEST]),
        },
        "reporting half": {"sources": {name: float(right.mean()) for name, right in alone.items()}, "rules fitted on the other half": rows},
    }


def students(work: Path) -> dict[str, Any] | None:
    """The student taught by all sources against the one taught by the best, seed by seed."""
    from scipy.stats import ttest_rel

    done = [seed for seed in SEEDS if all((work / "students" / f"{by}-{seed}" / "summary.json").exists() for by in TAUGHT_BY)]
    if len(done) < 2:
        return None
    right = {by: np.stack([correct(work / "students" / f"{by}-{seed}", "student") for seed in done]) for by in TAUGHT_BY}
    reached = {by: rows.mean(1) for by, rows in right.items()}
    gains = reached["all"] - reached["best"]
    spread = over_seeds(gains.tolist())
    per_picture = (right["all"].astype(float) - right["best"]).mean(0)
    interval = bootstrap(len(per_picture), {"gain": lambda weights: weights @ per_picture / len(per_picture)})["gain"]
    return {
        "student": "builtin:resnet8_tiny, 78,666 numbers",
        "settings": {**BUDGET, "training pictures": PICTURES},
        "reduction": REDUCTION,
        "seeds": done,
        **{f"taught by {by}": [round(float(value), 5) for value in values] for by, values in reached.items()},
        "gain of all over best": {
            "mean": round(spread.mean, 5),
            "std over seeds": None if spread.std is None else round(spread.std, 5),
            "interval over seeds": None if spread.interval is None else [round(bound, 5) for bound in spread.interval],
            "p, paired t-test over seeds": round(float(ttest_rel(reached["all"], reached["best"]).pvalue), 5),
            "interval over pictures": None if interval is None else [round(bound, 5) for bound in interval],
        },
    }


def collect(work: Path) -> dict[str, Any]:
    """The figures of the result file; `students` is null until two seeds of both are finished."""
    summary = json.loads((work / "auto" / "summary.json").read_text())
    auto = {key: summary["fusion"][key] for key in ("chosen", "best_single", "chosen_by", "ways", "contributions")}
    for way in auto["ways"]:
        way.pop("latency_ms")  # other work shared the machine
    name = summary["primary"]["name"]
    return {
        "sources": {name: real_weights.WEIGHTS[file].place for name, file in SOURCES.items()},
        **ensembles(work / "auto"),
        "transfuse fuse how=auto": {
            **auto,
            "test": {model: block["metrics"][name] for model, block in summary["models"].items()},
            "gain over the best single": {key: summary["transfer"][key] for key in ("gain", "gain_interval", "mcnemar")},
            "samples that sources were sent": summary["teacher_forwards"],
        },
        "students": students(work),
    }


@click.group(help=__doc__)
def main() -> None:
    pass


WORK = click.option("--work", type=click.Path(path_type=Path), default=Path("runs/fuse_cifar"), help="folder of the runs")


@main.command("run")
@WORK
def _run(work: Path) -> None:
    """Runs what is not finished."""
    run_all(work.absolute())


@main.command("one")
@click.argument("by", type=click.Choice(TAUGHT_BY))
@click.argument("seed", type=int)
@WORK
def _one(by: str, seed: int, work: Path) -> None:
    """One student."""
    teach(work.absolute(), by, seed)


@main.command("collect")
@WORK
def _collect(work: Path) -> None:
    """Writes the result file."""
    print(results.write("fuse_cifar", collect(work.absolute())))


if __name__ == "__main__":
    main()
