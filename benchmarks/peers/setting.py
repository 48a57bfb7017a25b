"""What all contenders share: the pictures, the pair of networks, the schedule, the loss; decided here once so that nobody has it easier."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import data
from transfuse import models
from transfuse.core.types import ModelRequest
from transfuse.engine import precision

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, LR, MOMENTUM, WEIGHT_DECAY = 128, 0.1, 0.9, 5e-4
TEMPERATURE, HARD, SOFT = 4.0, 0.1, 0.9
TEACHERS: dict[str, dict[str, Any]] = {
    "small": {"source": "file:{weights}/resnet20-12fca82f.th", "architecture": "builtin:resnet20", "options": {"shortcut": "A"}},
    "middle": {"source": "file:{weights}/resnet56-4bfd9763.th", "architecture": "builtin:resnet56", "options": {"shortcut": "A"}},
    "large": {"source": "file:{folder}/large.pt", "architecture": "builtin:resnet32x4", "options": {}},
}


def device() -> torch.device:
    """Where everybody trains."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_format() -> str:
    """The number format of everybody who is tuned: bf16 where the hardware has units for it, else fp32, as transfuse decides for itself."""
    return "bf16" if precision.has_bf16_units(device()) else "fp32"


def fast() -> AbstractContextManager[object]:
    """The autocast context of that format."""
    return precision.autocast(fast_format(), device())


@dataclass
class Setting:
    """One comparison.

    Attributes:
        teacher: small, middle or large.
        steps: optimiser steps of the whole training.
        threads: of torch in each contender.
        block: optimiser steps per turn.
        seed: of weights and order.
        folder: where our runs and the cache lie.
    """

    teacher: str
    steps: int
    threads: int
    block: int
    seed: int
    folder: str


def pictures() -> dict[str, np.ndarray]:
    """CIFAR-10's subset: 10,000 to train on, 2,000 to report on."""
    return data.cifar10()


def write_large(folder: str) -> None:
    """The large teacher's file. Its weights are random: its answers cost the same, and under it no accuracy is compared."""
    network = models.open_model(TEACHERS["large"]["architecture"], ModelRequest(outputs=10, input_shape=(3, 32, 32), seed=0)).network
    torch.save(network.state_dict(), Path(folder) / "large.pt")


def teacher_block(setting: Setting) -> dict[str, Any]:
    """A teacher as a recipe has it."""
    block = TEACHERS[setting.teacher]
    source = block["source"].format(folder=setting.folder, weights=data.weights("akamaster_cifar10"))
    return {**block, "source": source, "trusted": True, "preprocess": {"size": 32, "mean": list(MEAN), "std": list(STD)}}


def teacher_network(setting: Setting) -> nn.Module:
    """The same teacher as a module, for those who are not us."""
    block = teacher_block(setting)
    request = ModelRequest(
        outputs=10, input_shape=(3, 32, 32), architecture=block["architecture"], options=block["options"], trusted=block["trusted"]
    )
    return models.open_model(block["source"], request).network.eval().requires_grad_(False).to(device())


def student_network(seed: int) -> nn.Module:
    """ResNet-20 with fresh weights."""
    return models.open_model("builtin:resnet20", ModelRequest(outputs=10, input_shape=(3, 32, 32), seed=seed)).network.train().to(device())


def optimizer_of(student: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD under half a cosine, as everybody here trains."""
    optimizer = torch.optim.SGD(student.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """0.1 cross-entropy + 0.9 T^2 KL, as it is written by hand everywhere."""
    functional = nn.functional
    log_student = functional.log_softmax(student_logits / TEMPERATURE, dim=1)
    teacher = functional.softmax(teacher_logits / TEMPERATURE, dim=1)
    soft = functional.kl_div(log_student, teacher, reduction="batchmean") * TEMPERATURE**2
    return HARD * functional.cross_entropy(student_logits, labels) + SOFT * soft


@torch.no_grad()
def accuracy(student: nn.Module, arrays: dict[str, np.ndarray]) -> float:
    """Share of the held-back pictures that a network gets right, in fp32."""
    inputs = torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2).float() / 255
    inputs = (inputs - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    logits = torch.cat([student.eval()(part.to(device())) for part in inputs.split(500)])
    return float((logits.argmax(1).cpu().numpy() == arrays["y_test"]).mean())
