"""A remembered teacher against a live one on the same views: loss and gradient at the same weights, and accuracy over whole runs.

    python -m benchmarks.cached_vs_live --out DIR      DIR keeps the converted weights, the caches and what is done already

Part one: trained ResNet-56 -> ResNet-20, CIFAR-10, random crops and flips. One student trains with the live teacher; at each of 200 steps
its loss and gradient are computed once more, at the very same weights, with answers read from stores of fp16 and fp32. The student's batch
has another size than the one in which a remembered teacher is asked. Part two: 5 seeds of whole runs on MNIST, whose trained MLP
teaches a small one, with the teacher live and remembered; nothing is selected, the last weights are measured on the test set.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import data, results
from benchmarks.real_weights import convert
from transfuse import objectives
from transfuse.core.preprocess import Preprocess
from transfuse.core.protocols import Teacher
from transfuse.core.types import DataRequest, ModelRequest, Samples, Step, WeightedObjective
from transfuse.data import open_data
from transfuse.data.samples import subset
from transfuse.data.views import BatchViews
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.order import Order
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.teacher_cache.cached import CachedTeacher, Memory
from transfuse.engine.teacher_cache.forms import Dense
from transfuse.engine.teacher_cache.room import Room
from transfuse.engine.teacher_cache.store import Store
from transfuse.engine.teacher_cache.teachers import LiveTeacher
from transfuse.evaluate.predict import predict
from transfuse.models import open_model

STEPS, BATCH = 200, 96  # a remembered teacher is asked in batches of 128
SEEDS = range(5)
MNIST_TRAIN, MNIST_EPOCHS, MNIST_BATCH = 5000, 16, 100


def terms() -> list[WeightedObjective]:
    """0.1 cross-entropy + 0.9 soft targets at temperature 4."""
    return [
        WeightedObjective(name, objectives.get(name)(), objectives.card(name), lambda progress, weight=weight: weight, teachers)
        for name, weight, teachers in (("cross_entropy", 0.1, ()), ("kd", 0.9, ("teacher",)))
    ]


def remembering(live: LiveTeacher, folder: Path, precision: str, pool: int, classes: int = 10) -> CachedTeacher:
    """The teacher, with a store of its own."""
    form = Dense((classes,), precision)
    return CachedTeacher(live, Memory(Store(Room(folder), f"answers-{precision}", pool, form.bytes, {}), form))


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Length of the difference of two gradients over the length of the second."""
    difference = sum(float((a - b).double().square().sum()) for a, b in zip(one, other, strict=True))
    return (difference / sum(float(b.double().square().sum()) for b in other)) ** 0.5


def compared_steps(out: Path) -> dict[str, Any]:
    """Part one."""
    teacher = open_model(f"file:{convert('akamaster_resnet56', data.weights('.'), out)}", ModelRequest())
    opened = open_data(f"arrays:{data.write_arrays('cifar10', out / 'cifar10.npz')}", DataRequest())
    student = open_model("builtin:resnet20", ModelRequest(outputs=10, input_shape=(3, 32, 32), seed=0)).network.train()
    pool = opened.train
    loader = MemoryLoader(pool, BatchViews(views=8, seed=0, crop=4, flip=True), Order(len(pool), BATCH, 0))
    assert teacher.preprocess is not None
    live = LiveTeacher(teacher.network, teacher.preprocess, loader.fetch)
    stores = {precision: remembering(live, out / "compared", precision, len(pool)) for precision in ("fp16", "fp32")}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    weighted = terms()
    rows = []
    for number, batch in enumerate(loader.batches(0, STEPS)):
        logits = student(opened.preprocess(batch.inputs))
        answers = {"live": live.answers(batch.ids, batch.views, batch.inputs)}
        answers |= {name: store.answers(batch.ids, batch.views, batch.inputs) for name, store in stores.items()}
        losses, gradients = {}, {}
        for name, said in answers.items():
            step = Step(batch, type(said)(logits), {"teacher": said})
            loss = torch.stack([term.weight(0) * term.objective(step).mean() for term in weighted]).sum()
            losses[name] = loss.item()
            gradients[name] = [one.clone() for one in torch.autograd.grad(loss, list(student.parameters()), retain_graph=True)]
        rows.append(
            {
                name: {
                    "loss": abs(losses[name] - losses["live"]) / losses["live"],
                    "gradient": distance(gradients[name], gradients["live"]),
                    "logits": float((answers[name].logits - answers["live"].logits).abs().max()),
                }
                for name in stores
            }
        )
        for parameter, gradient in zip(student.parameters(), gradients["live"], strict=True):
            parameter.grad = gradient
        optimizer.step()
        if number % 20 == 0:
            print(number, losses, rows[-1], flush=True)
    return {name: {what: spread([row[name][what] for row in rows]) for what in ("loss", "gradient", "logits")} for name in stores}


