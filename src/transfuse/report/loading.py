"""How to use the student of a run: the lines of code that the page and the card show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def python(path: Path, student: Mapping[str, Any], repository: str | None = None) -> str:
    """Opens the student with its preprocessing and class names.

    Args:
        path: the run folder.
        student: student.json; a student that was given as an object has no architecture that could be rebuilt.
        repository: where on a hub the folder can be had; None: it is at hand.
    """
    if str(student.get("source", "")).startswith("live:") and not student.get("architecture"):
        return f"""from safetensors.torch import load_model

module = {student["source"].removeprefix("live:")}(...)  # your own class, constructed as it was for the run
load_model(module, {str(path / "student.safetensors")!r})
module.eval()
"""
    place, first = repr(f"run:{path}"), ""
    if repository is not None:
        place = f'f"run:{{snapshot_download({repository!r})}}"'
        first = "from huggingface_hub import snapshot_download\n"
    meaning = ""
    if student.get("target"):
        meaning = (
            "predictions = outputs * torch.tensor(student.target.std) + torch.tensor(student.target.mean)  # in the targets' own units\n"
        )
    return f"""import torch
import transfuse
{first}
student = transfuse.models.open_model({place})
student.network     # a torch.nn.Module in eval mode: preprocessed inputs in, logits out
student.preprocess  # from raw inputs to the network's
student.classes     # names of the outputs

with torch.inference_mode():
    outputs = student.network(student.preprocess.exact_batch(raw))  # raw: uint8 [n, channels, height, width] or float [n, columns]
{meaning}"""


def command(path: Path) -> str:
    """Lets the student teach a smaller one."""
    return f"transfuse distill teacher=run:{path} student=MODEL data=DATA\n"
