"""One student over ten digits out of two networks that know some of them each, without a label: disjoint and overlapping class sets.

    python -m benchmarks.amalgamate_digits --work DIR     every run that is not finished, then benchmarks/results/amalgamate_digits.json

MNIST at 14x14. Per seed: specialists are trained on 20,000 pictures (as many of them as show their digits); 4,000 others are the pictures
on which the student learns. It sees no label: not of its training pictures, and its weights are those of the last step. The upper bound is
the same student with the same initial weights, order and steps, trained on the labels of these 4,000 pictures. Nothing was tuned on the
test part, which is looked at once per run, in the report; the mixture of the join was set on training pictures.
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
import torch
from sklearn.model_selection import train_test_split

from benchmarks import data, results
from transfuse.evaluate.statistics import over_seeds
from transfuse.jobs import distill, fuse, resume
from transfuse.objectives.outputs.amalgamate import joined
from transfuse.recipe.load import from_values

SEEDS = (0, 1, 2, 3, 4)
PAIRS = {"disjoint: 0-4 and 5-9": (range(5), range(5, 10)), "overlapping: 0-6 and 4-9": (range(7), range(4, 10))}
SPECIALISTS, POOL, VALIDATION = 20_000, 4_000, 1_000
SPECIALIST = {"steps": 300, "batch_size": 128, "optimizer": {"adamw": {"lr": 0.003}}, "precision": "fp32", "evaluate_every": 2.0}
STUDENT = {**SPECIALIST, "steps": 300, "select": "last", "evaluate_every": 20.0}
NETWORK = "builtin:convnet"


def idx(name: str) -> np.ndarray:
    """One of MNIST's files."""
    content = gzip.decompress((data.mnist_folder() / f"{name}.gz").read_bytes())
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(content[3])]
    return np.frombuffer(content[4 + 4 * content[3] :], np.uint8).reshape(shape)


def halved(pictures: np.ndarray) -> np.ndarray:
    """uint8 [n, 14, 14]: means of two by two pixels."""
    count = len(pictures)
    return np.round(pictures.reshape(count, 14, 2, 14, 2).mean((2, 4))).astype(np.uint8)


