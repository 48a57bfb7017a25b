"""The command `transfuse eval` on weights as their authors published them: the accuracies that are known for them, to the last image.

    python -m benchmarks.eval_command --work DIR

Converts the weights (benchmarks/real_weights.py), measures them with the command, compares with the stated figures, writes
benchmarks/results/eval_command.json and fails where one differs. fp32 on the CPU. An evaluation that is there already is not run again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks import data, results
from benchmarks.real_weights import WEIGHTS, convert
from transfuse.cli.main import run

ANTS = {name: 310 if WEIGHTS[name].outputs == 1000 else 311 for name in WEIGHTS if name.startswith("mobilenet")}


def chosen(name: str, side: int | None = None) -> list[str]:
    """The recipe keys by which an ImageNet network chooses between ants and bees, at another size of its input where asked."""
    keys = [f"models.{name}.classes={{ants: {ANTS[name]}, bees: {ANTS[name] - 1}}}"]
    preprocess = {**WEIGHTS[name].preprocess.to_dict(), "size": side}
    return keys + ([f"models.{name}.preprocess={json.dumps(preprocess)}"] if side else [])


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
    for name, side, stated in (
        ("mobilenetv2_100_224", None, 98.7),
        ("mobilenetv2_100_224", 128, 93.5),
        ("mobilenetv1_050_160", None, 92.2),
        ("mobilenetv1_025_224", None, 90.8),
    ):
        key = f"hymenoptera_{name}_{side or 'own'}"
        found[key] = ([f"data=images:{pictures}", *chosen(name, side)], {name: stated})
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
            row = {"data": key.partition("_")[0], "model": name, "stated": accuracy, "measured": round(measured, 2), "same": same}
            rows.append(row | {"correct": correct, "samples": block["samples"], "interval": block["intervals"]["accuracy"]})
            click.echo(f"{'same' if same else 'DIFFERS':8} {key:40} {name:24} stated {accuracy} measured {measured:.2f}")
    path = results.write("eval_command", {"dtype": "float32", "rows": rows})
    click.echo(f"wrote {path}")
    if not all(row["same"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
