"""REPAIR on ResNet-20 at two widths: what averaging aligned networks loses on CIFAR-10, and how much of it their statistics bring back.

    python -m benchmarks.repair_cifar --work DIR      trains what is not there yet, then benchmarks/results/repair_cifar.json

Jordan et al., 2023, ICLR, train ResNet-20 on all of CIFAR-10 and find the barrier falling with width; at 4 and 8 times the width repaired
averages come near their parents. `REDUCTION` says how much smaller this is. Nothing is chosen, so the held-back pictures are looked at for
every row; the networks are trained here and have seen none of them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import data, merging, real_weights, results
from transfuse.core.types import ModelRequest
from transfuse.data.splits import held_out
from transfuse.fusion import weights
from transfuse.fusion.types import Parent
from transfuse.models import open_model

WIDTHS = (1, 2)
PICTURES, CALIBRATING = 2_500, 2_000
TRAIN = {"optimizer": "SGD, Nesterov", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 100, "epochs": 16}
RULES = {
    "mean": ("mean", {"check_origin": False}),
    "weight_matching": ("weight_matching", {}),
    "activation_matching": ("activation_matching", {}),
}
REDUCTION = (
    "2,500 training pictures instead of 50,000, 16 epochs without augmentation, widths 1 and 2 instead of up to 8, one pair each: two "
    "cores can do no more. One pair has no spread, so the rows show an order and no significance."
)


class HalfPrecision(nn.Module):
    """A network whose training runs in bf16."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(inputs).float()


def parts() -> tuple[merging.Part, merging.Part]:
    """Pictures to train on, and the held-back ones."""
    cifar = data.cifar10()
    chosen = held_out(cifar["y_train"], PICTURES / len(cifar["y_train"]), 0, "repair_cifar")

    def part(pictures: Any, labels: Any) -> merging.Part:
        inputs = real_weights.IMAGENET(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
        return merging.Part(inputs.contiguous(memory_format=torch.channels_last), torch.from_numpy(labels).long())

    return part(cifar["x_train"][chosen], cifar["y_train"][chosen]), part(cifar["x_test"], cifar["y_test"])


def parent(work: Path, width: int, seed: int, train: merging.Part) -> nn.Module:
    """One trained network, kept in the folder."""
    request = ModelRequest(outputs=10, input_shape=(3, 32, 32), options={"width": float(width)}, seed=seed)
    network, path = open_model("builtin:resnet20", request).network, work / f"width{width}-{seed}.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = {"lr": TRAIN["lr"], "momentum": TRAIN["momentum"], "weight_decay": TRAIN["weight_decay"]}
    optimizer = torch.optim.SGD(network.parameters(), nesterov=True, **settings)
    merging.train(HalfPrecision(network), train, optimizer, TRAIN["epochs"], TRAIN["batch_size"], seed)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return network.eval()


def pair(work: Path, width: int, train: merging.Part, test: merging.Part) -> dict[str, Any]:
    """Accuracies of one pair: alone, together, merged by each rule without and with repair, and the share of the gap that comes back."""
    given = merging.calibration(train.rows(0, CALIBRATING))
    sources = [Parent(f"network {seed}", parent(work, width, seed, train)) for seed in (1, 2)]
    outputs = [merging.logits(source.module, test) for source in sources]
    alone = [merging.percent(one, test.labels) for one in outputs]
    row: dict[str, Any] = {"parents": [round(one, 2) for one in alone]}
    row["mean of the logits"] = round(merging.percent(torch.stack(outputs).mean(0), test.labels), 2)
    for title, (name, settings) in RULES.items():
        reached = {}
        for how, repair in (("statistics averaged", "none"), ("repaired", "auto" if name != "mean" else "units")):
            merged = weights.get(name)(**settings, repair=repair).merge(sources, given).module
            reached[how] = merging.accuracy(merged, test)
        gap = sum(alone) / 2 - reached["statistics averaged"]
        share = round(100 * (reached["repaired"] - reached["statistics averaged"]) / gap, 1) if gap > 0 else None
        row[title] = {**{how: round(value, 2) for how, value in reached.items()}, "percent of the gap recovered": share}
        print(f"width {width}, {title}: {row[title]}", flush=True)
    return row


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for the trained networks; a second call goes on there")
def main(work: Path) -> None:
    begun = time.perf_counter()
    work.mkdir(parents=True, exist_ok=True)
    train, test = parts()
    figures = {
        "what": "pairs of ResNet-20 from different initial weights, CIFAR-10; percent of 2,000 held-back pictures",
        "reduction": REDUCTION,
        "train": TRAIN,
        "by width": {str(width): pair(work, width, train, test) for width in WIDTHS},
        "seconds, this call": round(time.perf_counter() - begun, 1),
    }
    print(results.write("repair_cifar", figures))


if __name__ == "__main__":
    main()
