"""Writing a result file: figures with the hardware, versions and commit that they were made with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

from transfuse.engine.precision import has_bf16_units

FOLDER = Path(__file__).parent / "results"


def hardware() -> dict[str, Any]:
    """The machine and the versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "bf16_units": has_bf16_units("cuda" if torch.cuda.is_available() else "cpu"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit() -> str | None:
    """The commit that is measured, marked where the tree differs from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, cwd=FOLDER)
    return done.stdout.strip() or None


def origin() -> dict[str, Any]:
    """The command that is running, when, at which commit and where: of a file, or of a part that later commands leave as it is."""
    command = "python -m " + " ".join([f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return {"command": command, "date": date.today().isoformat(), "commit": commit(), "hardware": hardware()}


def write(name: str, figures: dict[str, Any]) -> Path:
    """Writes results/NAME.json and returns its path."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({**origin(), **figures}, indent=2) + "\n", encoding="utf-8")
    return path
