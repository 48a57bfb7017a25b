"""The three kinds of teacher behind one protocol: live network, table of predictions, and either of them remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.core.protocols import Teacher
from transfuse.core.taps import Taps
from transfuse.core.types import Signals
from transfuse.engine.precision import autocast
from transfuse.engine.teacher_cache.store import Store, to_tensor
from transfuse.errors import ModelError, NumericsError

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

    def covers(self, ids: Tensor) -> Tensor:
        return torch.ones(len(ids), dtype=torch.bool, device=ids.device)

    @torch.inference_mode(False)
    @torch.no_grad()
    def answers(self, ids: Tensor, views: Tensor, inputs: Tensor | None = None) -> Signals:
        raw = self.fetch(ids, views) if inputs is None else inputs
        self.forwards += len(ids)
        self.module.eval()  # somebody may have called train() on a parent
        prepared = self.preprocess(raw)
        if self.channels_last and prepared.ndim == 4:
            prepared = prepared.contiguous(memory_format=torch.channels_last)
        if self.tapped and self._taps is None:
            self._taps = Taps(self.module, self.tapped, prepared[:1])
        with autocast(self.precision, self.device):
            logits, features = (self.module(prepared), {}) if self._taps is None else self._taps(prepared)
        if logits.device.type == "cpu":  # on a GPU looking would wait for the device
            refuse_nan(logits)
        return Signals(logits.float(), features)

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
        return self.rows.to(ids.device)[ids] >= 0

    def answers(self, ids: Tensor, views: Tensor, inputs: Tensor | None = None) -> Signals:
        rows = self.rows.to(ids.device)[ids].clamp(min=0)  # uncovered samples are masked by whoever averages
        return Signals(self.logits.to(ids.device)[rows])


class CachedTeacher:
    """A live teacher whose answers are stored: each sample and view is asked once.

    A step gets what was stored, rounded as it was stored, also the first time. When any sample of a batch is missing the teacher sees
    the whole batch and only the missing answers are stored: rows of a forward pass then don't depend on which of them were known,
    so a run that is killed while storing goes on with the same bits.

    Args:
        live: who is asked.
        store: where answers are kept.
    """

    def __init__(self, live: LiveTeacher, store: Store):
        self.live, self.store = live, store

    @property
    def forwards(self) -> int:
        return self.live.forwards

    def covers(self, ids: Tensor) -> Tensor:
        return self.live.covers(ids)

    def answers(self, ids: Tensor, views: Tensor, inputs: Tensor | None = None) -> Signals:
        rows, wanted = ids.cpu().numpy(), views.cpu().numpy()
        values = np.empty((len(rows), self.store.columns), dtype=self.store.dtype)
        known = np.zeros(len(rows), dtype=bool)
        for view in np.unique(wanted):
            places = np.flatnonzero(wanted == view)
            values[places], known[places] = self.store.read(int(view), rows[places])
        if not known.all():
            answered = self.live.answers(ids, views, inputs).logits.cpu()
            refuse_nan(answered)
            fresh = answered.numpy()
            for view in np.unique(wanted[~known]):
                places = np.flatnonzero((wanted == view) & ~known)
                self.store.write(int(view), rows[places], fresh[places])
                values[places], _ = self.store.read(int(view), rows[places])  # a sample that is here twice gets one answer
        return Signals(to_tensor(values, ids.device))


def refuse_nan(logits: Tensor) -> None:
    """NaN in a teacher's answers, which objectives would take for a probability of zero.

    Raises:
        NumericsError: there is some.
    """
    bad = int(logits.isnan().any(-1).sum())
    if bad:
        fix = "check its weights and its preprocess, or use train.precision=fp32"
        raise NumericsError(f"a teacher's answer is NaN for {bad} of {len(logits)} samples of a batch", where="teachers", fix=fix)


def with_features(teacher: Teacher, paths: Sequence[str]) -> Teacher:
    """The teacher, answering with these features too; as it is, where there are none.

    A store keeps logits only, so a remembered teacher is asked live.

    Raises:
        ModelError: it is not a network.
    """
    if not paths:
        return teacher
    live = teacher.live if isinstance(teacher, CachedTeacher) else teacher
    if not isinstance(live, LiveTeacher):
        raise ModelError(
            "a table of predictions has no inner features", fix="give the network itself, or an objective that needs logits only"
        )
    return live.tapping(paths)
