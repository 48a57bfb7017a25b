"""What CIFAR-10 weights are worth on CIFAR-100 and Fashion-MNIST with few labels, by policy, against the same network from scratch.

    python -m benchmarks.finetune_cifar100 --work DIR      every run that is not finished, then results/finetune_cifar100.json

The published ResNet-20 of CIFAR-10 (akamaster), a new head, and 10, 40 or 80 labels per class of CIFAR-100; 10, 50 or 250 of Fashion-MNIST.
Probe, LP-FT and full fine-tuning have the same number of steps as the control from scratch, which has a learning rate of its own: both
were chosen once, on validation parts (`--choose`). A tenth of the training pictures is taken out for validation first, and the labels are
drawn anew for each seed. No test picture is looked at before the report; CIFAR-10 and CIFAR-100 share no picture.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import click

from benchmarks import data, real_weights, results
from transfuse.evaluate.statistics import over_seeds
from transfuse.jobs import finetune, resume
from transfuse.recipe.load import from_values

SEEDS = (0, 1, 2)
POLICIES = ("probe", "lp_ft", "full")
LABELS = {"cifar100": (10, 40, 80), "fashion_mnist": (10, 50, 250)}
STEPS = {"cifar100": 400, "fashion_mnist": 200}
BATCH = 64
VALIDATIONS = 4  # of each training
RATE, SCRATCH_RATE, PROBE_RATE = 3e-3, 3e-3, 1e-1
TRAIN = {"batch_size": BATCH, "optimizer": {"adamw": {}}, "precision": "bf16"}


def source_of(work: Path, name: str) -> str:
    """The data as a source string, written where they are no files of their own."""
    if name == "fashion_mnist":
        return f"idx:{data.fashion_mnist_folder()}"
    path = work / f"{name}.npz"
    return f"arrays:{path if path.exists() else data.write_arrays(name, path)}"


def recipe(work: Path, name: str, labels: int, policy: str, seed: int, rates: tuple[float, float]) -> dict[str, Any]:
    """One run's recipe."""
    classes = {"cifar100": 100, "fashion_mnist": 10}[name]
    pool = min(labels, 90) * classes if name == "cifar100" else labels * classes
    # the probe's rate is the head's alone; lp_ft's phases are multiples of one rate
    rate = {"probe": PROBE_RATE, "lp_ft": PROBE_RATE, "full": rates[0]}[policy]
    settings = {"probe": "probe", "full": "full", "lp_ft": {"lp_ft": {"share": 0.3, "rate": round(rates[0] / PROBE_RATE, 4)}}}[policy]
    return {
        "job": "finetune",
        "seed": seed,
        "data": {"source": source_of(work, name), "labels_per_class": labels, "split": {"seed": seed}, "size": 32},
        "model": f"file:{work}/weights/akamaster_resnet20.safetensors",
        "policy": settings,
        "lr": rate,
        "control_lr": rates[1],
        "train": {**TRAIN, "steps": STEPS[name], "evaluate_every": round(STEPS[name] * BATCH / pool / VALIDATIONS, 4)},
        "cache": {"dir": str(work / "cache")},
        "samples": False,
    }


