"""What each initialisation from a larger or deeper network is worth against a random one, before training and after a little of it.

    python -m benchmarks.initialisation              every run that is not finished yet, then benchmarks/results/initialisation.json
    python -m benchmarks.initialisation --collect    no run: the result of the tasks that are finished

Sources are published networks. Students are trained from labels alone, in the same order for all initialisations of a seed, by Adam with
lr 0.001 and nothing tuned; accuracy is measured before the first step, after one epoch and after ten. The CIFAR-10 weights have seen every
training picture of CIFAR-10, so accuracies are of held-back pictures: the half of them that nothing here is chosen on. `REDUCTION` says how
small the budget is.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import data, real_weights, results
from transfuse.core import seeds
from transfuse.core.types import DataRequest, ModelRequest
from transfuse.data.splits import held_out
from transfuse.evaluate.statistics import over_seeds
from transfuse.fusion.alignment.tracing import trace
from transfuse.jobs.parts.initialisation import moments_of
from transfuse.models import open_model
from transfuse.policies import init
from transfuse.policies.init._scene import SAMPLES, Scene

WORK = Path(tempfile.gettempdir()) / "transfuse-initialisation"
SEEDS = (0, 1, 2)
RATE, BATCH = 0.001, 64
EPOCHS = (0, 1, 10)
REDUCTION = "labelled training samples: 3,000 of MNIST, 2,000 of CIFAR-10, 2,000 of CIFAR-100 (20 a class); no augmentation"
NARROW: dict[str, dict[str, Any]] = {
    "random": {},
    "scaled_copy": {"scaled_copy": {}},
    "select uniform": {"select": {"by": "uniform"}},
    "select norm": {"select": {"by": "norm"}},
    "select activations": {"select": {"by": "activations"}},
    "select activations, no scale": {"select": {"by": "activations", "scale": "none"}},
    "select activations, fan_in": {"select": {"by": "activations", "scale": "fan_in"}},
    "project svd": {"project": {"by": "svd"}},
    "project random": {"project": {"by": "random"}},
}


@dataclass(frozen=True)
class Task:
    """One pair of source and student on one data set.

    Attributes:
        source: published weights, as `real_weights` calls them.
        student: architecture and options.
        inits: name -> the initialisation's block; empty: random.
        data: () -> (training pictures, labels, test pictures, labels), prepared as the source takes them.
    """

    source: str
    student: tuple[str, dict[str, Any]]
    inits: dict[str, dict[str, Any]]
    data: Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]


def mnist() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from transfuse.data import open_data

    found = open_data(f"idx:{data.mnist_folder()}", DataRequest())
    chosen = held_out(found.train.labels.numpy(), 3000 / len(found.train), 0, "initialisation").nonzero()[0]
    train, test = torch.from_numpy(chosen), torch.arange(len(found.test))
    prepare = real_weights.MNIST
    return found.train.exact(train, prepare), found.train.labels[train], found.test.exact(test, prepare), found.test.labels


def cifar(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    arrays = data.cifar10() if name == "cifar10" else data.cifar100()
    chosen = held_out(arrays["y_train"], 2000 / len(arrays["y_train"]), 0, "initialisation")
    reported = ~data.for_choosing(arrays["y_test"])

    def prepared(pictures: np.ndarray) -> Tensor:
        return real_weights.IMAGENET(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))

    labels = [torch.from_numpy(arrays[f"y_{part}"][rows].astype(np.int64)) for part, rows in (("train", chosen), ("test", reported))]
    return prepared(arrays["x_train"][chosen]), labels[0], prepared(arrays["x_test"][reported]), labels[1]


TASKS = {
    "MNIST, MLP 400-200-100 to 40-20-10": Task("otfusion_mlp_0", ("builtin:mlp", {"widths": [40, 20, 10], "bias": False}), NARROW, mnist),
    "CIFAR-10, ResNet-20 to half its width": Task(
        "akamaster_resnet20",
        ("builtin:resnet20", {"width": 0.5, "shortcut": "A"}),
        {name: block for name, block in NARROW.items() if "," not in name},
        lambda: cifar("cifar10"),
    ),
    "CIFAR-10, ResNet-56 to ResNet-20": Task(
        "akamaster_resnet56",
        ("builtin:resnet20", {"shortcut": "A"}),
        {
            "random": {},
            "drop_layers spread": {"drop_layers": {}},
            "drop_layers first": {"drop_layers": {"keep": "first"}},
            "drop_layers last": {"drop_layers": {"keep": "last"}},
            "drop_layers spread, outputs' scale measured": {"select": {"by": "uniform"}},
        },
        lambda: cifar("cifar10"),
    ),
    "CIFAR-10 to CIFAR-100, ResNet-20": Task(
        "akamaster_resnet20",
        ("builtin:resnet20", {"shortcut": "A"}),
        {
            "random": {},
            "copy": {"copy": {}},
            "compress_outputs of features": {"compress_outputs": {}},
            "compress_outputs of outputs": {"compress_outputs": {"of": "outputs"}},
        },
        lambda: cifar("cifar100"),
    ),
}


def accuracy(network: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    with torch.inference_mode():
        answers = torch.cat([network.eval()(part).argmax(1) for part in pictures.split(500)])
    return float((answers == labels).float().mean())


def scene_of(pictures: Tensor, labels: Tensor, classes: int, seed: int) -> Scene:
    def batches(samples: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        order = torch.randperm(len(pictures), generator=seeds.generator(seed, "scene"))[:samples]
        for rows in order.split(256):
            yield pictures[rows], pictures[rows], F.one_hot(labels[rows], classes).float()

    return Scene(
        batches, lambda net: trace(net, pictures[:2]).groups, lambda net: moments_of(net, [part[0] for part in batches(SAMPLES)]), seed
    )


def train(network: nn.Module, pictures: Tensor, labels: Tensor, seed: int) -> Iterator[int]:
    """Trains, and stops after each of `EPOCHS` so that somebody can look."""
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    for epoch in range(EPOCHS[-1] + 1):
        if epoch in EPOCHS:
            yield epoch
        network.train()
        order = torch.randperm(len(pictures), generator=seeds.generator(seed, "order", epoch))
        for rows in order.split(BATCH) if epoch < EPOCHS[-1] else ():
            optimizer.zero_grad()
            F.cross_entropy(network(pictures[rows]), labels[rows]).backward()
            optimizer.step()


def run(task: Task, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Accuracy on held-back pictures after each of `EPOCHS`, and what of the student came from the source."""
    pictures, labels, shown, wanted = task.data()
    classes = int(labels.max()) + 1
    architecture, options = task.student
    request = ModelRequest(outputs=classes, input_shape=tuple(pictures.shape[1:]), options=dict(options), seed=seed)
    student = open_model(architecture, request).network
    share, how = 0.0, task.inits[name]
    if how:
        root = data.weights("")
        source = open_model(f"file:{real_weights.convert(task.source, root, folder)}").network
        method, settings = next(iter(how.items()))
        share = init.get(method)(**settings)(source.eval(), student.eval(), scene_of(pictures, labels, classes, seed)).share
    reached = {str(epoch): accuracy(student, shown, wanted) for epoch in train(student, pictures, labels, seed)}
    return {"seed": seed, "from source": share, "reached": reached}


