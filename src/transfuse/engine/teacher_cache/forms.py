"""What one row of a store holds: dense numbers (logits, a tapped feature), or the largest logits with the tails of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from transfuse.core.devices import sent
from transfuse.core.numerics import TopLogits, top_logits

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


class Form(Protocol):
    """Turns answers into rows of bytes and back; what a step sees is always what came back."""

    @property
    def bytes(self) -> int:
        """Of one row."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain values that tell one form from another, for the key and for listings."""
        ...

    def encode(self, answers: Tensor) -> np.ndarray:
        """uint8 [n, bytes]."""
        ...


class Dense:
    """Numbers of one shape per sample, rounded to the precision and clipped to its range, since inf would make a softmax of NaN.

    Args:
        shape: of one sample's answer: (classes,) for logits.
        precision: fp16 or fp32.
    """

    def __init__(self, shape: Sequence[int], precision: str = "fp16"):
        self.shape, self.precision = tuple(shape), precision
        self.dtype = DTYPES[precision]
        self.bytes = int(np.prod(self.shape)) * self.dtype.itemsize

    def describe(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "stored": self.precision}

    def encode(self, answers: Tensor) -> np.ndarray:
        limit = torch.finfo(self.dtype).max
        kept = answers.detach().cpu().float().clamp(-limit, limit).to(self.dtype)
        return kept.reshape(len(kept), -1).contiguous().numpy().view(np.uint8)

    def decode(self, rows: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """float32 [n, *shape]."""
        values = torch.from_numpy(rows).view(self.dtype).reshape(len(rows), *self.shape)
        return sent(values, device).float()


class Top:
    """The k largest logits of each sample, and at each temperature the log-sum-exp of all others.

    Args:
        k: how many logits.
        classes: among how many.
        temperatures: at which the tails are kept; at another one the tail can't be rebuilt.
        precision: of the logits, which are stored relative to the largest one; tails are fp32.
    """

    def __init__(self, k: int, classes: int, temperatures: Sequence[float], precision: str = "fp16"):
        self.k, self.classes, self.precision = k, classes, precision
        self.temperatures = tuple(sorted(float(temperature) for temperature in set(temperatures)))
        self._row = np.dtype(
            [
                ("classes", np.uint32, (k,)),
                ("logits", {"fp16": np.float16, "fp32": np.float32}[precision], (k,)),
                ("tails", np.float32, (len(self.temperatures),)),
            ]
        )
        self.bytes = self._row.itemsize

    def describe(self) -> dict[str, Any]:
        return {"top_k": self.k, "of": self.classes, "temperatures": list(self.temperatures), "stored": self.precision}

    def encode(self, answers: Tensor) -> np.ndarray:
        top = top_logits(answers.detach().cpu(), self.k, self.temperatures)
        rows = np.zeros(len(answers), self._row)
        rows["classes"] = top.classes.numpy()
        limit = float(np.finfo(self._row["logits"].base).max)
        rows["logits"] = top.logits.clamp(min=-limit).numpy()
        rows["tails"] = torch.stack(list(top.log_tails.values()), dim=-1).numpy()
        return rows.view(np.uint8).reshape(len(rows), self.bytes)

    def decode(self, rows: np.ndarray, device: torch.device | str = "cpu") -> TopLogits:
        """In float32."""
        found = np.ascontiguousarray(rows).view(self._row)[:, 0]
        tails = sent(torch.from_numpy(found["tails"].copy()), device)
        return TopLogits(
            sent(torch.from_numpy(found["classes"].astype(np.int64)), device),
            sent(torch.from_numpy(found["logits"].copy()), device).float(),
            {temperature: tails[:, place] for place, temperature in enumerate(self.temperatures)},
        )
