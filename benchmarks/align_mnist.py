"""Merges two published MLPs that were trained on MNIST from different initial weights: without training, and after one epoch of it.

    python -m benchmarks.align_mnist        benchmarks/results/align_mnist.json

The networks are OTFusion's (784-400-200-100-10, no biases). The variant is chosen on 10,000 training pictures; test is looked at once,
after that. Activations and units' statistics come from 10,000 other training pictures. Both networks have seen all training pictures.

This was run twice: weight matching that begins with a pass through the layers was added as a candidate after the first run. What was chosen
and all figures of the first run stayed the same.
"""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from benchmarks import data, merging, results
from benchmarks.real_weights import convert
from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError
from transfuse.fusion import weights
from transfuse.fusion.diagnose import diagnose
from transfuse.fusion.types import Calibration, Parent
from transfuse.models import open_model

SEEDS = (0, 1, 2, 3, 4)
TRAIN = {"optimizer": "SGD", "lr": 0.01, "momentum": 0.5, "batch_size": 64, "epochs": 1, "schedule": "cosine"}
PLAIN = ("mean", {"check_origin": False, "repair": "none"})
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"weight_matching from {words}, order {seed}": ("weight_matching", {"seed": seed, "start": start})
        for start, words in (("layers", "a pass through the layers"), ("identity", "units as they are"))
        for seed in range(3)
    },
    "activation_matching": ("activation_matching", {"samples": 10000}),
    "ot by activations": ("ot", {"samples": 2000}),
    "ot by weights": ("ot", {"by": "weights"}),
    "zip": ("zip", {"samples": 10000}),
    "zip across only": ("zip", {"samples": 10000, "within": False}),
}
REPAIRS = {"as they are": "none", "units repaired": "auto"}


def parents() -> list[Parent]:
    """The two networks."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("otfusion_mlp_0", "otfusion_mlp_1")
        paths = [convert(name, data.weights("."), Path(folder)) for name in names]
        return [Parent(name, open_model(f"file:{path}", ModelRequest()).network) for name, path in zip(names, paths, strict=True)]


def merged(name: str, settings: dict[str, Any], sources: list[Parent], given: Calibration) -> nn.Module:
    """The network that a rule makes."""
    return weights.get(name)(**settings).merge(sources, given).module


def candidates(sources: list[Parent], given: Calibration) -> dict[str, nn.Module]:
    """Every variant, with and without repair; ZipIt's merged units have no counterpart to be repaired after."""
    made = {}
    for title, (name, settings) in VARIANTS.items():
        for how, repair in REPAIRS.items():
            if name != "zip" or repair == "none":
                made[f"{title}, {how}"] = merged(name, settings | {"repair": repair}, sources, given)
    return made


def one_epoch(network: nn.Module, part: merging.Part, seed: int) -> nn.Module:
    """A copy of a network, trained for an epoch."""
    trained = copy.deepcopy(network)
    optimizer = torch.optim.SGD(trained.parameters(), lr=TRAIN["lr"], momentum=TRAIN["momentum"])
    merging.train(trained, part, optimizer, TRAIN["epochs"], TRAIN["batch_size"], seed)
    return trained


def refusal(sources: list[Parent], given: Calibration) -> str:
    """What the plain mean says to networks from different initial weights."""
    try:
        weights.get("mean")().merge(sources, given)
    except ModelError as error:
        return str(error)
    raise AssertionError("networks from different initial weights were merged without a word")


@click.command(help=__doc__)
def main() -> None:
    begun = time.perf_counter()
    train, test = merging.mnist()
    given, choosing = merging.calibration(train.rows(0, 10000)), train.rows(50000, 60000)
    sources = parents()
    networks = candidates(sources, given)
    on_choosing = {title: merging.accuracy(network, choosing) for title, network in networks.items()}
    chosen = max(on_choosing, key=lambda title: on_choosing[title])
    plain = merged(*PLAIN, sources, given)
    verdict = diagnose(sources, given)

    starts = {"aligned": networks[chosen], "mean of the weights": plain, **{source.name: source.module for source in sources}}
    trained = {title: [one_epoch(network, train, seed) for seed in SEEDS] for title, network in starts.items()}

    outputs = {source.name: merging.logits(source.module, test) for source in sources}
    alone = {name: merging.percent(one, test.labels) for name, one in outputs.items()}
    both = merging.percent(torch.stack(list(outputs.values())).mean(0), test.labels)
    untrained = {title: merging.accuracy(network, test) for title, network in networks.items()}
    after = {title: [merging.accuracy(network, test) for network in found] for title, found in trained.items()}
    differences = {
        f"aligned - {title}": merging.spread([one - other for one, other in zip(after["aligned"], values, strict=True)])
        for title, values in after.items()
        if title != "aligned"
    }
    figures = {
        "what": "two MLPs 784-400-200-100-10 without biases (OTFusion's), MNIST; accuracy in percent",
        "chosen on 10,000 training pictures": chosen,
        "test, untrained": {
            **{name: round(value, 2) for name, value in alone.items()},
            "mean of the logits": round(both, 2),
            "mean of the weights": round(merging.accuracy(plain, test), 2),
            "chosen": round(untrained[chosen], 2),
        },
        "variants": {title: {"choosing": round(on_choosing[title], 2), "test": round(untrained[title], 2)} for title in networks},
        "train": TRAIN,
        "seeds": list(SEEDS),
        "test, after one epoch": {title: merging.spread(values) for title, values in after.items()},
        "differences after one epoch": differences,
        "diagnosis": verdict.reason,
        "mean refuses": refusal(sources, given),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(results.write("align_mnist", figures))


if __name__ == "__main__":
    main()
