"""Ants and bees with an ImageNet MobileNet: from scratch, through ImageNet's own outputs, frozen, and fine-tuned.

    python -m benchmarks.hymenoptera --work DIR      every run that is not finished yet, then benchmarks/results/hymenoptera.json

The pictures of the PyTorch tutorial (244 to learn from, 153 to report on) and Google's MobileNet V1 0.25 at 128 pixels. The pictures are
probably part of ImageNet's training set, on which the network was trained, so all figures but those from scratch flatter it; the result
file says so beside each of them. A tenth of the training pictures is held out for validation.
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

from benchmarks import data, real_weights, results
from transfuse import data as sources
from transfuse import models
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import DataRequest, ModelRequest
from transfuse.evaluate.predict import predict
from transfuse.evaluate.statistics import mcnemar, over_seeds, wilson
from transfuse.jobs import finetune, resume
from transfuse.recipe.load import from_values

SEEDS = (0, 1, 2, 3, 4)
NETWORK, SIDE = "mobilenetv1_025_224", 128
OUTPUTS = {"ants": 310, "bees": 309}  # of the 1,000 of ImageNet
CAVEAT = "the pictures are probably in ImageNet's training set, which the weights were trained on"
PREPROCESS = {"size": SIDE, "channels": 3, "mean": [0.5], "std": [0.5], "scale": 1 / 255, "crop": 0.875, "resize": "crop_first"}
RATE, SCRATCH_RATE, PROBE_RATE = 1e-3, 3e-3, 3e-3
WAYS: dict[str, tuple[Any, float]] = {
    "frozen": ("probe", PROBE_RATE),
    "lp_ft": ({"lp_ft": {"share": 0.3, "rate": round(RATE / PROBE_RATE, 4)}}, PROBE_RATE),
    "fine-tuned": ("full", RATE),
}
TRAIN = {"epochs": 20, "batch_size": 32, "optimizer": {"adamw": {}}, "precision": "fp32", "evaluate_every": 2}
AUGMENT = {"flip": True, "resized_crop": {"scale": [0.5, 1.0]}, "views": 8}


def recipe(work: Path, way: str, seed: int) -> dict[str, Any]:
    """One run's recipe."""
    policy, rate = WAYS[way]
    return {
        "job": "finetune",
        "seed": seed,
        "data": {"source": f"images:{data.hymenoptera_folder()}", "split": {"seed": seed}, "size": 160},
        "model": {"source": f"file:{work}/weights/{NETWORK}.safetensors", "preprocess": PREPROCESS},
        "policy": policy,
        "lr": rate,
        "control_lr": SCRATCH_RATE,
        "augment": AUGMENT,
        "train": TRAIN,
        "cache": {"dir": str(work / "cache")},
        "samples": False,
    }


