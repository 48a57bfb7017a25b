"""Replaces the head of every classification network that torchvision has, without naming one, in every form that a head can take.

    python -m benchmarks.heads            writes benchmarks/results/heads.json, fails where a head is not found or does not run

Networks are built without values (device "meta"), which shows structure and shapes at no cost in memory; the tests save and open one
network of each family with values. RegNets compute their widths with tensors and are built with values, the smallest ones. The
linear head is tried on all networks, the other forms on the smallest of each family.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import results
from transfuse.core.last_layers import find_heads
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.models import heads
from transfuse.models.heads.placing import put_head

OUTPUTS = 7
MOST_WITH_VALUES = 12_000_000  # parameters of networks that can't be built without values
AUXILIARY = ("googlenet", "inception_v3")


def parameters_of(name: str) -> int:
    return import_torchvision().models.get_model_weights(name).DEFAULT.meta["num_params"]


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network and an example of its own size, both without values."""
    models = import_torchvision().models
    options: dict[str, Any] = {"init_weights": False} if name in AUXILIARY else {}
    side = 299 if name == "inception_v3" else 224
    if name.startswith("regnet"):
        network = models.get_model(name, weights=None).to("meta")
    else:
        with torch.device("meta"):
            network = models.get_model(name, weights=None, **options)
    return network, torch.empty(2, 3, side, side, device="meta")


def row(name: str, forms: list[str]) -> dict[str, Any]:
    network, example = build(name)
    began = time.monotonic()
    found = find_heads(network, example)
    seconds = time.monotonic() - began
    said: dict[str, str] = {}
    for form in forms:
        changed = copy.deepcopy(network)
        try:
            fresh, _ = put_head(changed, heads.get(form)(), OUTPUTS, example)
            said[form] = f"{sum(parameter.numel() for parameter in fresh):,} new parameters"
        except ModelError as error:
            said[form] = f"refused: {error.what}"
    return {"heads": [head.path for head in found], "outputs": found[0].outputs, "seconds to find": round(seconds, 2), "forms": said}


def main() -> None:
    models = import_torchvision().models
    names = models.list_models(module=models)
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(models.get_model_builder(name).__module__.rpartition(".")[2], []).append(name)
    rows, left = {}, []
    for family, members in sorted(families.items()):
        smallest = min(members, key=parameters_of)
        for name in members:
            if name.startswith("regnet") and parameters_of(name) > MOST_WITH_VALUES:
                left.append(name)
                continue
            rows[name] = {"family": family, **row(name, ["linear", "mlp", "conv", "fusion"] if name == smallest else ["linear"])}
            print(name, rows[name], flush=True)
    wrong = [name for name, entry in rows.items() if entry["outputs"] != 1000 or entry["forms"]["linear"].startswith("refused")]
    counts = {"networks": len(rows), "families": len(families), "wrong": wrong, "not tried": left}
    print(results.write("heads", {**counts, "by network": rows}))
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
