"""The command `transfuse eval` on the standard corruptions: published CIFAR-10 networks, all fifteen kinds at severities 1, 3 and 5.

    python -m benchmarks.robustness --work DIR [--pictures 500]

The pictures are of the half of the held-back ones that is for reporting (benchmarks/data.for_choosing). fp32 on the CPU. An evaluation that
was interrupted goes on after the last corruption that it finished; its report with the curves is DIR/evaluation/report.html. Writes
benchmarks/results/robustness.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks import data, results
from benchmarks.real_weights import convert
from transfuse.cli.main import run

NETWORKS = ("akamaster_resnet56", "distiller_resnet20", "akamaster_resnet20", "mlperf_tiny_resnet8")
SEVERITIES = [1, 3, 5]


def reporting_half(out: Path) -> Path:
    """The pictures as a file for `arrays:`, whose test part is the half that no choice has looked at."""
    if not out.exists():
        arrays = data.cifar10()
        kept = ~data.for_choosing(arrays["y_test"])
        halved = {key: arrays[key][kept] for key in ("x_test", "y_test", "index_test")}
        data.write_arrays({**arrays, **halved}, out)
    return out


def row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """A network's errors in per cent: clean, by severity over all corruptions, by corruption over all severities, and each of them."""
    errors: dict[str, list[float]] = found["errors"]
    by_severity = {str(level): sum(values[place] for values in errors.values()) / len(errors) for place, level in enumerate(SEVERITIES)}
    means = {kind: sum(values) / len(values) for kind, values in errors.items()}
    return {
        "model": name,
        "clean_error": percent(found["clean_error"]),
        "mean_corruption_error": percent(found["mean_corruption_error"]),
        "by_severity": {level: percent(value) for level, value in by_severity.items()},
        "by_corruption": {kind: percent(value) for kind, value in means.items()},
        "errors": {kind: [percent(value) for value in values] for kind, values in errors.items()},
    }


def percent(share: float) -> float:
    return round(100 * share, 2)


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="folder for converted weights and the evaluation")
@click.option("--pictures", default=500, show_default=True, help="how many of the 1,000")
def main(work: Path, pictures: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    out = work / "evaluation"
    if not (out / "summary.json").exists():
        models = [str(convert(name, data.weights("."), work)) for name in NETWORKS]
        keys = [f"data=arrays:{reporting_half(work / 'reporting.npz')}", "robustness=true", f"robustness_severities={SEVERITIES}"]
        status = run(["resume", str(out)] if out.exists() else ["eval", *models, *keys, f"robustness_samples={pictures}", f"out={out}"])
        if status:
            raise SystemExit(status)
    summary = json.loads((out / "summary.json").read_text())
    found = summary["robustness"]
    rows = [row(name, found["models"][name]) for name in NETWORKS]
    for shown in rows:
        click.echo(f"{shown['model']:22} clean {shown['clean_error']} corrupted {shown['mean_corruption_error']} {shown['by_severity']}")
    about = {"dtype": "float32", "unit": "per cent of pictures", "pictures": found["samples"], "definition": found["definition"]}
    clean = {name: summary["models"][name]["metrics"]["accuracy"] for name in NETWORKS}
    accuracy = {"accuracy_on_the_whole_half": {name: percent(value) for name, value in clean.items()}}
    path = results.write(
        "robustness", {**about, "severities": found["severities"], **accuracy, "seconds": summary["seconds"]["total"], "rows": rows}
    )
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
