"""A whole job on two processes, launched as users launch it."""

import json
import subprocess
import sys
from pathlib import Path

from .conftest import NO_GPU

RECIPE = """
job: distill
data: {source: "bundled:digits", labels_per_class: 10}
teacher: {source: "builtin:mlp", train: {steps: 30}}
student: {source: "builtin:mlp", options: {widths: [8]}}
train: {steps: 20, optimizer: {adamw: {lr: 0.01}}, precision: fp32}
"""


def test_torchrun_trains_one_run_and_writes_each_line_once(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    program = Path(sys.executable).with_name("transfuse")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(program), "run", "recipe.yaml"]
    done = subprocess.run(
        [*command, f"out={tmp_path / 'run'}", f"cache.dir={tmp_path / 'cache'}"],
        cwd=tmp_path, env=NO_GPU, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    steps = [
        (line["run"], line["step"]) for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if line["kind"] == "train"
    ]
    assert steps == [("teacher", step) for step in range(1, 31)] + [("student", step) for step in range(1, 21)]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["models"]["student"]["metrics"]["accuracy"] > 0.1
    assert summary["teacher_forwards"] >= 1797  # every sample of the data set, whichever process asked about it
    assert "data parallel over 2 processes" in (run / "reasons.json").read_text()