def spread(values: list[float]) -> dict[str, float]:
    """Median and largest."""
    return {"median": float(f"{statistics.median(values):.3g}"), "largest": float(f"{max(values):.3g}")}


def whole_run(pool: Samples, test: Samples, teacher: nn.Module, preprocess: Preprocess, folder: Path, seed: int, kind: str) -> float:
    """Test accuracy of a student after one run of part two."""
    order = Order(len(pool), MNIST_BATCH, seed)
    loader = MemoryLoader(pool, BatchViews(views=8, seed=0, crop=2), order)
    live = LiveTeacher(teacher, preprocess, loader.fetch)
    asked: Teacher = live if kind == "live" else remembering(live, folder, "fp16", len(pool))
    request = ModelRequest(outputs=10, input_shape=(1, 28, 28), seed=seed, options={"widths": [32]})
    student = open_model("builtin:mlp", request).network
    settings = Settings(steps=order.steps(MNIST_EPOCHS), seed=seed, optimizer=("adamw", {"lr": 0.003}), select="last")
    Loop(Supervised(student, preprocess, terms(), {"teacher": asked}), loader, settings).fit()
    outputs = predict(student, test, preprocess)
    return float((outputs.argmax(1) == test.labels).float().mean())


def whole_runs(out: Path) -> dict[str, Any]:
    """Part two; a run that is done already is not done again."""
    teacher = open_model(f"file:{convert('otfusion_mlp_0', data.weights('.'), out)}", ModelRequest())
    opened = open_data(f"idx:{data.mnist_folder()}", DataRequest(labels_per_class=None))
    assert teacher.preprocess is not None
    pool = subset(opened.train, np.random.default_rng(0).choice(len(opened.train), MNIST_TRAIN, replace=False))
    done_file = out / "whole_runs.json"
    done = json.loads(done_file.read_text()) if done_file.exists() else {}
    for seed in SEEDS:
        for kind in ("live", "remembered"):
            if f"{kind} {seed}" not in done:
                done[f"{kind} {seed}"] = whole_run(pool, opened.test, teacher.network, teacher.preprocess, out / "runs", seed, kind)
                done_file.write_text(json.dumps(done))
                print(kind, seed, done[f"{kind} {seed}"], flush=True)
    accuracies = {kind: [round(done[f"{kind} {seed}"], 4) for seed in SEEDS] for kind in ("live", "remembered")}
    differences = [after - before for before, after in zip(accuracies["live"], accuracies["remembered"], strict=True)]
    return {
        "test accuracy by seed": accuracies,
        "mean": {kind: round(statistics.mean(values), 4) for kind, values in accuracies.items()},
        "std over seeds": {kind: round(statistics.stdev(values), 4) for kind, values in accuracies.items()},
        "difference, remembered less live": {
            "mean": round(statistics.mean(differences), 5),
            "largest": round(max(differences, key=abs), 5),
        },
    }


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for weights, caches and finished runs")
def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    compared = compared_steps(out)
    print(compared)
    runs = whole_runs(out)
    print(runs)
    figures = {
        "compared": {
            "what": f"ResNet-56 -> ResNet-20, CIFAR-10, crop 4, flip, 8 views, batch {BATCH}, {STEPS} steps, fp32; relative to live",
            **compared,
        },
        "whole runs": {
            "what": f"MLP 784-400-200-100-10 -> 784-32-10, {MNIST_TRAIN} MNIST pictures, crop 2, 8 views, {MNIST_EPOCHS} epochs, fp16",
            **runs,
        },
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(results.write("cached_vs_live", figures))


if __name__ == "__main__":
    main()
