"""The command `transfuse eval` on weights as their authors published them: the accuracies that are known for them, to the last image.

    python -m benchmarks.eval_command --work DIR

Converts the weights (benchmarks/real_weights.py), measures them with the command, compares with the stated figures, writes
benchmarks/results/eval_command.json and fails where one differs. fp32 on the CPU. An evaluation that is there already is not run again.

The ImageNet networks are measured twice on ants and bees: as a choice between their two outputs, and among all 1,001 (or 1,000) of them,
for which the pictures lie in a folder with as many classes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
from PIL import Image

from benchmarks import data, results
from benchmarks.real_weights import WEIGHTS, convert
from transfuse.cli.main import run

ANTS = {name: 310 if WEIGHTS[name].outputs == 1000 else 311 for name in WEIGHTS if name.startswith("mobilenet")}


def at_side(name: str, side: int | None) -> list[str]:
    """The recipe key by which a network takes its input at another size."""
    preprocess = {**WEIGHTS[name].preprocess.to_dict(), "size": side}
    return [f"models.{name}.preprocess={json.dumps(preprocess)}"] if side else []


def chosen(name: str) -> list[str]:
    """The recipe key by which an ImageNet network chooses between ants and bees."""
    return [f"models.{name}.classes={{ants: {ANTS[name]}, bees: {ANTS[name] - 1}}}"]


def among_all(name: str) -> list[str]:
    """The recipe key that calls an ImageNet network's outputs by their numbers, as the folders of `all_classes` are."""
    return [f"models.{name}.classes={json.dumps([str(number) for number in range(WEIGHTS[name].outputs)])}"]


def grey(folder: Path) -> None:
    """A class of one picture."""
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32), (128, 128, 128)).save(folder / "grey.png")


def all_classes(name: str, work: Path) -> Path:
    """Ants and bees as a folder with a class for each output of a network, which grey pictures in the training part stand for."""
    count = WEIGHTS[name].outputs
    folder = work / f"pictures_{count}"
    if folder.exists():
        return folder
    whole = work / f"pictures_{count}.partial"
    shutil.rmtree(whole, ignore_errors=True)
    for number in range(count):
        grey(whole / "train" / str(number))
    grey(whole / "val" / "0")  # else validation would be carved from classes of one picture
    for number, called in ((ANTS[name], "ants"), (ANTS[name] - 1, "bees")):
        shutil.copytree(data.hymenoptera_folder() / "val" / called, whole / "test" / str(number))
    whole.rename(folder)
    return folder


def evaluations(work: Path) -> dict[str, tuple[list[str], dict[str, float]]]:
    """Name -> (arguments of the command, model -> stated accuracy in per cent)."""
    cifar = data.write_arrays("cifar10", work / "cifar10.npz")
    pictures = data.hymenoptera_folder()
    found = {
        "cifar10": (
            [f"data=arrays:{cifar}"],
            {"akamaster_resnet20": 91.80, "akamaster_resnet56": 93.05, "distiller_resnet20": 92.25, "mlperf_tiny_resnet8": 87.70},
        ),
        "mnist": ([f"data=idx:{data.mnist_folder()}"], {"otfusion_mlp_0": 97.72, "otfusion_mlp_1": 97.75}),
    }
    for name, side, of_two, of_all in (
        ("mobilenetv2_100_224", None, 98.7, 83.0),
        ("mobilenetv2_100_224", 128, 93.5, 46.4),
        ("mobilenetv1_050_160", None, 92.2, 56.2),
        ("mobilenetv1_025_224", None, 90.8, 39.9),
    ):
        key, size = f"hymenoptera_{name}_{side or 'own'}", at_side(name, side)
        found[key] = ([f"data=images:{pictures}", *chosen(name), *size], {name: of_two})
        found[f"{key}_all"] = ([f"data=images:{all_classes(name, work)}", *among_all(name), *size], {name: of_all})
    return found


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for converted weights and evaluations")
def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for key, (arguments, stated) in evaluations(work).items():
        out = work / key
        if not (out / "summary.json").exists():
            models = [str(convert(name, data.weights("."), work)) for name in stated]
            status = run(["resume", str(out)] if out.exists() else ["eval", *models, *arguments, "samples=false", f"out={out}"])
            if status:
                raise SystemExit(status)
        summary = json.loads((out / "summary.json").read_text())
        for name, accuracy in stated.items():
            block = summary["models"][name]
            measured = 100 * block["metrics"]["accuracy"]
            digits = len(str(accuracy).partition(".")[2])
            correct = round(block["metrics"]["accuracy"] * block["samples"])
            same = round(measured, digits) == accuracy
            row = {
                "data": key.partition("_")[0],
                "model": name,
                "among": len(block["per_class"]),
                "stated": accuracy,
                "measured": round(measured, 2),
                "same": same,
            }
            rows.append(row | {"correct": correct, "samples": block["samples"], "interval": block["intervals"]["accuracy"]})
            click.echo(f"{'same' if same else 'DIFFERS':8} {key:40} {name:24} stated {accuracy} measured {measured:.2f}")
    path = results.write("eval_command", {"dtype": "float32", "rows": rows})
    click.echo(f"wrote {path}")
    if not all(row["same"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
