"""Small jobs on real data that finish in about a second."""

import json
import os

import pytest

from transfuse.jobs import distill
from transfuse.recipe.load import from_values

NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # for several processes: there may be fewer GPUs than those


@pytest.fixture
def job(tmp_path):
    """A function from changes of a small recipe to the finished run; all runs of one test share a cache."""
    count = iter(range(100))

    def run(*overrides, live=None, **changes):
        values = {
            "job": "distill",
            "data": {"source": "bundled:digits", "labels_per_class": 10},
            "teacher": {"source": "builtin:mlp", "options": {"widths": [64]}, "train": {"steps": 60, "batch_size": 64}},
            "student": {"source": "builtin:mlp", "options": {"widths": [8]}},
            "train": {"steps": 30, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32"},
            "cache": {"dir": str(tmp_path / "cache")},
            "out": str(tmp_path / f"run{next(count)}"),
            **changes,
        }
        if "teachers" in changes:
            values.pop("teacher")
        return distill.run(from_values(values, overrides), live=live)

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
