"""Teachers that answer anew each time, behind one protocol: a live network, a table of predictions. cached.py has those who remember."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from transfuse.core.devices import sent
from transfuse.core.protocols import Teacher
from transfuse.core.taps import Taps
from transfuse.core.types import Signals
from transfuse.engine.precision import autocast
from transfuse.errors import ModelError, NumericsError

SOUND = "check its weights and its preprocess, or use train.precision=fp32"
Fetch = Callable[[Tensor, Tensor], Tensor]  # (ids, views) -> shared raw views


class LiveTeacher:
    """A frozen network in eval mode, asked anew each time.

    Args:
        module: raw student-independent inputs are preprocessed and go in, logits come out.
        preprocess: from the shared raw view to this teacher's inputs.
        fetch: raw views of samples, where a caller doesn't have them at hand.
        device: where it runs.
        precision: fp32, bf16 or fp16.
        channels_last: memory layout of 4-D inputs.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Callable[[Tensor], Tensor],
        fetch: Fetch,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        channels_last: bool = False,
    ):
        self.module = module.to(device).eval().requires_grad_(False)
        self.preprocess, self.fetch, self.device = preprocess, fetch, torch.device(device)
        self.precision, self.channels_last = precision, channels_last
        self.forwards = 0
        self.tapped: tuple[str, ...] = ()  # paths of the features that it answers with, beside its logits
        self._taps: Taps | None = None
        self._fits = 2**31  # samples per forward pass, as far as memory is known to do
        self._bad: Tensor | None = None  # answers with NaN in them that a GPU gave so far

    def covers(self, ids: Tensor) -> Tensor:
        return torch.ones(len(ids), dtype=torch.bool, device=ids.device)

    def answers(self, ids: Tensor, views: Tensor, inputs: Tensor | None = None) -> Signals:
        return self.asked(self.fetch(ids, views) if inputs is None else inputs, counted=len(ids))

    @torch.inference_mode(False)
    @torch.no_grad()
    def asked(self, raw: Tensor, counted: int) -> Signals:
        """One forward pass, in parts where memory runs out.

        Args:
            raw: shared raw views.
            counted: how many of them are questions; the others only fill the batch.
        """
        self.forwards += counted
        self.module.eval()  # somebody may have called train() on a parent
        while True:
            try:
                parts = [self._forward(part) for part in raw.split(min(self._fits, len(raw)) or 1)]
                break
            except torch.OutOfMemoryError:
                if self._fits == 1 or len(raw) == 1:
                    raise
                self._fits = -(-min(self._fits, len(raw)) // 2)
                torch.cuda.empty_cache()
        if self.device.type != "cpu":
            bad = torch.stack([part.logits.isnan().any(-1).sum() for part in parts]).sum()
            self._bad = bad if self._bad is None else self._bad + bad
        if len(parts) == 1:
            return parts[0]
        paths = parts[0].features
        return Signals(
            torch.cat([part.logits for part in parts]), {path: torch.cat([part.features[path] for part in parts]) for path in paths}
        )

    def _forward(self, raw: Tensor) -> Signals:
        prepared = self._prepared(raw)
        if self.tapped and self._taps is None:
            self._taps = Taps(self.module, self.tapped, prepared[:1])
        with autocast(self.precision, self.device):
            logits, features = (self.module(prepared), {}) if self._taps is None else self._taps(prepared)
        if logits.device.type == "cpu":  # on a GPU looking would wait for it: `look` does, now and then
            refuse_nan(logits)
        return Signals(logits.float(), features)

    def look(self) -> int:
        """How many of its answers on a GPU were NaN so far; waits for the GPU."""
        return 0 if self._bad is None else int(self._bad)

    def _prepared(self, raw: Tensor) -> Tensor:
        prepared = self.preprocess(sent(raw, self.device))  # evaluation's come from the host
        if self.channels_last and prepared.ndim == 4:
            return prepared.contiguous(memory_format=torch.channels_last)
        return prepared

    @torch.no_grad()
    def feature_shapes(self) -> dict[str, tuple[int, ...]] | None:
        """Shape of one sample's tapped features by path, seen on two samples; None where a feature has no row per sample."""
        zero = torch.zeros(2, dtype=torch.int64)
        shapes = Taps(self.module, self.tapped, self._prepared(self.fetch(zero, zero))).shapes
        return {path: shape[1:] for path, shape in shapes.items()} if all(shape[0] == 2 for shape in shapes.values()) else None

    def tapping(self, paths: Sequence[str]) -> LiveTeacher:
        """Itself, answering with the features at these module paths too."""
        self.tapped, self._taps = tuple(paths), None
        return self


class TableTeacher:
    """Predictions made elsewhere, by sample; the view makes no difference to them.

    Args:
        rows: int64 [pool], row of the table for each sample of the pool, -1 where there is none.
        logits: float [rows, classes]; log-probabilities do.
    """

    forwards = 0  # nothing is asked of any network

    def __init__(self, rows: Tensor, logits: Tensor):
        self.rows, self.logits = rows, logits

    def covers(self, ids: Tensor) -> Tensor:
        self._move(ids.device)
        return self.rows[ids] >= 0

    def answers(self, ids: Tensor, views: Tensor, inputs: Tensor | None = None) -> Signals:
        self._move(ids.device)
        return Signals(self.logits[self.rows[ids].clamp(min=0)])  # uncovered samples are masked by whoever averages

    def _move(self, device: torch.device) -> None:
        """The table goes where it is asked for, and stays there: it is asked in every step."""
        if self.rows.device != device:
            self.rows, self.logits = self.rows.to(device), self.logits.to(device)


def refuse_nan(logits: Tensor) -> None:
    """NaN in a teacher's answers, which objectives would take for a probability of zero.

    Raises:
        NumericsError: there is some.
    """
    bad = int(logits.isnan().any(-1).sum())
    if bad:
        raise NumericsError(f"a teacher's answer is NaN for {bad} of {len(logits)} samples of a batch", where="teachers", fix=SOUND)


def with_features(teacher: Teacher, paths: Sequence[str]) -> Teacher:
    """The teacher, answering with these features too; as it is, where there are none.

    Raises:
        ModelError: it is not a network.
    """
    if not paths:
        return teacher
    tapping: Callable[[Sequence[str]], Teacher] | None = getattr(teacher, "tapping", None)
    return asked_live(teacher, "has no inner features").tapping(paths) if tapping is None else tapping(paths)


def asked_live(teacher: Teacher, why_not: str = "says nothing about turned pictures") -> LiveTeacher:
    """The network behind a teacher, whatever is remembered of it.

    Raises:
        ModelError: there is none; says why that does not do.
    """
    live = getattr(teacher, "live", teacher)
    if not isinstance(live, LiveTeacher):
        fix = "give the network itself, or an objective that needs logits only"
        raise ModelError(f"a table of predictions {why_not}", fix=fix)
    return live
