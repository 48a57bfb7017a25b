"""What learning from a source beside the target is worth: UCI's digits with few labels, beside MNIST and beside clothes.

    python -m benchmarks.together --work DIR      every run that is not finished yet, then benchmarks/results/together.json

The target has five labels per class; the control is the same network from these alone, in the same batches and as many steps. Lambda is
chosen on the target's validation part, or fixed, or learnt; the test part chooses nothing. Nothing else is tuned.
"""

from __future__ import annotations

import gzip
import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from benchmarks import data, results
from transfuse.evaluate.statistics import over_seeds
from transfuse.jobs import resume, together
from transfuse.recipe.load import from_values

SEEDS = (0, 1, 2, 3, 4)
SIDE, LABELS = 16, 5
TRAIN: dict[str, Any] = {"steps": 150, "batch_size": 128, "optimizer": {"adamw": {"lr": 0.003}}, "precision": "fp32", "evaluate_every": 1.0}
LAMBDAS = [0.0, 0.1, 0.3, 1.0]
WAYS: dict[str, dict[str, Any]] = {
    "MNIST, one head, lambda chosen": {"source": "mnist", "source_weight": LAMBDAS},
    "MNIST, one head, lambda 1": {"source": "mnist", "source_weight": 1.0},
    "MNIST, own heads, learnt weights": {"source": "mnist", "source_weight": "uncertainty", "heads": "own"},
    "MNIST, own heads, lambda 1, PCGrad": {"source": "mnist", "source_weight": 1.0, "heads": "own", "gradients": "pcgrad"},
    "Fashion-MNIST, own heads, lambda chosen": {"source": "fashion", "source_weight": LAMBDAS},
    "Fashion-MNIST, own heads, lambda 1": {"source": "fashion", "source_weight": 1.0},
}
SETS = "2,000 training pictures of MNIST and of Fashion-MNIST; 898 of UCI's digits to learn from, 899 for the report; all at 16x16"


def idx(folder: Path, name: str) -> np.ndarray:
    """One of MNIST's files."""
    content = gzip.decompress((folder / f"{name}.gz").read_bytes())
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(content[3])]
    return np.frombuffer(content[4 + 4 * content[3] :], np.uint8).reshape(shape)


def write_sets(folder: Path) -> None:
    """The three sets as files for `arrays:`."""
    folder.mkdir(parents=True, exist_ok=True)
    bunch = load_digits()
    pictures = np.round(bunch.images * 255 / 16).astype(np.uint8)
    halves = train_test_split(pictures, bunch.target, test_size=0.5, stratify=bunch.target, random_state=0)
    digits = np.array([str(digit) for digit in range(10)])
    np.savez(folder / "digits.npz", x_train=halves[0], y_train=halves[2], x_test=halves[1], y_test=halves[3], classes=digits)
    clothes = np.array(["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"])
    for name, place, classes in (("mnist", data.mnist_folder(), digits), ("fashion", data.fashion_mnist_folder(), clothes)):
        inputs, labels = idx(place, "train-images-idx3-ubyte"), idx(place, "train-labels-idx1-ubyte")
        kept, _ = train_test_split(np.arange(len(labels)), train_size=2000, stratify=labels, random_state=0)
        kept = np.sort(kept)
        np.savez(folder / f"{name}.npz", x=inputs[kept], y=labels[kept], classes=classes)


def run(work: Path, way: str, seed: int) -> dict[str, Any]:
    """One run's summary; from its folder where it is finished."""
    settings = dict(WAYS[way])
    out = work / "runs" / f"{list(WAYS).index(way)}-{seed}"
    if (out / "recipe.resolved.yaml").exists() and not (out / "summary.json").exists():
        resume.resume(out)
    elif not (out / "summary.json").exists():
        values = {
            "job": "together",
            "seed": seed,
            "source": {"source": f"arrays:{work / 'sets' / settings.pop('source')}.npz", "size": SIDE, "split": {"test": 0.05}},
            "target": {
                "source": f"arrays:{work / 'sets' / 'digits'}.npz",
                "size": SIDE,
                "labels_per_class": LABELS,
                "split": {"seed": seed},
            },
            "student": "builtin:convnet",
            "train": {**TRAIN, "gradients": settings.pop("gradients", "sum")},
            "cache": {"dir": str(work / "cache")},
            "samples": False,
            "out": str(out),
            **settings,
        }
        together.run(from_values(values))
    return json.loads((out / "summary.json").read_text())


def row(way: str, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """One way, over seeds."""

    def spread(model: str) -> list[float]:
        values = [100 * summary["models"][model]["metrics"]["accuracy"] for summary in summaries]
        return [round(statistics.mean(values), 2), round(statistics.stdev(values), 2)]

    gains = over_seeds([summary["transfer"]["gain"] for summary in summaries])
    assert gains.interval is not None
    low, high = gains.interval
    return {
        "way": way,
        "accuracy": spread("student"),
        "target alone": spread("control"),
        "gain": round(100 * gains.mean, 2),
        "gain_interval": [round(100 * bound, 2) for bound in gains.interval],
        "verdict": "helps" if low > 0 else "negative transfer" if high < 0 else "no evidence",
        "lambda": [summary["together"]["source_weight"] for summary in summaries],
        "learnt weights": [summary["together"]["learnt_weights"] for summary in summaries if summary["together"]["learnt_weights"]],
    }


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for data and runs; a second call goes on there")
def main(work: Path) -> None:
    begun = time.perf_counter()
    work = work.resolve()
    write_sets(work / "sets")
    rows = []
    for way in WAYS:
        rows.append(row(way, [run(work, way, seed) for seed in SEEDS]))
        print(
            f"{way:42} {rows[-1]['accuracy']} alone {rows[-1]['target alone']} gain {rows[-1]['gain']:+.2f} {rows[-1]['verdict']}",
            flush=True,
        )
    figures = {
        "sets": SETS,
        "labels per class of the target": LABELS,
        "train": TRAIN,
        "seeds": list(SEEDS),
        "what a seed changes": "initial weights, order, and which labels of the target are kept",
        "selection": "the target's validation part, a tenth of its training pictures",
        "figures": "percent: mean and standard deviation over seeds; paired gain over the target alone with its 95 % t-interval over seeds",
        "rows": rows,
        "seconds, this call": round(time.perf_counter() - begun, 1),
    }
    print(results.write("together", figures))


if __name__ == "__main__":
    main()
