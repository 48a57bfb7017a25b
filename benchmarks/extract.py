"""A frozen network's features: how much faster a second run is, and what heads make of them with few labels.

    python -m benchmarks.extract --work DIR      every run that is not finished yet, then benchmarks/results/extract.json

Speed: ResNet-56 of CIFAR-10 on 2,000 training pictures, three times with an empty cache and three times with what the first left there,
in alternating blocks; compared are the seconds until the features are there, those of the whole runs, and the features' bits.

Heads: ResNet-20 of CIFAR-10 on Fashion-MNIST with ten labels a class; the control is the same network from scratch on the same labels.
Tables: networks that were trained to give back their inputs, on breast_cancer and diabetes; no label is seen, the inputs of all rows are,
those of the test part, too (transductive). The control's budget stands beside that of the pretraining. Settings of every head are chosen on
folds of the training part. A seed draws the labels (the split, for tables) and the control's weights.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from safetensors.torch import load_file
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split

from benchmarks import data, results
from benchmarks.together import idx
from transfuse.evaluate.statistics import over_seeds
from transfuse.jobs import distill, extract, resume
from transfuse.recipe.load import from_values

SEEDS = (0, 1, 2, 3, 4)
HEADS: tuple[dict[str, Any], ...] = (
    {"logistic": {}},
    {"linear_svm": {}},
    {"ridge": {}},
    {"linear": {}},
    {"mlp": {}},
    {"knn": {}},
    {"rbf_svm": {}},
    {"random_forest": {"trees": 100}},
)
NORM = {"size": 32, "channels": 3, "scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SCRATCH = {"epochs": 40, "batch_size": 32, "optimizer": {"adamw": {"lr": 0.003}}, "precision": "fp32"}
TABLES = {"breast_cancer": load_breast_cancer, "diabetes": load_diabetes}


def cifar_network(name: str) -> dict[str, Any]:
    """A published network of CIFAR-10 as a recipe's model block."""
    folder = data.weights("akamaster_cifar10")
    path = next(folder.glob(f"{name}*.th"))
    return {"source": f"file:{path}", "architecture": f"builtin:{name}", "options": {"shortcut": "A"}, "preprocess": NORM, "trusted": True}


def write_sets(folder: Path) -> None:
    """Pictures and tables as files for `arrays:`."""
    folder.mkdir(parents=True, exist_ok=True)
    cifar = data.cifar10()
    names = np.array([str(name) for name in cifar["classes"]])
    np.savez(
        folder / "cifar.npz",
        x_train=cifar["x_train"][:2000],
        y_train=cifar["y_train"][:2000],
        x_test=cifar["x_test"][:200],
        y_test=cifar["y_test"][:200],
        classes=names,
    )
    place, parts = data.fashion_mnist_folder(), {}
    for part, stem, count in (("train", "train", 2000), ("test", "t10k", 1000)):
        inputs, labels = idx(place, f"{stem}-images-idx3-ubyte"), idx(place, f"{stem}-labels-idx1-ubyte")
        kept, _ = train_test_split(np.arange(len(labels)), train_size=count, stratify=labels, random_state=0)
        parts |= {f"x_{part}": inputs[np.sort(kept)], f"y_{part}": labels[np.sort(kept)]}
    np.savez(folder / "fashion.npz", **parts)
    for name, load in TABLES.items():
        columns = load().data.astype(np.float32)
        standard = (columns - columns.mean(0)) / columns.std(0)
        np.savez(folder / f"{name}_inputs.npz", x=columns, y=standard.astype(np.float32))


def finished(out: Path, job: Any, values: dict[str, Any]) -> dict[str, Any]:
    """A run's summary; from its folder where it is finished."""
    if (out / "recipe.resolved.yaml").exists() and not (out / "summary.json").exists():
        resume.resume(out)
    elif not (out / "summary.json").exists():
        job.run(from_values({**values, "out": str(out), "samples": False}))
    return json.loads((out / "summary.json").read_text())


def speed(work: Path) -> dict[str, Any]:
    """First and second runs in alternating blocks."""
    values = {
        "job": "extract",
        "data": f"arrays:{work / 'sets' / 'cifar'}.npz",
        "model": cifar_network("resnet56"),
        "head": {"logistic": {"penalty": 10.0}},
        "control": "none",
        "map": "none",
    }
    first, second, same, whole = [], [], [], []
    for block in range(3):
        cache = work / f"speed_cache_{block}"
        runs = []
        for turn in ("first", "second"):
            out = work / "speed" / f"{block}_{turn}"
            if turn == "first" and not (out / "summary.json").exists():
                shutil.rmtree(cache, ignore_errors=True)
                shutil.rmtree(out, ignore_errors=True)
            runs.append(finished(out, extract, {**values, "cache": {"dir": str(cache)}}))
        whole.append([summary["seconds"]["total"] for summary in runs])
        runs = [summary["extract"] for summary in runs]
        first.append(runs[0]["seconds"]["features"])
        second.append(runs[1]["seconds"]["features"])
        one, two = (load_file(work / "speed" / f"{block}_{turn}" / "student.safetensors") for turn in ("first", "second"))
        same.append(runs[1]["computed"] == 0 and all(bool((one[key] == two[key]).all()) for key in one))
    return {
        "network": "resnet56 of CIFAR-10, features of its last layer's input",
        "samples": runs[0]["computed"],
        "seconds, first": first,
        "seconds, second": second,
        "ratio": [round(a / b, 1) for a, b in zip(first, second, strict=True)],
        "what that is": "seconds until the features of all samples are there",
        "whole run, seconds, first": [one for one, _ in whole],
        "whole run, seconds, second": [two for _, two in whole],
        "whole run, ratio": [round(one / two, 1) for one, two in whole],
        "what a whole run is": "from the recipe to summary.json: data, network, features, head, test part and the measured latencies",
        "nothing computed, same bits": same,
    }