def run(work: Path, values: dict[str, Any], out: Path) -> dict[str, Any]:
    """One run's summary; from its folder where it is finished."""
    if (out / "recipe.resolved.yaml").exists() and not (out / "summary.json").exists():
        resume.resume(out)
    elif not (out / "summary.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        finetune.run(from_values({**values, "out": str(out)}))
    return json.loads((out / "summary.json").read_text())


def spread(values: list[float]) -> list[float]:
    return [round(100 * statistics.mean(values), 2), round(100 * statistics.stdev(values), 2)]


def row(name: str, labels: int, policy: str, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """One policy on one label budget, over seeds."""
    gains = over_seeds([summary["transfer"]["gain"] for summary in summaries])
    assert gains.interval is not None
    low, high = gains.interval
    verdict = "transfer helps" if low > 0 else "negative transfer" if high < 0 else "no evidence"
    return {
        "data": name,
        "labels per class": labels,
        "policy": policy,
        "accuracy": spread([summary["models"]["student"]["metrics"]["accuracy"] for summary in summaries]),
        "from scratch": spread([summary["models"]["control"]["metrics"]["accuracy"] for summary in summaries]),
        "gain": round(100 * gains.mean, 2),
        "gain_interval": [round(100 * bound, 2) for bound in gains.interval],
        "gain of each seed, with its paired interval over test samples": [
            [round(100 * figure, 2) for figure in (summary["transfer"]["gain"], *summary["transfer"]["gain_interval"])]
            for summary in summaries
        ],
        "verdict": verdict,
        "seconds": round(statistics.mean(summary["seconds"]["train"] for summary in summaries), 1),
    }


def best_validation(folder: Path) -> float:
    """The best accuracy on the validation part that a training met."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return max(one["metrics"]["accuracy"] for one in rows if one["kind"] == "val")


def choose(work: Path) -> None:
    """Prints validation accuracies of learning rates on 40 labels of CIFAR-100 and 50 of Fashion-MNIST, with a seed of their own."""
    for name, labels in (("cifar100", 40), ("fashion_mnist", 50)):
        for rates in ((1e-3, 1e-3), (3e-3, 3e-3), (1e-2, 1e-2)):
            out = work / "choose" / f"{name}-{rates[0]:g}-{rates[1]:g}"
            run(work, recipe(work, name, labels, "full", 100, rates), out)
            best = {place.name: best_validation(place) for place in (out, out / "control")}
            print(f"{name}: rate {rates[0]:g} {best[out.name]:.4f}; from scratch {rates[1]:g} {best['control']:.4f}", flush=True)
        for rate in (1e-2, 3e-2, 1e-1):
            out = work / "choose" / f"{name}-probe-{rate:g}"
            values = {**recipe(work, name, labels, "probe", 100, (RATE, SCRATCH_RATE)), "lr": rate, "control": "none"}
            print(f"{name}: rate of the probe {rate:g} {run(work, values, out) and best_validation(out):.4f}", flush=True)


@click.command(help=__doc__)
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="folder for data, weights and runs; a second call goes on there"
)
@click.option("--choose", "choosing", is_flag=True, help="compare learning rates on validation parts instead")
@click.option("--only", type=click.Choice(list(LABELS)), help="one of the two data sets")
def main(work: Path, choosing: bool, only: str | None) -> None:
    begun, work = time.perf_counter(), work.resolve()
    if not (work / "weights" / "akamaster_resnet20.safetensors").exists():
        real_weights.convert("akamaster_resnet20", data.weights("."), work / "weights")
    if choosing:
        choose(work)
        return
    rows = []
    for name in LABELS:
        for labels in LABELS[name] if only in (None, name) else ():
            for policy in POLICIES:
                made = [
                    run(
                        work,
                        recipe(work, name, labels, policy, seed, (RATE, SCRATCH_RATE)),
                        work / "runs" / f"{name}-{labels}-{policy}-{seed}",
                    )
                    for seed in SEEDS
                ]
                rows.append(row(name, labels, policy, made))
                print(name, labels, policy, rows[-1]["accuracy"], "scratch", rows[-1]["from scratch"], rows[-1]["verdict"], flush=True)
            write(rows, time.perf_counter() - begun)


def write(rows: list[dict[str, Any]], seconds: float) -> Path:
    """The result file, of what is done."""
    figures = {
        "network": "ResNet-20 with the weights of akamaster/pytorch_resnet_cifar10, head replaced",
        "steps": STEPS,
        "train": TRAIN,
        "learning rates": {"full": RATE, "from scratch": SCRATCH_RATE, "probe": PROBE_RATE, "lp_ft": [PROBE_RATE, RATE]},
        "seeds": list(SEEDS),
        "selection": "the best of four validations, on a tenth of the training pictures; test pictures are in the report alone",
        "figures": "percent: mean and standard deviation over seeds; gain over scratch with its 95 % t-interval over seeds",
        "rows": rows,
        "seconds, this call": round(seconds, 1),
    }
    return results.write("finetune_cifar100", figures)


if __name__ == "__main__":
    main()
