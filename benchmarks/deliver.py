"""From teacher to int8 ONNX, every figure along the way: CIFAR-10, ResNet-56 to ResNet-20; and preprocessing inside the graph, on JPEGs.

    python -m benchmarks.deliver [--work runs/deliver]     what is finished is not done again; writes benchmarks/results/deliver.json

The student begins at published ResNet-20 weights and is taught by the published ResNet-56 for one epoch on 3,000 pictures: a training from
scratch to that accuracy takes hours on two cores, and what is shown here is the way out, not the training. Both networks have seen the
training pictures, so int8 is calibrated on one half of the held-back ones and every accuracy is that of the other half.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import cifar_pairs, data, real_weights, results

TRAIN: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 64,
    "optimizer": {"adamw": {"lr": 0.0001}},
    "precision": "fp32",
    "channels_last": False,
    "compile": False,
}
INT8: dict[str, Any] = {"onnx_int8": {"calibration": 500, "calibrate_on": "val"}}
EXPORTS: list[Any] = ["safetensors", "bf16", "torch_export", "onnx", INT8, {"onnx_dynamic": {"layers": "all"}}]
INSIDE: dict[str, Any] = {"onnx_int8": {**INT8["onnx_int8"], "preprocess": "graph"}}
TIMES = "one sample, one thread; ratios are medians over blocks that took turns, with quartiles"
ALONE = """
import json, sys
import numpy as np, onnxruntime
from PIL import Image
for name in ("transfuse", "torch"):
    sys.modules[name] = None  # an import of either would fail
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
for path in sys.argv[2:]:
    pixels = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)[None]
    print(classes[session.run(None, {"raw": pixels})[0].argmax()])
"""


def pair(work: Path) -> dict[str, Any]:
    """The run of the pair with its exports, as rows of figures."""
    import transfuse

    cifar_pairs.prepare(work)
    student = work / "akamaster_resnet20.safetensors"
    if not student.exists():
        real_weights.convert("akamaster_resnet20", data.weights("."), work)
    folder = work / "run"
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        transfuse.distill(
            data=f"arrays:{work / 'data.npz'}",
            teacher=f"file:{work / 'akamaster_resnet56.safetensors'}",
            student=f"file:{student}",
            objectives=[{"cross_entropy": {"weight": 0.1}}, {"kd": {"weight": 0.9, "temperature": 4}}],
            augment={"views": 1, "crop": 4, "flip": True},
            train=TRAIN,
            control="none",
            cache={"dir": str(work / "cache")},
            budget={"bytes": "4MB", "latency_ms": 5},
            export=EXPORTS,
            out=folder,
        )
    if not (work / "inside" / "verify.json").exists():
        transfuse.export(folder, INSIDE, out=work / "inside")
    summary = json.loads((folder / "summary.json").read_text())
    rows = {name: network(summary, name) for name in ("teacher", "student")}
    rows |= {path.parent.name: exported(path) for path in sorted((folder / "exports").glob("*/verify.json"))}
    rows["onnx_int8 with preprocessing in the graph"] = exported(work / "inside" / "verify.json")
    return {
        "times": TIMES,
        "training": TRAIN,
        "pictures": {"training": cifar_pairs.PICTURES, "calibrating": 500, "reporting": summary["models"]["student"]["samples"]},
        "steps along the way": rows,
        "budget": summary["budget"],
    }


def network(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """A network in torch, as the run's summary has it."""
    block = summary["teachers" if name == "teacher" else "models"][name]
    return {
        "accuracy": block["metrics"]["accuracy"],
        "interval": block["intervals"]["accuracy"],
        "bytes": block["bytes"],
        "p50_ms": block["latency_ms"]["batch_1"]["p50"],
        "parameters": block["parameters"],
    }


def exported(path: Path) -> dict[str, Any]:
    """An exported file, as its verify.json has it."""
    found = json.loads(path.read_text())
    metric, times = found["metric"], found["latency_ms"]
    return {
        "passed": found["passed"],
        "accuracy": metric["file"],
        "lost": metric["loss"],
        "lost_interval": metric["interval"],
        "agreement": found["agreement"],
        "agreement_interval": found["agreement_interval"],
        "largest_relative_difference": found["largest_difference"]["relative"],
        "bytes": found["bytes"],
        "p50_ms": times["p50"],
        "times": {name: {"ratio": entry["ratio"], "quartiles": entry["quartiles"]} for name, entry in times["against"].items()},
        "remarks": found["remarks"],
        "samples": found["samples"],
    }


def pictures(work: Path) -> dict[str, Any]:
    """A MobileNet on JPEGs of many sizes, with all of its preprocessing in the graph; asked again without transfuse and torch."""
    import transfuse
    from transfuse.models import fit_to_classes, open_model, save_model

    name = "mobilenetv1_025_224"
    chosen = work / "ants_bees.safetensors"
    if not chosen.exists():
        real_weights.convert(name, data.weights("."), work)
        model = open_model(f"file:{work / name}.safetensors")
        save_model(fit_to_classes(model, ["ants", "bees"], {"ants": 310, "bees": 309}), chosen, {})
    source, out = f"images:{data.hymenoptera_folder()}", work / "pictures"
    if not (out / "verify.json").exists():
        transfuse.export(f"file:{chosen}", {"onnx": {"preprocess": "graph"}}, data=source, out=out)
    files = [str(path) for label in ("ants", "bees") for path in sorted((data.hymenoptera_folder() / "val" / label).iterdir())]
    truth = [Path(file).parent.name for file in files]
    alone = subprocess.run([sys.executable, "-c", ALONE, str(out / "student.onnx"), *files], capture_output=True, text=True, check=True)
    answers = alone.stdout.split()
    said = [row["class"] for row in transfuse.predict(f"file:{chosen}", files)]
    return {
        "network": f"{name}, ants or bees",
        "verified": exported(out / "verify.json"),
        "accuracy in torch": sum(map(str.__eq__, said, truth)) / len(truth),
        "accuracy with onnxruntime and Pillow alone": sum(map(str.__eq__, answers, truth)) / len(truth),
        "same class as in torch": sum(map(str.__eq__, answers, said)),
        "pictures": len(truth),
    }


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/deliver"), help="folder of the run and the files")
def main(work: Path) -> None:
    work = work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    figures: dict[str, Any] = {
        "pair": "ResNet-56 (published weights) teaches ResNet-20 (published weights, one epoch), CIFAR-10",
        **pair(work),
    }
    figures["preprocessing inside the graph"] = pictures(work)
    print(results.write("deliver", {**figures, "load before and after": [round(load, 2), round(os.getloadavg()[0], 2)]}))


if __name__ == "__main__":
    main()
