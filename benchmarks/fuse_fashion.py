"""Fused features of different networks beside the best single one: Fashion-MNIST with few labels, ants and bees with ImageNet networks.

    python -m benchmarks.fuse_fashion --work DIR      every run that is not finished yet, then benchmarks/results/fuse_fashion.json

Fashion-MNIST: a convolutional network, an MLP and a small vision transformer, each trained on the same 1,000 labelled pictures (100 per
class); their features are fused by every rule, with heads that learn from the same 1,000 labels. 500 other labelled pictures choose the
rule and the best single source; 3,000 test pictures are looked at once per run. A seed decides pictures, initial weights and order.

Ants and bees: three MobileNets with ImageNet weights of two authors; features are asked for once and remembered, so that five seeds of
heads cost nothing else. A fifth of the 244 training pictures chooses; the 153 others are for the report. The pictures are probably part of
ImageNet's training set, so all figures flatter the networks.
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

from benchmarks import data, real_weights, results
from transfuse import data as sources_of_data
from transfuse.core.types import DataRequest, DataSet, Model
from transfuse.evaluate.statistics import over_seeds, paired_difference
from transfuse.jobs import distill, fuse, resume
from transfuse.jobs.context import Context
from transfuse.jobs.fusing.features import Backbones, open_backbones, trained_head
from transfuse.jobs.parts.answers import Oracle
from transfuse.jobs.rundir import RunDir
from transfuse.models import open_model
from transfuse.recipe.blocks import CacheBlock, TrainBlock
from transfuse.recipe.fused_features import FeaturesBlock
from transfuse.recipe.load import from_values

SEEDS = (0, 1, 2, 3, 4)
RULES = ("concat", "weighted_sum", "gated_sum", "attention")
LABELS, CHOOSING, REPORTED = 1_000, 500, 3_000
GREY = {"size": 28, "channels": 1, "mean": [0.2860], "std": [0.3530], "scale": 1 / 255}
VIT = {"img_size": 28, "patch_size": 7, "embed_dim": 64, "depth": 3, "num_heads": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "cnn": {"source": "builtin:convnet", "options": {"widths": [8, 16, 32]}, "preprocess": GREY},
    "mlp": {"source": "builtin:mlp", "options": {"widths": [256, 128]}, "preprocess": GREY},
    "vit": {"source": "timm:vit_tiny_patch16_224", "options": VIT, "preprocess": GREY},
}
TRAIN = {
    "steps": 500,
    "batch_size": 64,
    "optimizer": {"adamw": {"lr": 0.002, "weight_decay": 0.05}},
    "precision": "fp32",
    "evaluate_every": 2.0,
}
HEADS = {"steps": 200, "batch_size": 128, "optimizer": {"adamw": {"lr": 0.003, "weight_decay": 0.1}}, "evaluate_every": 1.0}
BEES_HEADS = {"steps": 100, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.003, "weight_decay": 0.1}}, "evaluate_every": 5.0}
ANTS = {"mobilenetv2_100_224": 311, "mobilenetv1_050_160": 311, "mobilenetv1_025_224": 310}  # the output of ants; that of bees is one less
CAVEAT = "the pictures are probably in ImageNet's training set, which the weights were trained on"


def idx(name: str) -> np.ndarray:
    """One of Fashion-MNIST's files."""
    content = gzip.decompress((data.fashion_mnist_folder() / f"{name}.gz").read_bytes())
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(content[3])]
    return np.frombuffer(content[4 + 4 * content[3] :], np.uint8).reshape(shape)


def write_set(path: Path, seed: int) -> None:
    """Few labelled pictures, as a file for `arrays:`."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures, labels = idx("train-images-idx3-ubyte"), idx("train-labels-idx1-ubyte")
    sizes = {"train_size": LABELS, "test_size": CHOOSING}
    train, val = train_test_split(np.arange(len(labels)), **sizes, stratify=labels, random_state=seed)
    classes = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    parts = {"x_train": pictures[train], "y_train": labels[train], "x_val": pictures[val], "y_val": labels[val]}
    test = np.sort(np.random.default_rng(seed).permutation(10_000)[:REPORTED])
    pictures, labels = idx("t10k-images-idx3-ubyte")[test], idx("t10k-labels-idx1-ubyte")[test]
    np.savez(path, x_test=pictures, y_test=labels, classes=np.array(classes), **parts)


def finished(out: Path, job: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run: of a finished one, of one that is gone on with, or of a new one."""
    if (out / "recipe.resolved.yaml").exists() and not (out / "summary.json").exists():
        resume.resume(out)
    elif not (out / "summary.json").exists():
        job.run(from_values({**values, "out": str(out), "samples": False}))
    return json.loads((out / "summary.json").read_text())


