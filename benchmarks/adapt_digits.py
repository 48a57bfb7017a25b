"""What unlabelled samples of the target are worth between three sets of handwritten digits, against the network from the source alone.

    python -m benchmarks.adapt_digits --work DIR      every run that is not finished yet, then benchmarks/results/adapt_digits.json

MNIST, USPS and UCI's digits, in four directions; every objective on domains beside cross_entropy, with the weight of its paper, one
schedule for all and nothing tuned for any of them. Weights are selected on the source's validation part: no run sees a label of the target
before its report. The control is the same network from the source's samples alone, with the same initial weights and steps.
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
from transfuse import objectives
from transfuse.evaluate.statistics import over_seeds
from transfuse.jobs import adapt, resume
from transfuse.recipe.load import from_values

SEEDS = (0, 1, 2)
SHIFTS = (("mnist", "usps"), ("usps", "mnist"), ("mnist", "digits"), ("digits", "mnist"))
SIDE = 16
TRAIN = {"steps": 200, "batch_size": 128, "optimizer": {"adamw": {"lr": 0.003}}, "precision": "fp32", "evaluate_every": 1.0}
SUBSETS = "2,000 training and 2,000 test pictures of MNIST, 1,800 and all 2,007 of USPS, 898 and 899 of UCI's digits; all at 16x16"


def methods() -> list[str]:
    """All objectives on domains."""
    return [name for name in objectives.names() if "domains" in objectives.card(name).needs]


def idx(name: str) -> np.ndarray:
    """One of MNIST's files."""
    content = gzip.decompress((data.mnist_folder() / f"{name}.gz").read_bytes())
    dimensions = content[3]
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(dimensions)]
    return np.frombuffer(content[4 + 4 * dimensions :], np.uint8).reshape(shape)


def some(inputs: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """So many samples, stratified, seed 0."""
    kept, _ = train_test_split(np.arange(len(labels)), train_size=count, stratify=labels, random_state=0)
    return inputs[np.sort(kept)], labels[np.sort(kept)]


def write_sets(folder: Path) -> None:
    """The three sets as files for `arrays:`."""
    folder.mkdir(parents=True, exist_ok=True)
    bunch, usps = load_digits(), data.usps()
    pictures = np.round(bunch.images * 255 / 16).astype(np.uint8)
    halves = train_test_split(pictures, bunch.target, test_size=0.5, stratify=bunch.target, random_state=0)
    parts = {
        "mnist": (
            some(idx("train-images-idx3-ubyte"), idx("train-labels-idx1-ubyte"), 2000),
            some(idx("t10k-images-idx3-ubyte"), idx("t10k-labels-idx1-ubyte"), 2000),
        ),
        "usps": (some(usps["x_train"], usps["y_train"], 1800), (usps["x_test"], usps["y_test"])),
        "digits": ((halves[0], halves[2]), (halves[1], halves[3])),
    }
    names = np.array([str(digit) for digit in range(10)])
    for name, ((x_train, y_train), (x_test, y_test)) in parts.items():
        np.savez(folder / f"{name}.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, classes=names)


def run(work: Path, source: str, target: str, method: str, seed: int) -> dict[str, Any]:
    """One run's summary; from its folder where it is finished."""
    out = work / "runs" / f"{source}-{target}-{method}-{seed}"
    if (out / "recipe.resolved.yaml").exists() and not (out / "summary.json").exists():
        resume.resume(out)
    elif not (out / "summary.json").exists():
        values = {
            "job": "adapt",
            "seed": seed,
            "source": {"source": f"arrays:{work / 'sets' / source}.npz", "size": SIDE},
            "target": {"source": f"arrays:{work / 'sets' / target}.npz", "size": SIDE},
            "student": "builtin:convnet",
            "objectives": ["cross_entropy", method],
            "train": TRAIN,
            "cache": {"dir": str(work / "cache")},
            "samples": False,
            "out": str(out),
        }
        adapt.run(from_values(values))
    return json.loads((out / "summary.json").read_text())


def row(shift: tuple[str, str], method: str, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """One method on one shift, over seeds."""

    def spread(values: list[float]) -> list[float]:
        return [round(100 * statistics.mean(values), 2), round(100 * statistics.stdev(values), 2)]

    def accuracy(group: str, model: str) -> list[float]:
        return [summary[group][model]["metrics"]["accuracy"] for summary in summaries]

    gains = over_seeds([summary["transfer"]["gain"] for summary in summaries])
    assert gains.interval is not None
    low, high = gains.interval
    verdict = "helps" if low > 0 else "negative transfer" if high < 0 else "no evidence"
    return {
        "shift": f"{shift[0]} to {shift[1]}",
        "objective": method,
        "target": spread(accuracy("models", "student")),
        "target, source only": spread(accuracy("models", "control")),
        "gain": round(100 * gains.mean, 2),
        "gain_interval": [round(100 * bound, 2) for bound in gains.interval],
        "verdict": verdict,
        "source": spread(accuracy("source_test", "student")),
        "source, source only": spread(accuracy("source_test", "control")),
        "seconds": round(statistics.mean(summary["seconds"]["train"] for summary in summaries), 1),
    }


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for data and runs; a second call goes on there")
def main(work: Path) -> None:
    begun = time.perf_counter()
    work = work.resolve()
    write_sets(work / "sets")
    rows = []
    for shift in SHIFTS:
        for method in methods():
            rows.append(row(shift, method, [run(work, *shift, method, seed) for seed in SEEDS]))
            print(f"{rows[-1]['shift']:16} {method:8} {rows[-1]['target']} gain {rows[-1]['gain']:+.2f} {rows[-1]['verdict']}", flush=True)
        print(write(rows, time.perf_counter() - begun), flush=True)


def write(rows: list[dict[str, Any]], seconds: float) -> Path:
    """The result file, of the shifts that are done."""
    counts = {method: [one["verdict"] for one in rows if one["objective"] == method] for method in methods()}
    figures = {
        "sets": SUBSETS,
        "train": TRAIN,
        "seeds": list(SEEDS),
        "selection": "the source's validation part, a tenth of its training pictures; the target's labels are in the report alone",
        "figures": "percent: mean and standard deviation over seeds; gain over source only with its 95 % t-interval over seeds",
        "verdicts": {method: {name: found.count(name) for name in sorted(set(found))} for method, found in counts.items()},
        "mean gain": {method: round(statistics.mean(one["gain"] for one in rows if one["objective"] == method), 2) for method in methods()},
        "rows": rows,
        "seconds, this call": round(seconds, 1),
    }
    return results.write("adapt_digits", figures)


if __name__ == "__main__":
    main()