def summed(task: Task, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean and spread over seeds of each initialisation, the paired difference from the random one, and what that says."""
    found = {}
    for name, rows in runs.items():
        entry: dict[str, Any] = {"from source": rows[0]["from source"]}
        for epoch in map(str, EPOCHS):
            values = [row["reached"][epoch] for row in rows]
            gains = [row["reached"][epoch] - other["reached"][epoch] for row, other in zip(rows, runs["random"], strict=True)]
            entry[f"after {epoch} epochs"] = {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "seeds": values}
            if name != "random":
                spread = over_seeds(gains)
                assert spread.interval is not None
                verdict = "helps" if spread.interval[0] > 0 else "negative transfer" if spread.interval[1] < 0 else "no evidence"
                entry[f"after {epoch} epochs"] |= {"over random": spread.mean, "interval": spread.interval, "verdict": verdict}
        found[name] = entry
    return {"source": task.source, "student": list(task.student), "test": found}


@click.command()
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "transfuse-initialisation", show_default=True
)
@click.option("--only", default="", help="Tasks whose name has this in it.")
@click.option("--collect", is_flag=True, help="Run nothing, and write the result of the tasks that are finished.")
def main(work: Path, only: str, collect: bool) -> None:
    """Runs what is not finished, and writes the result of every task that is."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    place = work / "runs.json"
    done: dict[str, dict[str, Any]] = json.loads(place.read_text()) if place.exists() else {}
    for title, task in TASKS.items():
        for seed in SEEDS:
            for name in task.inits:
                key = f"{title} | {name} | {seed}"
                if key in done or collect or only not in title:
                    continue
                done[key] = run(task, name, seed, work)
                place.write_text(json.dumps(done, indent=1))
                print(key, {epoch: f"{value:.2%}" for epoch, value in done[key]["reached"].items()}, flush=True)
    finished = {
        title: task for title, task in TASKS.items() if all(f"{title} | {name} | {seed}" in done for name in task.inits for seed in SEEDS)
    }
    figures = {
        title: summed(task, {name: [done[f"{title} | {name} | {seed}"] for seed in SEEDS] for name in task.inits})
        for title, task in finished.items()
    }
    settings = {"optimiser": f"Adam, lr {RATE}", "batch": BATCH, "epochs": list(EPOCHS), "seeds": list(SEEDS), "reduction": REDUCTION}
    print(results.write("initialisation", {"settings": settings, "tasks": figures, "not finished": [*TASKS.keys() - finished.keys()]}))


if __name__ == "__main__":
    main()