def fashion(work: Path, seed: int) -> dict[str, Any]:
    """Sources and their fusion with one seed, in percent."""
    place = work / "fashion" / f"seed{seed}"
    write_set(place / "few.npz", seed)
    shared = {"data": f"arrays:{place / 'few.npz'}", "seed": seed, "cache": {"dir": str(work / "cache")}}
    for name, network in NETWORKS.items():
        plain = {"objectives": ["cross_entropy"], "control": "none", "train": TRAIN}
        finished(place / name, distill, {"job": "distill", "student": network, **plain, **shared})
    sources = {name: f"run:{place / name}" for name in NETWORKS}
    ways = [f"features.{rule}" for rule in RULES]
    features = {"train": HEADS, "contributions": seed == SEEDS[0]}  # every set of sources has a head of its own, so once is enough
    summary = finished(place / "fused", fuse, {"job": "fuse", "sources": sources, "how": ways, "features": features, **shared})
    found = summary["fusion"]
    accuracy = {name: 100 * block["metrics"]["accuracy"] for name, block in summary["models"].items()}
    rows = {row["name"]: row for row in found["ways"]}
    return {
        "sources": {name: 100 * block["metrics"]["accuracy"] for name, block in summary["sources"].items()},
        "best single": accuracy["control"],
        "best single is": found["best_single"],
        "plain ensemble": accuracy["ensemble"],
        "fused": accuracy["student"],
        "rule": found["chosen"],
        "rules": {name: 100 * rows[name]["test"] for name in ways},
        "contributions": rows[found["chosen"]].get("contributions"),
        "interval over test pictures": [100 * bound for bound in summary["transfer"]["gain_interval"]],
    }


def bees(work: Path) -> list[dict[str, Any]]:
    """The three MobileNets, asked once; heads with every seed."""
    (work / "weights").mkdir(parents=True, exist_ok=True)
    request = DataRequest(val=0.2, size=224)
    opened = sources_of_data.open_data(f"images:{data.hymenoptera_folder()}", request)
    cache = CacheBlock(dir=str(work / "cache"))
    networks = {name: zero_shot(mobilenet(work, name), name, opened) for name in ANTS}
    single = {}
    for name, model in networks.items():
        oracle = Oracle(name, model, opened, cache, "fp32", torch.device("cpu"))
        single[name] = [right(oracle.outputs(part), part.labels) for part in (opened.val, opened.test)]
    found = []
    for seed in SEEDS:
        context = Context(RunDir(work / "bees" / f"seed{seed}"))
        context.rundir.path.mkdir(parents=True, exist_ok=True)
        ready = open_backbones(context, networks, opened, FeaturesBlock(train=TrainBlock(**BEES_HEADS)), cache, seed)
        found.append({**one_seed(ready, opened, cache, single), "pictures asked about": ready.forwards})
    return found


