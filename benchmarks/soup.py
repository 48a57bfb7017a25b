"""Merges six fine-tunings of one network, in five sets, beside the one of them that validation likes best.

    python -m benchmarks.soup --work DIR                        benchmarks/results/soup.json
    python -m benchmarks.soup --work DIR --setting cifar100     benchmarks/results/soup_cifar100.json

fashion: an MLP with published weights for MNIST on Fashion-MNIST. cifar100: ResNet-20 with published weights for CIFAR-10 on the 20
superclasses of CIFAR-100. 40 labels a class to train on, 1,000 other training pictures to choose on, all test pictures to report. Each set
has labels of its own and a head fitted to frozen features, from which six fine-tunings set out that differ in learning rate, weight decay
and order. Test is looked at when all choices are made. A second call goes on with the sets that are not finished.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from benchmarks import data, merging, results
from benchmarks.real_weights import IMAGENET, convert
from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError
from transfuse.fusion import weights
from transfuse.fusion.diagnose import diagnose
from transfuse.fusion.types import Parent
from transfuse.models import open_model

SETS = (0, 1, 2, 3, 4)
LABELS, CHOOSING = 40, 1000
BATCH = 50
EPOCHS = {"fashion": 20, "cifar100": 6}
WHAT = {
    "fashion": "MLP 784-400-200-100 (published for MNIST) on Fashion-MNIST, 10 classes",
    "cifar100": "ResNet-20 (published for CIFAR-10) on the 20 superclasses of CIFAR-100",
}
PUBLISHED = {"fashion": "otfusion_mlp_0", "cifar100": "akamaster_resnet20"}
SETTINGS = [(lr, decay) for lr in (0.003, 0.01, 0.03) for decay in (1e-4, 1e-3)]
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy_soup": ("greedy_soup", {}),
    "mean": ("mean", {}),
    "model_stock": ("model_stock", {}),
    "task_arithmetic, scaling 0.3": ("task_arithmetic", {}),
    "ties, keep 0.2": ("ties", {}),
    "dare, drop 0.5": ("dare", {"scaling": 1 / 6}),
    "regmean": ("regmean", {}),
}


def everything(setting: str) -> tuple[merging.Part, merging.Part]:
    """All training and all test pictures."""
    if setting == "fashion":
        return merging.idx_parts(data.fashion_mnist_folder())
    arrays = data.cifar100()

    def part(name: str) -> merging.Part:
        raw = torch.from_numpy(arrays[f"x_{name}"].transpose(0, 3, 1, 2).copy())
        return merging.Part(IMAGENET.exact_batch(raw), torch.from_numpy(arrays["fine_to_coarse"][arrays[f"y_{name}"]]).long())

    return part("train"), part("test")


def parts(number: int, everything: merging.Part) -> tuple[merging.Part, merging.Part]:
    """To train on and to choose on."""
    labels = everything.labels.numpy()
    classes = len(np.unique(labels))
    rest, train = train_test_split(np.arange(len(labels)), test_size=classes * LABELS, stratify=labels, random_state=number)
    _, choosing = train_test_split(rest, test_size=CHOOSING, stratify=labels[rest], random_state=number)
    train_part, choosing_part = (merging.Part(everything.inputs[rows], everything.labels[rows]) for rows in (train, choosing))
    return train_part, choosing_part


def start(setting: str, folder: Path, train: merging.Part) -> nn.Module:
    """The published network with a head for the new classes, fitted to its frozen features."""
    name = PUBLISHED[setting]
    convert(name, data.weights("."), folder)
    network = open_model(f"file:{folder}/{name}.safetensors", ModelRequest()).network
    network.linear = nn.Identity()
    features = merging.logits(network, train)
    fitted = LogisticRegression(C=0.1, max_iter=500).fit(features.numpy(), train.labels.numpy())
    network.linear = nn.Linear(features.shape[1], len(fitted.classes_))
    network.linear.weight.data = torch.from_numpy(fitted.coef_).float()
    network.linear.bias.data = torch.from_numpy(fitted.intercept_).float()
    return network


def shifted(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures in colour are flipped half of the time and moved by up to 4 pixels."""
    if inputs.shape[1] == 1:
        return inputs
    flips = torch.rand(len(inputs), generator=generator) < 0.5
    inputs = torch.where(flips[:, None, None, None], inputs.flip(3), inputs)
    down, right = torch.randint(0, 9, (2,), generator=generator).tolist()
    return F.pad(inputs, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]