def run(work: Path, way: str, seed: int) -> dict[str, Any]:
    """One run's summary with its test answers; from its folder where it is finished."""
    out = work / "runs" / f"{way}-{seed}"
    if (out / "recipe.resolved.yaml").exists() and not (out / "summary.json").exists():
        resume.resume(out)
    elif not (out / "summary.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        finetune.run(from_values({**recipe(work, way, seed), "out": str(out)}))
    found = json.loads((out / "summary.json").read_text())
    for name in ("student", "control"):
        with np.load(out / f"predictions/{name}.npz") as content:
            found[name] = {"ids": content["ids"], "correct": content["outputs"].argmax(1) == content["labels"]}
    return found


def zero_shot(work: Path) -> dict[str, np.ndarray]:
    """ids and bool [n] of the test part: whether ImageNet's ant and bee outputs choose rightly between each other."""
    opened = sources.open_data(f"images:{data.hymenoptera_folder()}", DataRequest(size=160))
    model = models.open_model(f"file:{work}/weights/{NETWORK}.safetensors", ModelRequest())
    chosen = models.fit_to_classes(model, opened.classes, OUTPUTS)
    outputs = predict(chosen.network, opened.test, Preprocess.from_dict(dict(PREPROCESS)))
    return {"ids": opened.test.ids, "correct": (outputs.argmax(1) == opened.test.labels).numpy()}


def row(what: str, correct: list[np.ndarray], pretrained: bool = True) -> dict[str, Any]:
    """Accuracy over seeds."""
    shares = [100 * float(found.mean()) for found in correct]
    spread = round(statistics.stdev(shares), 2) if len(shares) > 1 else None
    return {
        "way": what,
        "accuracy": [round(statistics.mean(shares), 2), spread],
        "of each seed": [round(share, 2) for share in shares],
        "caveat": CAVEAT if pretrained else "none: this network has seen nothing but the training pictures here",
    }


def gain(what: str, better: list[np.ndarray], worse: list[np.ndarray]) -> dict[str, Any]:
    """The first over the second: mean over seeds with its t-interval, and McNemar's test of each seed."""
    found = over_seeds([100 * (float(one.mean()) - float(other.mean())) for one, other in zip(better, worse, strict=True)])
    assert found.interval is not None
    tests = [round(mcnemar(other, one), 4) for one, other in zip(better, worse, strict=True)]
    low, high = found.interval
    verdict = "transfer helps" if low > 0 else "negative transfer" if high < 0 else "no evidence"
    return {
        "gain": what,
        "caveat": CAVEAT,
        "points": round(found.mean, 2),
        "interval": [round(low, 2), round(high, 2)],
        "verdict": verdict,
        "mcnemar": tests,
    }


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for weights and runs; a second call goes on there")
def main(work: Path) -> None:
    begun, work = time.perf_counter(), work.resolve()
    if not (work / "weights" / f"{NETWORK}.safetensors").exists():
        real_weights.convert(NETWORK, data.weights("."), work / "weights")
    made = {way: [run(work, way, seed) for seed in SEEDS] for way in WAYS}
    zero = zero_shot(work)
    for found in [one for runs in made.values() for one in runs]:
        assert np.array_equal(found["student"]["ids"], zero["ids"])
    right = {way: [found["student"]["correct"] for found in runs] for way, runs in made.items()}
    scratch, alone = [found["control"]["correct"] for found in made["fine-tuned"]], [zero["correct"]] * len(SEEDS)
    rows = [
        row("scratch", scratch, pretrained=False),
        row("zero-shot", [zero["correct"]]),
        *(row(way, found) for way, found in right.items()),
    ]
    rows[1]["interval over pictures"] = [round(100 * bound, 2) for bound in wilson(float(zero["correct"].sum()), len(zero["correct"]))]
    gains = [
        *(gain(f"{way} over scratch", found, scratch) for way, found in right.items()),
        *(gain(f"{way} over zero-shot", found, alone) for way, found in right.items()),
        gain("fine-tuned over frozen", right["fine-tuned"], right["frozen"]),
    ]
    for one in (*rows, *gains):
        print(one, flush=True)
    figures = {
        "network": f"MobileNet V1 0.25 of ImageNet, at {SIDE} pixels",
        "caveat": CAVEAT,
        "pictures": {"train and validation": 244, "test": len(zero["correct"]), "one picture": round(100 / len(zero["correct"]), 2)},
        "train": TRAIN,
        "augment": AUGMENT,
        "learning rates": {"fine-tuned": RATE, "from scratch": SCRATCH_RATE, "frozen": PROBE_RATE, "lp_ft": [PROBE_RATE, RATE]},
        "seeds": list(SEEDS),
        "selection": "the best validation, on a tenth of the training pictures that is drawn anew for each seed",
        "figures": "percent: mean and standard deviation over seeds; gains in points with 95 % t-intervals over seeds, paired",
        "rows": rows,
        "gains": gains,
        "seconds, this call": round(time.perf_counter() - begun, 1),
    }
    print(results.write("hymenoptera", figures))


if __name__ == "__main__":
    main()
