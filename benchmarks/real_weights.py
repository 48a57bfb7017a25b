"""Turns trained weights as their authors published them into files that `file:` opens, and checks them against the stated accuracies.

    python -m benchmarks.real_weights --out DIR            writes NAME.safetensors and NAME.json for each
    python -m benchmarks.real_weights --out DIR --check    also measures, writes benchmarks/results/real_weights.json, fails on a difference

All of the state dicts load without unpickling. The Keras and TensorFlow weights are transposed to torch's layout; nothing is folded or
rounded. Figures are fp32 on the CPU.
"""

from __future__ import annotations

import copy
import gzip
import io
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import data, results
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import ModelRequest
from transfuse.models import fit_to_classes, open_model, save_model
from transfuse.models.weights import fit_names, load_into, read_state

CIFAR = {"size": (32, 32), "channels": 3}
IMAGENET = Preprocess(**CIFAR, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CENTRED = Preprocess(**CIFAR, scale=1 / 255, mean=(0.5,), std=(0.5,))  # x / 127.5 - 1
RAW = Preprocess(**CIFAR)
MNIST = Preprocess(size=(28, 28), channels=1, scale=1 / 255, mean=(0.1307,), std=(0.3081,))


@dataclass
class Weights:
    """One published network: where it lies, what it is, how it takes its inputs."""

    place: str
    architecture: str
    preprocess: Preprocess
    options: dict[str, Any] = field(default_factory=dict)
    outputs: int = 10
    input_shape: tuple[int, ...] = (3, 32, 32)


def _mobilenet(side: int) -> Preprocess:
    return Preprocess(size=(side, side), channels=3, mean=(0.5,), std=(0.5,), scale=1 / 255, crop=0.875, resize="crop_first")


FOLDED = {"norm": "folded", "padding": "same_tf"}
OTFUSION = {"widths": [400, 200, 100], "bias": False}
WEIGHTS = {
    "akamaster_resnet20": Weights("akamaster_cifar10/resnet20-12fca82f.th", "builtin:resnet20", IMAGENET, {"shortcut": "A"}),
    "akamaster_resnet56": Weights("akamaster_cifar10/resnet56-4bfd9763.th", "builtin:resnet56", IMAGENET, {"shortcut": "A"}),
    "distiller_resnet20": Weights("distiller_cifar10/checkpoint_trained_dense.pth.tar", "builtin:resnet20", CENTRED, {"shortcut": "B"}),
    "mlperf_tiny_resnet8": Weights("mlcommons_tiny/pretrainedResnet.h5", "builtin:resnet8_tiny", RAW),
    "otfusion_mlp_0": Weights("otfusion_mnist/mnist_models.zip:model_0", "builtin:mlp", MNIST, OTFUSION, 10, (1, 28, 28)),
    "otfusion_mlp_1": Weights("otfusion_mnist/mnist_models.zip:model_1", "builtin:mlp", MNIST, OTFUSION, 10, (1, 28, 28)),
    "mobilenetv2_100_224": Weights(
        "imagenet_npz/mobilenet_v2_1.0_224_quant_folded_fp32.npz", "builtin:mobilenetv2_tf", _mobilenet(224), FOLDED, 1001, (3, 224, 224)
    ),
    "mobilenetv1_050_160": Weights(
        "imagenet_npz/mobilenet_v1_0.5_160_quant_folded_fp32.npz",
        "builtin:mobilenetv1",
        _mobilenet(160),
        {**FOLDED, "width": 0.5},
        1001,
        (3, 160, 160),
    ),
    "mobilenetv1_025_224": Weights(
        "imagenet_npz/mobilenet_v1_0.25_224_float_bn.npz", "builtin:mobilenetv1", _mobilenet(224), {"width": 0.25}, 1000, (3, 224, 224)
    ),
}


def _state(weights: Weights, root: Path) -> dict[str, Tensor]:
    """The published weights under torch's names and layout."""
    place, _, member = weights.place.partition(":")
    path = root / place
    if path.suffix == ".h5":
        return _keras_resnet8(path)
    if path.suffix == ".zip":
        return _otfusion(path, member)
    if path.suffix == ".npz":
        return _npz(path)
    return read_state(path, trusted=False)


def _keras_resnet8(path: Path) -> dict[str, Tensor]:
    """Keras counts layers in the order of building; kernels are [height, width, in, out]."""
    import h5py

    convolutions = ["conv1", *(f"layer1.{part}" for part in ("conv1", "conv2"))]
    convolutions += [f"layer{stage}.{part}" for stage in (2, 3) for part in ("conv1", "conv2", "shortcut")]
    norms = ["bn1", *(f"layer{stage}.bn{number}" for stage in (1, 2, 3) for number in (1, 2))]
    state: dict[str, Tensor] = {}
    with h5py.File(path) as file:

        def read(layer: str, name: str) -> Tensor:
            return torch.from_numpy(np.asarray(file[f"model_weights/{layer}/{layer}/{name}:0"]))

        for number, ours in enumerate(convolutions):
            layer = f"conv2d_{number}" if number else "conv2d"
            state[f"{ours}.weight"] = read(layer, "kernel").permute(3, 2, 0, 1)
            state[f"{ours}.bias"] = read(layer, "bias")
        for number, ours in enumerate(norms):
            layer = f"batch_normalization_{number}" if number else "batch_normalization"
            theirs = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
            state.update({f"{ours}.{name}": read(layer, keras) for name, keras in theirs.items()})
        state["linear.weight"], state["linear.bias"] = read("dense", "kernel").T, read("dense", "bias")
    return state


def _otfusion(path: Path, member: str) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        stored = io.BytesIO(archive.read(f"mnist_models/{member}/final.checkpoint"))
    state = torch.load(stored, map_location="cpu", weights_only=True)["model_state_dict"]
    names = {f"fc{number}.weight": f"layers.{number - 1}.linear.weight" for number in (1, 2, 3)} | {"fc4.weight": "linear.weight"}
    return {names[name]: value for name, value in state.items()}


def _npz(path: Path) -> dict[str, Tensor]:
    """MobileNets: V2 has torchvision's names already; V1 is renamed from its two spellings."""
    with np.load(path) as archive:
        state = {name: torch.from_numpy(archive[name]) for name in archive.files if name != "layers_json"}
    return {_mobilenet_name(name): value for name, value in state.items()}


def _mobilenet_name(name: str) -> str:
    layer, _, value = name.rpartition(".")
    position = "1" if layer.endswith("_bn") else "0"
    layer = layer.removesuffix("_bn").replace("conv_dw_", "dw").replace("conv_pw_", "pw")
    if layer in ("conv0", "conv1"):
        return f"stem.{position}.{value}"
    if layer.startswith(("dw", "pw")):
        kind = "depthwise" if layer.startswith("dw") else "pointwise"
        return f"blocks.{int(layer[2:]) - 1}.{kind}.{position}.{value}"
    return f"classifier.{value}" if layer == "conv_preds" else name


def _class_names(name: str, root: Path) -> list[str] | None:
    if name.startswith("mobilenet"):
        lines = (root / "imagenet_npz" / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
        return lines if WEIGHTS[name].outputs == 1001 else lines[1:]
    if name.startswith("otfusion"):
        return [str(digit) for digit in range(10)]
    return ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def convert(name: str, root: Path, out: Path) -> Path:
    """Writes one network as `out`/NAME.safetensors with its .json; returns the path.

    Args:
        name: a key of WEIGHTS.
        root: the folder with the published weights.
        out: where to write.
    """
    weights = WEIGHTS[name]
    request = ModelRequest(outputs=weights.outputs, input_shape=weights.input_shape, options=weights.options)
    model = open_model(weights.architecture, request)
    state = _state(weights, root)
    load_into(model.network, fit_names(state, model.network), weights.place)
    model.preprocess, model.classes, model.pretrained = weights.preprocess, _class_names(name, root), True
    path = out / f"{name}.safetensors"
    save_model(model, path, {"converted_from": weights.place})
    return path


@dataclass
class Row:
    """One stated accuracy and what was measured."""

    what: str
    stated: float
    correct: int
    samples: int

    @property
    def measured(self) -> float:
        return 100 * self.correct / self.samples

    @property
    def same(self) -> bool:
        """Equal at the digits stated; they tell every single sample apart."""
        digits = len(str(self.stated).partition(".")[2])
        return round(self.measured, digits) == self.stated


def logits_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """fp32 outputs, in batches."""
    with torch.inference_mode():
        return torch.cat([network(part) for part in inputs.split(250)])


def _row(what: str, stated: float, outputs: Tensor, labels: Tensor) -> Row:
    return Row(what, stated, int((outputs.argmax(1) == labels).sum()), len(labels))


def check_cifar(out: Path) -> Iterator[Row]:
    """The four CIFAR-10 networks on the 2,000 test pictures, and means of their probabilities."""
    cifar = data.cifar10()
    raw, labels = torch.from_numpy(cifar["x_test"].transpose(0, 3, 1, 2).copy()), torch.from_numpy(cifar["y_test"]).long()
    stated = {"akamaster_resnet20": 91.80, "akamaster_resnet56": 93.05, "distiller_resnet20": 92.25, "mlperf_tiny_resnet8": 87.70}
    probabilities = []
    for name, accuracy in stated.items():
        model = open_model(f"file:{out}/{name}.safetensors", ModelRequest())
        assert model.preprocess is not None
        outputs = logits_of(model.network, model.preprocess.exact_batch(raw))
        probabilities.append(outputs.softmax(1))
        yield _row(f"{name} on CIFAR-10", accuracy, outputs, labels)
    yield _row("mean of the four's probabilities", 94.25, torch.stack(probabilities).mean(0), labels)
    yield _row("mean of the probabilities of the three without ResNet-8", 94.05, torch.stack(probabilities[:3]).mean(0), labels)


def check_mnist(out: Path) -> Iterator[Row]:
    """Two MLPs from different initialisations: alone, their weights averaged, their logits averaged."""
    folder = data.mnist_folder()
    pixels = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    raw = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, 1, 28, 28)
    labels = torch.frombuffer(bytearray(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]), dtype=torch.uint8).long()
    models = [open_model(f"file:{out}/otfusion_mlp_{number}.safetensors", ModelRequest()) for number in (0, 1)]
    inputs = MNIST.exact_batch(raw)
    both = [logits_of(model.network, inputs) for model in models]
    for number, accuracy in enumerate((97.72, 97.75)):
        yield _row(f"otfusion_mlp_{number} on MNIST", accuracy, both[number], labels)
    averaged = copy.deepcopy(models[0].network)
    first, second = (model.network.state_dict() for model in models)
    averaged.load_state_dict({name: (first[name] + second[name]) / 2 for name in first})
    yield _row("average of the two's weights", 73.84, logits_of(averaged, inputs), labels)
    yield _row("average of the two's logits", 97.88, (both[0] + both[1]) / 2, labels)