def one_seed(ready: Backbones, opened: DataSet, cache: CacheBlock, single: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Every rule, and the best single source: a network as it is, or a head on its features; chosen on validation."""
    columns = torch.cat([test_features(ready, name, opened, cache) for name in ready.members], 1)
    alone = {f"{name} as it is": (float(val.mean()), test) for name, (val, test) in single.items()}
    starts = dict(zip(ready.dims, np.cumsum([0, *ready.dims.values()]).tolist(), strict=False))
    for name in ready.members:
        top, score = trained_head(ready, "concat", {}, (name,))
        alone[f"head on {name}"] = (score, said_right(top, columns[:, starts[name] : starts[name] + ready.dims[name]], opened))
    fused = {}
    for rule in RULES:
        top, score = trained_head(ready, rule, {}, tuple(ready.members))
        fused[rule] = (score, said_right(top, columns, opened))
    best, chosen = (max(group, key=lambda name: group[name][0]) for group in (alone, fused))
    first, second = alone[best][1], fused[chosen][1]
    interval = paired_difference(len(first), lambda row: row @ first / row.sum(1), lambda row: row @ second / row.sum(1))
    assert interval is not None
    return {
        "sources": {name: 100 * float(test.mean()) for name, (_, test) in alone.items()},
        "best single": 100 * float(first.mean()),
        "best single is": best,
        "fused": 100 * float(second.mean()),
        "rule": chosen,
        "rules": {name: 100 * float(test.mean()) for name, (_, test) in fused.items()},
        "interval over test pictures": [100 * bound for bound in interval],
    }


def mobilenet(work: Path, name: str) -> Model:
    """Published weights, converted once."""
    path = work / "weights" / f"{name}.safetensors"
    if not path.exists():
        real_weights.convert(name, data.weights("."), work / "weights")
    return open_model(f"file:{path}")


def zero_shot(model: Model, name: str, opened: DataSet) -> Model:
    """The network as a choice between its outputs for ants and for bees."""
    from transfuse.models import fit_to_classes

    ants = ANTS[name]
    return fit_to_classes(model, opened.classes, {"ants": ants, "bees": ants - 1})


def test_features(ready: Backbones, name: str, opened: DataSet, cache: CacheBlock) -> torch.Tensor:
    """One source's features of the test pictures, remembered."""
    model = Model(ready.members[name], name, preprocess=ready.preprocess)
    return Oracle(name, model, opened, cache, "fp32", torch.device("cpu")).outputs(opened.test)


def right(outputs: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """1.0 where the largest output is the label's."""
    return (outputs.argmax(1) == labels).double().numpy()


def said_right(top: torch.nn.Module, columns: torch.Tensor, opened: DataSet) -> np.ndarray:
    """The same of a head."""
    with torch.no_grad():
        return right(top.eval()(columns), opened.test.labels)


def summed(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One data set over seeds."""

    def spread(values: list[float]) -> list[float]:
        return [round(statistics.mean(values), 2), round(statistics.stdev(values), 2)]

    gaps = over_seeds([one["fused"] - one["best single"] for one in found])
    assert gaps.interval is not None
    figures = [key for key in ("best single", "plain ensemble", "fused") if key in found[0]]
    return {
        "sources": {name: spread([one["sources"][name] for one in found]) for name in found[0]["sources"]},
        **{key: spread([one[key] for one in found]) for key in figures},
        "rules": {name: spread([one["rules"][name] for one in found]) for name in found[0]["rules"]},
        "fused - best single": round(gaps.mean, 2),
        "interval": [round(bound, 2) for bound in gaps.interval],
        "lower end above -1 point": bool(gaps.interval[0] > -1),
        "per seed": found,
    }


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for data and runs; a second call goes on there")
def main(work: Path) -> None:
    begun = time.perf_counter()
    work = work.resolve()
    runs = []
    for seed in SEEDS:
        runs.append(fashion(work, seed))
        print(seed, {key: value for key, value in runs[-1].items() if key != "contributions"}, flush=True)
    pictures = bees(work)
    figures = {
        "fashion": {"sets": f"{LABELS:,} labels to learn from, {CHOOSING} to choose by, {REPORTED:,} test pictures", **summed(runs)},
        "ants and bees": {"caveat": CAVEAT, **summed(pictures)},
        "networks": NETWORKS,
        "train": {"sources": TRAIN, "heads": HEADS, "heads, ants and bees": BEES_HEADS},
        "seeds": list(SEEDS),
        "selection": "rule and best single source by accuracy on validation pictures",
        "figures": "percent: mean and standard deviation over seeds; differences with 95 % t-intervals over seeds, per seed over pictures",
        "seconds, this call": round(time.perf_counter() - begun, 1),
    }
    print(results.write("fuse_fashion", figures), flush=True)


if __name__ == "__main__":
    main()
