"""What UCI's digits are worth for MNIST with few labels, against the same network from scratch in as many steps.

    python -m benchmarks.digits_mnist --work DIR      every run that is not finished yet, then benchmarks/results/digits_mnist.json

A small convolutional network learns UCI's 8x8 digits, enlarged to 16x16; MNIST, shrunk to 16x16, has 5, 20 or 100 labels a class. Ways:
the digits network as it is, all of it fine-tuned, LP-FT, and learning from both sets at once. Two controls start from random weights: one
has the steps that are spent on MNIST, one those of the digits network on top, which is the whole budget of a fine-tuning. The validation
part chooses weights and lambda, as it does for the controls; one learning rate serves all, and nothing else is chosen. A seed draws the
labels, the initial weights and the order; the report's pictures are from MNIST's own test part.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from benchmarks import data, results
from benchmarks.extract import finished
from benchmarks.finetune_cifar100 import row, spread
from benchmarks.together import idx
from transfuse.core.types import DataRequest, ModelRequest
from transfuse.data import open_data
from transfuse.evaluate import metrics
from transfuse.evaluate.predict import predict
from transfuse.evaluate.statistics import over_seeds
from transfuse.jobs import distill, finetune, together
from transfuse.models import open_model

SEEDS = (0, 1, 2, 3, 4)
LABELS = (5, 20, 100)
SIDE, BATCH, RATE = 16, 32, 0.003
STEPS, BASE_STEPS = 150, 200  # on MNIST; of the digits network before
VALIDATIONS = 5
POLICIES: dict[str, Any] = {"fine-tuned, full": "full", "fine-tuned, lp_ft": {"lp_ft": {"share": 0.3, "rate": 1.0}}}
LAMBDAS = [0.0, 0.3, 1.0]
TRAIN: dict[str, Any] = {"batch_size": BATCH, "optimizer": {"adamw": {"lr": RATE}}, "precision": "fp32"}
SETS = (
    "1,536 of UCI's digits to learn from; 3,000 of MNIST's training pictures, a tenth for validation, and 2,000 of its test pictures; 16x16"
)
TOGETHER = "both at once, lambda chosen"


def write_sets(folder: Path) -> None:
    """Both sets as files for `arrays:`, their classes of the same names."""
    folder.mkdir(parents=True, exist_ok=True)
    bunch, names = load_digits(), np.array([str(digit) for digit in range(10)])
    np.savez(folder / "digits.npz", x=np.round(bunch.images * 255 / 16).astype(np.uint8), y=bunch.target, classes=names)
    parts = {}
    for part, stem, count in (("train", "train", 3000), ("test", "t10k", 2000)):
        inputs, labels = (idx(data.mnist_folder(), f"{stem}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        kept = np.sort(train_test_split(np.arange(len(labels)), train_size=count, stratify=labels, random_state=0)[0])
        parts |= {f"x_{part}": inputs[kept], f"y_{part}": labels[kept]}
    np.savez(folder / "mnist.npz", **parts, classes=names)


def common(work: Path, seed: int) -> dict[str, Any]:
    """What every run's recipe has."""
    return {"seed": seed, "cache": {"dir": str(work / "cache")}, "samples": False}


def digits(work: Path) -> dict[str, Any]:
    """UCI's digits as a data block; the twentieth that every set keeps for a report is looked at by nobody."""
    return {"source": f"arrays:{work / 'sets' / 'digits'}.npz", "size": SIDE, "split": {"test": 0.05}}


def mnist(work: Path, labels: int, seed: int) -> dict[str, Any]:
    """MNIST with few labels as a data block."""
    return {"source": f"arrays:{work / 'sets' / 'mnist'}.npz", "size": SIDE, "labels_per_class": labels, "split": {"seed": seed}}


def trained_for(steps: int, pool: int) -> dict[str, Any]:
    """A train block that looks at the validation part some times, whatever an epoch of the pool is."""
    batch = min(BATCH, pool)
    return {**TRAIN, "batch_size": batch, "steps": steps, "evaluate_every": round(steps * batch / pool / VALIDATIONS, 4)}


def base(work: Path, seed: int) -> str:
    """The digits network of a seed, as a model source."""
    out = work / "base" / str(seed)
    values = {"job": "distill", "data": digits(work), "student": "builtin:convnet", "objectives": ["cross_entropy"], "control": "none"}
    finished(out, distill, {**common(work, seed), **values, "train": trained_for(BASE_STEPS, 1500)})
    return f"run:{out}"


