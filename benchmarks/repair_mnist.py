"""REPAIR on MNIST: how much of what averaging aligned networks loses comes back with their units' statistics.

    python -m benchmarks.repair_mnist        benchmarks/results/repair_mnist.json

Jordan et al., 2023, ICLR, report for an MLP with BatchNorm, parents 98.3: 80.7 after permuting and averaging, 95.5 repaired; for one of
6 layers of 128 without BatchNorm, parents 96.5: 71.7 and 83.0. Trained here: pairs of 6x128, with and without, from different initial
weights and in different order. Statistics are re-estimated on training pictures. Nothing is chosen, so test is looked at for every row.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import click
import torch
from torch import nn

from benchmarks import merging, results
from transfuse.core.types import ModelRequest
from transfuse.fusion import weights
from transfuse.fusion.types import Calibration, Parent
from transfuse.models import open_model

SEEDS = (0, 1, 2, 3, 4)
DEPTH, WIDTH = 6, 128
TRAIN = {"optimizer": "SGD", "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 500, "epochs": 12, "schedule": "cosine"}
RATES = {True: 0.1, False: 0.02}  # with and without BatchNorm
RULES = {
    "mean": ("mean", {"check_origin": False}),
    "weight_matching": ("weight_matching", {}),
    "weight_matching from units as they are": ("weight_matching", {"start": "identity"}),
    "activation_matching": ("activation_matching", {}),
}


def parent(seed: int, batchnorm: bool, part: merging.Part) -> nn.Module:
    """One trained network."""
    options = {"widths": [WIDTH] * DEPTH, "batchnorm": batchnorm}
    request = ModelRequest(outputs=10, input_shape=(1, 28, 28), options=options, seed=seed)
    network = open_model("builtin:mlp", request).network
    optimizer = torch.optim.SGD(network.parameters(), lr=RATES[batchnorm], momentum=0.9, weight_decay=TRAIN["weight_decay"])
    merging.train(network, part, optimizer, TRAIN["epochs"], TRAIN["batch_size"], seed)
    return network


def pair(seed: int, batchnorm: bool, train: merging.Part, test: merging.Part, given: Calibration) -> dict[str, float]:
    """Test accuracies of one pair: alone, together, and merged by each rule without and with repair."""
    sources = [Parent(f"network {number}", parent(10 * seed + number, batchnorm, train)) for number in (1, 2)]
    outputs = [merging.logits(source.module, test) for source in sources]
    row = {"parents": statistics.mean(merging.percent(one, test.labels) for one in outputs)}
    row["mean of the logits"] = merging.percent(torch.stack(outputs).mean(0), test.labels)
    for title, (name, settings) in RULES.items():
        for how, repair in (("statistics averaged", "none"), ("repaired", "auto" if name != "mean" else "units")):
            row[f"{title}, {how}"] = merging.accuracy(weights.get(name)(**settings, repair=repair).merge(sources, given).module, test)
    return row


def summed(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Over pairs, with the share of the gap to the parents that repair recovers."""
    figures: dict[str, Any] = {name: merging.spread([row[name] for row in rows]) for name in rows[0]}
    for rule in RULES:
        shares = [
            100 * (row[f"{rule}, repaired"] - row[f"{rule}, statistics averaged"]) / (row["parents"] - row[f"{rule}, statistics averaged"])
            for row in rows
        ]
        figures[f"{rule}: percent of the gap recovered"] = merging.spread(shares, 1)
    return figures


@click.command(help=__doc__)
def main() -> None:
    begun = time.perf_counter()
    train, test = merging.mnist()
    given = merging.calibration(train.rows(0, 10000))
    figures = {
        "what": f"pairs of MLPs, {DEPTH} hidden layers of {WIDTH}, MNIST; test accuracy in percent",
        "paper": {"with BatchNorm": [98.3, 80.7, 95.5], "without": [96.5, 71.7, 83.0], "order": "parents, permuted and averaged, repaired"},
        "train": TRAIN | {"lr with BatchNorm": RATES[True], "lr without": RATES[False]},
        "pairs": len(SEEDS),
        "with BatchNorm": summed([pair(seed, True, train, test, given) for seed in SEEDS]),
        "without": summed([pair(seed, False, train, test, given) for seed in SEEDS]),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(results.write("repair_mnist", figures))


if __name__ == "__main__":
    main()