def check_hymenoptera(out: Path) -> Iterator[Row]:
    """MobileNets on ants and bees: as a choice between the two outputs, and among all of them."""
    files = [
        (path, label)
        for label, name in enumerate(("ants", "bees"))
        for path in sorted((data.hymenoptera_folder() / "val" / name).iterdir())
    ]
    pictures = [Image.open(path).convert("RGB") for path, _ in files]
    labels = torch.tensor([label for _, label in files])
    stated = [
        ("mobilenetv2_100_224", 224, 98.7, 83.0),
        ("mobilenetv2_100_224", 128, 93.5, 46.4),
        ("mobilenetv1_050_160", 160, 92.2, 56.2),
        ("mobilenetv1_025_224", 224, 90.8, 39.9),
    ]
    for name, side, two_way, all_way in stated:
        model = open_model(f"file:{out}/{name}.safetensors", ModelRequest())
        assert model.preprocess is not None
        preprocess = replace(model.preprocess, size=(side, side))
        inputs = torch.cat([preprocess.exact_image(picture) for picture in pictures])
        ants = 311 if model.options["outputs"] == 1001 else 310
        mapping = {"ants": ants, "bees": ants - 1}
        chosen = fit_to_classes(model, ["ants", "bees"], mapping)
        yield _row(f"{name} at {side} px, ants or bees", two_way, logits_of(chosen.network, inputs), labels)
        targets = torch.tensor([mapping["ants"], mapping["bees"]])[labels]
        yield _row(f"{name} at {side} px, among {model.options['outputs']}", all_way, logits_of(model.network, inputs), targets)


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for the converted weights")
@click.option("--check", is_flag=True, help="measure, write the result file, and fail where a figure differs from the stated one")
def main(out: Path, check: bool) -> None:
    begun = time.perf_counter()
    for name in WEIGHTS:
        click.echo(f"wrote {convert(name, data.weights('.'), out)}")
    if not check:
        return
    rows = [*check_cifar(out), *check_mnist(out), *check_hymenoptera(out)]
    for row in rows:
        verdict = "same" if row.same else "DIFFERS"
        click.echo(f"{verdict:8} {row.what:60} stated {row.stated:6} measured {row.measured:.2f} ({row.correct}/{row.samples})")
    figures = [
        {"what": row.what, "stated": row.stated, "measured": round(row.measured, 2), "correct": row.correct, "samples": row.samples}
        for row in rows
    ]
    path = results.write("real_weights", {"dtype": "float32", "seconds": round(time.perf_counter() - begun, 1), "rows": figures})
    click.echo(f"wrote {path}")
    if not all(row.same for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