def pretrained_table(work: Path, name: str) -> str:
    """An MLP that gives back a table's standardised columns; no label is looked at, rows of all parts are."""
    values = {
        "job": "distill",
        "data": f"arrays:{work / 'sets' / name}_inputs.npz",
        "student": {"source": "builtin:mlp", "options": {"widths": [64, 32], "dropout": 0.1}},
        "objectives": ["mse"],
        "train": {"epochs": 60, "batch_size": 64},
        "control": "none",
        "cache": {"dir": str(work / "cache")},
    }
    finished(work / "pretrained" / name, distill, values)
    return f"run:{work / 'pretrained' / name}"


def steps_of(folder: Path) -> int:
    """Optimiser steps of a training, as its log has them."""
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]


def budgets(work: Path) -> dict[str, Any]:
    """What was spent on the network that is frozen, and on its control."""
    tables = {
        name: {
            "steps of the pretraining": steps_of(work / "pretrained" / name),
            "its batch": 64,
            "steps of the control": [steps_of(work / "runs" / f"{name}-ridge-{seed}" / "control") for seed in SEEDS],
            "the control's batch": SCRATCH["batch_size"],
        }
        for name in TABLES
    }
    published = "a published network: what its training on CIFAR-10 took is not in the control's budget"
    return {"Fashion-MNIST": published, **tables, "heads": "fitted to features in seconds, not counted"}


def made_by(work: Path) -> dict[str, Any]:
    """Which commits the runs are of, and what they took; a later call only reads them."""
    read = {name: [json.loads(path.read_text()) for path in sorted(work.glob(f"*/*/{name}.json"))] for name in ("env", "summary")}
    commits = sorted({(found["commit"] or "unknown")[:12] for found in read["env"]})
    return {"commits of the runs": commits, "seconds of all runs": round(sum(found["seconds"]["total"] for found in read["summary"]), 1)}


def heads_on(work: Path, name: str, values: dict[str, Any], seeded: Any, only: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """One row per head that can be fitted to the task; `only` some of them."""
    rows = []
    for head in HEADS:
        kind = next(iter(head))
        if (name == "diabetes" and kind in ("logistic", "linear_svm")) or (only and kind not in only):
            continue
        summaries = []
        for seed in SEEDS:
            out = work / "runs" / f"{name}-{kind}-{seed}"
            summaries.append(
                finished(out, extract, {"job": "extract", "seed": seed, "head": head, "map": "none", **values, **seeded(seed)})
            )
        rows.append(row(name, kind, summaries))
        print(
            f"{name:14} {kind:14} {rows[-1]['student']} control {rows[-1]['control']} gain {rows[-1]['gain']} {rows[-1]['verdict']}",
            flush=True,
        )
    return rows


def row(name: str, head: str, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """One head on one set, over seeds."""
    metric = summaries[0]["primary"]["name"]
    factor = 1 if metric == "rmse" else 100

    def spread(model: str) -> list[float]:
        values = [factor * summary["models"][model]["metrics"][metric] for summary in summaries]
        return [round(statistics.mean(values), 2), round(statistics.stdev(values), 2)]

    gains = over_seeds([factor * summary["transfer"]["gain"] for summary in summaries])
    assert gains.interval is not None
    low, high = gains.interval
    return {
        "set": name,
        "head": head,
        "metric": metric if factor == 1 else f"{metric}, percent",
        "student": spread("student"),
        "control": spread("control"),
        "gain": round(gains.mean, 2),
        "gain_interval": [round(bound, 2) for bound in gains.interval],
        "verdict": "helps" if low > 0 else "negative transfer" if high < 0 else "no evidence",
        "settings": [summary["extract"]["setting"] for summary in summaries],
    }


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for data and runs; a second call goes on there")
def main(work: Path) -> None:
    begun = time.perf_counter()
    work = work.resolve()
    write_sets(work / "sets")
    figures: dict[str, Any] = {"speed": speed(work)}
    print(figures["speed"], flush=True)
    common = {"train": SCRATCH, "control": "reuse", "cache": {"dir": str(work / "cache")}}

    def pictures(seed: int) -> dict[str, Any]:
        return {"data": {"source": f"arrays:{work / 'sets' / 'fashion'}.npz", "labels_per_class": 10, "split": {"seed": seed}}}

    network = cifar_network("resnet20")
    rows = heads_on(work, "Fashion-MNIST", {**common, "model": network}, pictures)
    layers = {"taps": ["layer1", "layer2", "layer3"]}
    rows += heads_on(work, "Fashion-MNIST, three layers", {**common, **layers, "model": network}, pictures, ("logistic", "ridge", "knn"))
    for name in TABLES:
        pretrained = {"source": pretrained_table(work, name)}

        def table(seed: int, name: str = name) -> dict[str, Any]:
            return {"data": {"source": f"bundled:{name}", "split": {"seed": seed}}}

        rows += heads_on(work, name, {**common, "model": pretrained}, table)
    figures |= {
        "seeds": list(SEEDS),
        "heads": "mean and deviation over seeds on the test part; paired gain over the network from scratch, 95 % t-interval over seeds",
        "control": SCRATCH,
        "sets": "Fashion-MNIST: ten labels a class, 1,000 test pictures; tables: a fifth of the rows for the report",
        "what the pretraining of tables saw": "the inputs of all rows, those of the test part, too; no label. The control saw neither",
        "budgets": budgets(work),
        **made_by(work),
        "rows": rows,
        "seconds, this call": round(time.perf_counter() - begun, 1),
    }
    print(results.write("extract", figures))


if __name__ == "__main__":
    main()