def fine_tuned(network: nn.Module, train: merging.Part, lr: float, decay: float, seed: int, epochs: int) -> nn.Module:
    """A copy, all of it trained."""
    network = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum=0.9, weight_decay=decay)
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(train) // BATCH)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(train), generator=generator).split(BATCH):
            loss = F.cross_entropy(network(shifted(train.inputs[rows], generator)), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def one_set(setting: str, number: int, folder: Path) -> dict[str, Any]:
    """Accuracies of one set, and what was chosen."""
    pool, test = everything(setting)
    train, choosing = parts(number, pool)
    base = start(setting, folder, train)
    given = merging.calibration(train, 100, lambda network: merging.accuracy(network, choosing))
    sources = []
    for seed, (lr, decay) in enumerate(SETTINGS):
        network = fine_tuned(base, train, lr, decay, 10 * number + seed, EPOCHS[setting])
        sources.append(Parent(f"lr {lr:g}, decay {decay:g}", network, score=merging.accuracy(network, choosing)))
    best = max(sources, key=lambda source: source.score or 0.0)
    merged = {title: weights.get(name)(**settings).merge(sources, given, base) for title, (name, settings) in RULES.items()}
    verdict = diagnose(sources, given, base, samples=400)
    try:
        weights.get("mean")().merge([sources[0], Parent("from elsewhere", stranger(base))], given)
        refused = ""
    except ModelError as error:
        refused = str(error)

    outputs = torch.stack([merging.logits(source.module, test) for source in sources])
    alone = [merging.percent(one, test.labels) for one in outputs]
    return {
        "start, head alone": merging.accuracy(base, test),
        "mean of the singles": sum(alone) / len(alone),
        "best on validation": merging.accuracy(best.module, test),
        **{title: merging.accuracy(found.module, test) for title, found in merged.items()},
        "mean of the probabilities": merging.percent(outputs.softmax(2).mean(0), test.labels),
        "chosen": {"best": best.name, "soup": merged["greedy_soup"].figures},
        "diagnosis": verdict.reason,
        "refused": refused,
    }


def stranger(base: nn.Module) -> nn.Module:
    """The same architecture from other initial weights: every weight drawn anew with the spread that it has."""
    network = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.data = float(parameter.data.std()) * torch.randn(parameter.shape, generator=generator)
    return network


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for finished sets; a second call goes on there")
@click.option("--setting", type=click.Choice(list(WHAT)), default="fashion")
def main(work: Path, setting: str) -> None:
    begun = time.perf_counter()
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in SETS:
        path = work / f"{setting}-{number}.json"
        if not path.exists():
            path.write_text(json.dumps(one_set(setting, number, work)), encoding="utf-8")
        rows.append(json.loads(path.read_text(encoding="utf-8")))
        print(number, {name: value for name, value in rows[-1].items() if isinstance(value, float)}, flush=True)
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    reference = "best on validation"
    figures = {
        "what": f"{WHAT[setting]}, {LABELS} labels a class; test accuracy in percent, {len(SETS)} sets of {len(SETTINGS)}",
        "train": {"epochs": EPOCHS[setting], "batch_size": BATCH, "optimizer": "SGD, momentum 0.9", "lr, weight decay": SETTINGS},
        "test": {name: merging.spread([row[name] for row in rows]) for name in names},
        f"minus {reference}": {name: merging.spread([row[name] - row[reference] for row in rows]) for name in names if name != reference},
        "chosen": [row["chosen"] for row in rows],
        "diagnosis": rows[0]["diagnosis"],
        "a source from other initial weights": rows[0]["refused"],
        "seconds, this call": round(time.perf_counter() - begun, 1),
    }
    print(results.write("soup" if setting == "fashion" else f"soup_{setting}", figures))


if __name__ == "__main__":
    main()