def as_it_is(work: Path, seed: int) -> float:
    """Accuracy of the digits network on MNIST's test part."""
    model = open_model(base(work, seed), ModelRequest())
    test = open_data(f"arrays:{work / 'sets' / 'mnist'}.npz", DataRequest(size=SIDE)).test
    assert model.preprocess is not None
    return metrics.score("classification", "accuracy", predict(model.network, test, model.preprocess).numpy(), test.labels.numpy())


def run(work: Path, way: str, labels: int, seed: int) -> dict[str, Any]:
    """One run's summary; from its folder where it is finished."""
    out, shared = work / "runs" / f"{way.replace(' ', '_')}-{labels}-{seed}", common(work, seed)
    target = mnist(work, labels, seed)
    if way in POLICIES:
        values = {"job": "finetune", "data": target, "model": base(work, seed), "policy": POLICIES[way]}
        return finished(out, finetune, {**shared, **values, "train": trained_for(STEPS, 10 * labels)})
    slower = max(1500, 10 * labels)  # an epoch is over when both sets were passed through
    train = {**trained_for(STEPS, slower), "batch_size": 2 * BATCH}
    values = {"job": "together", "source": digits(work), "target": target, "student": "builtin:convnet", "source_weight": LAMBDAS}
    return finished(out, together, {**shared, **values, "train": train})


def longer(work: Path, labels: int, seed: int) -> float:
    """Accuracy of the network from scratch that has the digits network's steps, too: the control of a probe of as many steps."""
    values = {"job": "finetune", "data": mnist(work, labels, seed), "model": base(work, seed), "policy": "probe"}
    train = trained_for(STEPS + BASE_STEPS, 10 * labels)
    found = finished(work / "whole_budget" / f"{labels}-{seed}", finetune, {**common(work, seed), **values, "train": train})
    return found["models"]["control"]["metrics"]["accuracy"]


def beside_longer(summaries: list[dict[str, Any]], controls: list[float]) -> dict[str, Any]:
    """What is gained over the control of the whole budget, paired by seed."""
    reached = [summary["models"]["student"]["metrics"]["accuracy"] for summary in summaries]
    gains = over_seeds([one - other for one, other in zip(reached, controls, strict=True)])
    assert gains.interval is not None
    low, high = gains.interval
    return {
        "from scratch, the digits network's steps too": spread(controls),
        "gain over that": round(100 * gains.mean, 2),
        "its interval": [round(100 * bound, 2) for bound in gains.interval],
        "verdict on that": "transfer helps" if low > 0 else "negative transfer" if high < 0 else "no evidence",
    }


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for data and runs; a second call goes on there")
def main(work: Path) -> None:
    begun, work = time.perf_counter(), work.resolve()
    write_sets(work / "sets")
    untouched = [as_it_is(work, seed) for seed in SEEDS]
    rows = []
    for labels in LABELS:
        controls = [longer(work, labels, seed) for seed in SEEDS]
        for way in (*POLICIES, TOGETHER):
            made = [run(work, way, labels, seed) for seed in SEEDS]
            rows.append({**row("MNIST", labels, way, made), **beside_longer(made, controls)})
            if way == TOGETHER:
                rows[-1]["lambda"] = [summary["together"]["source_weight"] for summary in made]
            print({key: rows[-1][key] for key in ("labels per class", "policy", "accuracy", "from scratch", "gain", "verdict")}, flush=True)
    figures = {
        "sets": SETS,
        "network": "builtin:convnet, 24,000 parameters",
        "train": {**TRAIN, "steps": STEPS, "steps of the digits network": BASE_STEPS, "together": "twice the batch, half of it MNIST's"},
        "seeds": list(SEEDS),
        "figures": "percent: mean and standard deviation over seeds; gains are paired by seed, with 95 % t-intervals over seeds",
        "selection": "300 labelled pictures of MNIST choose the weights of all networks, more labels than the smallest training parts have",
        "the digits network as it is": spread(untouched),
        "rows": rows,
        "seconds, this call": round(time.perf_counter() - begun, 1),
    }
    print(results.write("digits_mnist", figures))


if __name__ == "__main__":
    main()