def write_sets(folder: Path, seed: int) -> None:
    """The student's pictures, and those of each specialist with its digits alone, as files for `arrays:`."""
    if (folder / "pool.npz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    pictures, labels = halved(idx("train-images-idx3-ubyte")), idx("train-labels-idx1-ubyte")
    test, test_labels = halved(idx("t10k-images-idx3-ubyte")), idx("t10k-labels-idx1-ubyte")
    sizes = {"train_size": SPECIALISTS, "test_size": POOL + VALIDATION}
    theirs, rest = train_test_split(np.arange(len(labels)), **sizes, stratify=labels, random_state=seed)
    pool, val = train_test_split(rest, train_size=POOL, stratify=labels[rest], random_state=seed)
    names = np.array([str(digit) for digit in range(10)])
    for known in {own for pair in PAIRS.values() for own in pair}:
        parts = {}
        for part, x, y in (("train", pictures[theirs], labels[theirs]), ("val", pictures[val], labels[val]), ("test", test, test_labels)):
            rows = np.isin(y, known)
            parts |= {f"x_{part}": x[rows], f"y_{part}": y[rows] - known[0]}
        np.savez(folder / f"{known[0]}-{known[-1]}.npz", classes=names[list(known)], **parts)
    parts = {"x_train": pictures[pool], "y_train": labels[pool], "x_val": pictures[val], "y_val": labels[val]}
    np.savez(folder / "pool.npz", x_test=test, y_test=test_labels, classes=names, **parts)


def finished(out: Path, job: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run: of a finished one, of one that is gone on with, or of a new one."""
    if (out / "recipe.resolved.yaml").exists() and not (out / "summary.json").exists():
        resume.resume(out)
    elif not (out / "summary.json").exists():
        job.run(from_values({**values, "out": str(out), "samples": False}))
    return json.loads((out / "summary.json").read_text())


def specialist(work: Path, known: range, seed: int) -> Path:
    """The run of a network that knows some digits."""
    name = f"{known[0]}-{known[-1]}"
    out = work / f"seed{seed}" / f"specialist-{name}"
    values = {"student": NETWORK, "train": SPECIALIST, "seed": seed + 10 * known[0] + 100, "objectives": ["cross_entropy"]}
    finished(out, distill, {"job": "distill", "data": f"arrays:{work / f'seed{seed}' / name}.npz", "control": "none", **values})
    return out


def amalgamated(work: Path, pair: tuple[range, range], seed: int) -> dict[str, Any]:
    """One pair's figures with one seed, in percent."""
    names = [f"{known[0]}-{known[-1]}" for known in pair]
    out = work / f"seed{seed}" / f"student-{'-and-'.join(names)}"
    sources = {f"knows_{name}": f"run:{specialist(work, known, seed)}" for name, known in zip(names, pair, strict=True)}
    values = {"data": f"arrays:{work / f'seed{seed}' / 'pool'}.npz", "sources": sources, "student": NETWORK, "train": STUDENT, "seed": seed}
    summary = finished(out, fuse, {"job": "fuse", "how": "amalgamate", "cache": {"dir": str(work / "cache")}, **values})
    said = []
    for name in sources:
        with np.load(out / "predictions" / f"{name}.npz") as stored:
            said.append(torch.from_numpy(stored["outputs"]))
            labels = torch.from_numpy(stored["labels"])
    alone = joined(said, mixture=1e6)  # the second term decides: for disjoint sets the softmax of all logits side by side
    accuracy = {name: 100 * block["metrics"]["accuracy"] for name, block in summary["models"].items()}
    return {
        "specialists": [100 * block["metrics"]["accuracy"] for block in summary["sources"].values()],
        "mixture of the sources": 100 * (alone.argmax(1) == labels).float().mean().item(),
        "join of the sources": accuracy["ensemble"],
        "student": accuracy["student"],
        "joint training": accuracy["control"],
        "seconds": summary["seconds"]["train"],
    }


def row(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """One pair over seeds."""
    gaps = over_seeds([one["student"] - one["joint training"] for one in found])
    assert gaps.interval is not None
    figures = ("mixture of the sources", "join of the sources", "student", "joint training")
    columns = {key: [one[key] for one in found] for key in figures}
    spread = {key: [round(statistics.mean(values), 2), round(statistics.stdev(values), 2)] for key, values in columns.items()}
    own = [statistics.mean(values) for values in zip(*(one["specialists"] for one in found), strict=True)]
    return {
        "class sets": name,
        "specialists, own digits": [round(value, 2) for value in own],
        **spread,
        "student - joint training": round(gaps.mean, 2),
        "interval": [round(bound, 2) for bound in gaps.interval],
        "within 1 point": bool(gaps.mean > -1),
        "per seed": [{key: round(one[key], 2) for key in figures} for one in found],
        "seconds of a student": round(statistics.mean(one["seconds"] for one in found), 1),
    }


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for data and runs; a second call goes on there")
def main(work: Path) -> None:
    begun = time.perf_counter()
    work = work.resolve()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PAIRS}
    for seed in SEEDS:
        write_sets(work / f"seed{seed}", seed)
        for name, pair in PAIRS.items():
            found[name].append(amalgamated(work, pair, seed))
            print(seed, name, {key: value for key, value in found[name][-1].items() if key != "specialists"}, flush=True)
    figures = {
        "sets": f"MNIST at 14x14: {SPECIALISTS:,} pictures for the specialists, {POOL:,} others for the student, all 10,000 test pictures",
        "network": NETWORK,
        "train": {"specialists": SPECIALIST, "student and joint training": STUDENT},
        "seeds": list(SEEDS),
        "selection": "none in these runs: the student's weights are those of the last step, and no label is looked at for it but the test "
        "part's; the default mixture of 0.1 was set once, before, by the labels of 4,000 training pictures",
        "figures": "percent of the test part: mean and standard deviation over seeds; the difference with its 95 % t-interval over seeds",
        "rows": [row(name, runs) for name, runs in found.items()],
        "seconds, this call": round(time.perf_counter() - begun, 1),
    }
    print(results.write("amalgamate_digits", figures), flush=True)


if __name__ == "__main__":
    main()
