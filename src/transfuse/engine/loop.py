"""THE loop: fetch, step, log, validate, checkpoint, stop. The only place that does backward, clipping and the optimiser step."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transfuse.core import ranks, seeds
from transfuse.core.policy import Rate
from transfuse.core.protocols import Evaluate, Listener, Stepper
from transfuse.core.types import Batch, Progress, Term
from transfuse.engine import memory, parallel
from transfuse.engine.apart import Apart
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.ema import Ema
from transfuse.engine.interrupt import Interrupt
from transfuse.engine.loader import MemoryLoader, WorkerLoader
from transfuse.engine.optim import build_optimizer, lay_gradients, lay_state
from transfuse.engine.phases import forget_gradients, over_phases, parts_of
from transfuse.engine.rehearsal import refuse_split
from transfuse.engine.repeatable import repeatable
from transfuse.engine.schedule import SCHEDULES
from transfuse.engine.settings import Outcome, Settings, State
from transfuse.engine.teacher_cache.teachers import SOUND
from transfuse.engine.track import Jsonl
from transfuse.errors import NumericsError, RecipeError, RunError

__all__ = ["Loop", "Outcome", "Settings", "State"]

LOGGED = 200  # training lines per run, whatever its length
CHECKED = 25  # steps after which a GPU's terms are looked at
UNSEEN = 1.0  # seconds after which they are, where steps are slow


class Loop:
    """Trains what a stepper holds.

    Args:
        stepper: computes the terms; its module tree is what is trained.
        loader: yields a step's batch.
        settings: how to train.
        evaluate: a network -> validation metrics; called with the student (or its average).
        checkpoints: where the state is kept.
        track: where metrics are written.
        listen: told about progress.
    """

    def __init__(
        self,
        stepper: Stepper,
        loader: MemoryLoader | WorkerLoader,
        settings: Settings,
        evaluate: Evaluate | None = None,
        checkpoints: Checkpoints | None = None,
        track: Jsonl | None = None,
        listen: Listener | None = None,
    ):
        self.stepper, self.loader, self.settings, self.evaluate = stepper, loader, settings, evaluate
        self.checkpoints, self.track = checkpoints or Checkpoints(None), track or Jsonl(None, "student")
        self.listen = listen or (lambda progress: None)
        self.module = stepper.trained()
        self.student: nn.Module = self.module.get_submodule("student")
        self.kept: nn.Module = getattr(stepper, "kept", lambda: self.student)()
        self.rates: Sequence[Rate] = getattr(stepper, "rates", ())
        self.optimizer = build_optimizer(self.module, *settings.optimizer, self.rates)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = Ema(self.kept, settings.ema) if settings.ema else None
        self.scaler = torch.amp.GradScaler(enabled=settings.fp16)
        self.state, self.names, self.notes = State(step=settings.first), [], []
        self.rows: list[tuple[int, float, Tensor]] = []  # steps that were not looked at: number, learning rate, terms
        self._looked = time.monotonic()
        self.state.micro_batches = settings.accumulate
        self._refuse_split(settings.accumulate, "train.accumulate")
        unused = len(stepper.phases()) > 1 or getattr(stepper, "partial", bool)()
        self.called, notes = parallel.wrap(self.module, loader.device, unused)
        self.combine = getattr(stepper, "combine", None)
        self.begin_step = getattr(stepper, "begin_step", None)
        self.notes += notes

    def fit(self) -> Outcome:
        """Trains to the end (or from where a checkpoint stands) and leaves the chosen weights in the student.

        Raises:
            NumericsError: a term stopped being finite; names the step and the term. The last good checkpoint stays.
            KeyboardInterrupt: asked to stop; the state is saved.
            RecipeError: memory ran out and a batch-level objective forbids splitting the batch.
        """
        try:
            with memory.kept(self.loader.device), repeatable(self.loader.device, self._say):
                return self._fit()
        finally:
            parallel.unwrap(self.module)  # whoever is given the network, or trains it again, finds its own layers in it

    def _fit(self) -> Outcome:
        self._resume()
        self.module.train()
        began = time.monotonic() - self.state.seconds
        saved = self._looked = time.monotonic()
        with Interrupt() as interrupt:
            for batch in self.loader.batches(self.state.step, self.settings.steps):
                if self.state.stopped:
                    break
                values = self._step(batch)
                self.rows.append((self.state.step, max(group["lr"] for group in self.optimizer.param_groups), values))
                self.state.step += 1
                self.state.seconds = time.monotonic() - began
                self._log()
                if self._due():
                    self._validate()
                # clocks and signals differ between processes, so all decide together: one that saves alone would wait for ever
                late = self.settings.minutes is not None and self.state.seconds >= 60 * self.settings.minutes
                old = time.monotonic() - saved >= self.settings.checkpoint_seconds
                unseen = time.monotonic() - self._looked >= UNSEEN
                asked, late, old, unseen = parallel.any_rank([interrupt.asked, late, old, unseen], self.loader.device)
                if unseen:
                    self._check()
                if late and not self.state.stopped:
                    self._stop_by_time()
                ended = self.state.step == self.settings.steps or bool(self.state.stopped)
                if ended or asked or old:
                    self._save()
                    saved = time.monotonic()
                if asked and not ended:
                    raise KeyboardInterrupt
        return self._finish()

    # one step

    def _step(self, batch: Batch) -> Tensor:
        """Forward, backward and update on one batch; in smaller pieces from then on where memory runs out."""
        while True:
            try:
                return self._update(batch)
            except torch.OutOfMemoryError:
                self.optimizer.zero_grad(set_to_none=True)
                if ranks.active():
                    fix = "raise train.accumulate or lower train.batch_size"
                    raise RecipeError("memory ran out on one of several processes", where="train", fix=fix) from None
                if self.state.micro_batches >= len(batch):
                    raise RecipeError("one sample does not fit into memory", where="train.batch_size") from None
                more = min(2 * self.state.micro_batches, len(batch))
                self._refuse_split(more, "memory ran out")
                self.state.micro_batches = more
                torch.cuda.empty_cache()
                same = "BatchNorm sees smaller batches" if parallel.batchnorms(self.student) else "the result stays the same"
                self._say(f"memory ran out at step {self.state.step}: batches are now computed in {more} parts; {same}")

    def _update(self, batch: Batch) -> Tensor:
        """One update per phase; the values behind `names`, see `over_phases`."""
        if self.begin_step is not None:
            self.begin_step(self.progress)
        totals = self._totals(batch)
        rows: list[tuple[list[str], Tensor]] = []
        for phase in self.stepper.phases():
            self.optimizer.zero_grad(set_to_none=True)
            pieces = parts_of(len(batch), self.state.micro_batches)
            names, parts, apart = [], [], Apart(self.module, self.combine) if self.combine is not None else None
            for number, rows_of_piece in enumerate(pieces):
                piece = batch if len(pieces) == 1 else batch.select(rows_of_piece)
                seeds.seed_step(self.settings.seed, "step", self.state.step, phase, number, ranks.rank())
                with parallel.without_sync(self.called, last=number == len(pieces) - 1 and apart is None):
                    terms = self.called(piece, phase, self.progress)
                    losses = [self._reduce(term, totals[term.name], len(pieces)) for term in terms]
                    weighted = [term.weight * value for term, value in zip(terms, losses, strict=True)]
                    loss = torch.stack(weighted).sum()
                    if apart is None:
                        self.scaler.scale(loss * ranks.world_size()).backward()
                    else:
                        self._differentiate(weighted, apart)
                names = ["loss", *(term.name for term in terms)]
                parts.append(torch.stack([value.detach().float() for value in [loss, *losses]]))
            rows.append((names, parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)))
            if apart is not None:
                seeds.seed_step(self.settings.seed, "combine", self.state.step, phase)  # the same draws on all ranks
                apart.combine()
            forget_gradients(self.module, self.stepper.trains(phase))
            self._apply_gradient()
        parallel.average_buffers(self.student)  # after every step, not when a clock says so: bits must not depend on it
        if self.ema is not None:
            self.ema.update(self.kept, self.state.step + 1)
        self.names, values = over_phases(rows)
        return values

    def _differentiate(self, weighted: list[Tensor], apart: Apart) -> None:
        """Every term's own gradient, for a stepper that combines them."""
        for term, loss in enumerate(weighted):
            gradients: Sequence[Tensor | None] = [None] * len(apart.parameters)
            if loss.requires_grad:
                more = term + 1 < len(weighted)
                gradients = torch.autograd.grad(self.scaler.scale(loss), apart.parameters, retain_graph=more, allow_unused=True)
            apart.add(term, gradients)

    def _totals(self, batch: Batch) -> dict[str, Tensor | None]:
        """Per term: over how many samples of the whole step, on all ranks, it is averaged."""
        masks = self.stepper.defined(batch)
        counted = {name: mask.sum() for name, mask in masks.items() if mask is not None}
        if counted:
            sums = ranks.sum_over_ranks(torch.stack(list(counted.values())).float()).clamp(min=1)
            counted = dict(zip(counted, sums, strict=True))
        return {name: counted.get(name) for name in masks}

    def _reduce(self, term: Term, total: Tensor | None, pieces: int) -> Tensor:
        """A term's share of the step's loss: summed over pieces and ranks it is the mean over where the term is defined."""
        if term.values.ndim == 0:
            return term.values / (pieces * ranks.world_size())
        assert total is not None
        values = term.values
        if term.defined is not None:  # not values * mask: what is undefined may be NaN
            values = torch.where(term.defined, values, torch.zeros_like(values))
        return values.sum() / total

    def _apply_gradient(self) -> None:
        if self.settings.clip is not None:
            self.scaler.unscale_(self.optimizer)
            for group in self.stepper.clipped():
                nn.utils.clip_grad_norm_([parameter for module in group for parameter in module.parameters()], self.settings.clip)
        factor = SCHEDULES[self.settings.schedule[0]](self._share(self.state.step + 0.5), **self.settings.schedule[1])
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor * (self.rates[group["rate"]].factor(self.progress) if group.get("rate", -1) >= 0 else 1.0)
        lay_gradients(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    @property
    def progress(self) -> float:
        return self._share(self.state.step)

    def _share(self, step: float) -> float:
        """How much of this stage is over: each has its own learning-rate and weight schedules."""
        return (step - self.settings.first) / (self.settings.steps - self.settings.first)

    # between steps

    def _log(self) -> None:
        """Looks at the terms of a step; on a GPU only every so often, because looking waits for it."""
        if self.loader.device.type == "cpu" or len(self.rows) >= CHECKED or self.state.step == self.settings.steps:
            self._check()

    def _check(self) -> None:
        """Moves the terms of the last steps to the host, stops at the first that is not finite, and writes their averages now and then."""
        self._looked = time.monotonic()
        if not self.rows:
            return
        table = ranks.sum_over_ranks(torch.stack([values for _, _, values in self.rows])).tolist()
        if said := getattr(self.stepper, "look", lambda: None)():
            raise NumericsError(f"{said} by step {self.state.step}", where=f"training {self.track.run}", fix=SOUND)
        every = max(1, self.settings.steps // LOGGED)
        for (step, rate, _), row in zip(self.rows, table, strict=True):
            self._refuse(step, row)
            self.state.pending.append(row)
            if (step + 1) % every == 0 or step + 1 == self.settings.steps:
                self._write(step + 1, rate)
        self.rows = []

    def _refuse(self, step: int, row: list[float]) -> None:
        """Stops at a term that is not finite."""
        # the loss itself stands first; a term that is to blame is named before it
        for name, value in sorted(zip(self.names, row, strict=True), key=lambda pair: pair[0] == "loss"):
            if not math.isfinite(value):
                fix = "lower the learning rate, set train.clip=1, or use train.precision=fp32"
                raise NumericsError(f"the loss term '{name}' became {value} at step {step}", where=f"training {self.track.run}", fix=fix)

    def _write(self, step: int, rate: float) -> None:
        """A line with the averages since the last one, up to so many steps."""
        means = [sum(column) / len(column) for column in zip(*self.state.pending, strict=True)]
        values = dict(zip(self.names, means, strict=True))
        self.state.pending = []
        loss, epoch = values.pop("loss"), self.loader.order.epoch(step)
        if ranks.rank() == 0:
            self.track.write("train", {"step": step, "epoch": epoch, "loss": loss, "terms": values, "lr": rate})
        self.listen(Progress(self.track.run, step, self.settings.steps, epoch, {"loss": loss}, "", self.track.stage))

    @property
    def epoch(self) -> float:
        return self.loader.order.epoch(self.state.step)

    def _due(self) -> bool:
        every = self.settings.evaluate_every
        return self.evaluate is not None and (self.state.step == self.settings.steps or (every > 0 and self.state.step % every == 0))

    def _validate(self) -> None:
        assert self.evaluate is not None
        self._check()
        network = self.ema.module if self.ema is not None else self.kept
        # each rank's own figures may differ in a bit, and ranks that stop at different steps wait for each other for ever
        metrics = parallel.agreed(self.evaluate(network))
        value = metrics[self.settings.metric]
        sign = 1 if self.settings.higher_is_better else -1
        better = self.state.best is None or sign * value > sign * self.state.best
        if better:
            self.state.best, self.state.best_step, self.state.evaluations_since_best = value, self.state.step, 0
            if self.settings.select == "best":
                self.state.best_weights = {name: entry.detach().clone() for name, entry in network.state_dict().items()}
        else:
            self.state.evaluations_since_best += 1
        if self.settings.snapshots:
            self._remember(network, sign * value)
        if ranks.rank() == 0:
            self.track.write("val", {"step": self.state.step, "epoch": self.epoch, "metrics": metrics})
        self._tell(metrics)
        self._stop_by_metric(value)

    def _remember(self, network: nn.Module, goodness: float) -> None:
        """Keeps the best few of the validated weights, for averages over one run."""
        weights = {name: entry.detach().clone() for name, entry in network.state_dict().items()}
        kept = [*self.state.snapshots, {"step": self.state.step, "goodness": goodness, "weights": weights}]
        self.state.snapshots = sorted(kept, key=lambda found: -found["goodness"])[: self.settings.snapshots]

    def _stop_by_metric(self, value: float) -> None:
        at, patience = self.settings.stop_at, self.settings.patience
        if at is not None and (value >= at if self.settings.higher_is_better else value <= at):
            self.state.stopped = f"{self.settings.metric} reached {value:.4g} at step {self.state.step}"
        elif patience is not None and self.state.evaluations_since_best >= patience:
            self.state.stopped = f"{self.settings.metric} has not improved in {patience} evaluations"

    def _stop_by_time(self) -> None:
        if self.evaluate is not None and not self._due():
            self._validate()
        self.state.stopped = self.state.stopped or f"{self.settings.minutes:g} minutes are over at step {self.state.step}"

    def _finish(self) -> Outcome:
        weights = self.state.best_weights
        if self.settings.select == "best" and weights is not None:
            self.kept.load_state_dict(weights)
        elif self.ema is not None:
            self.kept.load_state_dict(self.ema.module.state_dict())
        self.kept.eval()
        state = self.state
        return Outcome(state.step, state.seconds, state.stopped, state.best_step, state.best, self.notes, state.snapshots)

    # keeping and finding the state

    def _save(self) -> None:
        self._check()  # never keep a state whose loss was not finite
        if ranks.rank() == 0:
            content = {
                "stage": self.track.stage,
                "loop": copy.copy(vars(self.state)),
                "trained": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "ema": self.ema.module.state_dict() if self.ema is not None else None,
                "names": self.names,
                "metrics_bytes": self.track.size(),
                "processes": ranks.world_size(),
            }
            self.checkpoints.save(self.state.step, content)
        ranks.barrier()

    def _resume(self) -> None:
        content, notes = self.checkpoints.load()
        ranks.barrier()  # all have looked before the first one writes
        for note in notes:
            self._say(note)
        if content is None:
            if ranks.rank() == 0:
                self.track.forget()
            self._save()  # so that a kill from now on has something to fall back to
            return
        try:
            self.module.load_state_dict(content["trained"])
            self.optimizer.load_state_dict(content["optimizer"])
            lay_state(self.optimizer)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the checkpoint is of another model: {error}", where=str(self.checkpoints.folder)) from error
        self.scaler.load_state_dict(content["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(content["ema"])
        self.state, self.names = State(**content["loop"]), content["names"]
        self._say_what_is_not_promised(content.get("processes", 1))
        ended = self.state.step >= self.settings.steps or bool(self.state.stopped)
        if ranks.rank() == 0 and not ended:  # a stage that is over has written its lines, and later ones may stand behind them
            self.track.cut(content["metrics_bytes"])

    def _say_what_is_not_promised(self, processes: int) -> None:
        """A resumed run has the bits of an uninterrupted one unless it stops by the clock or the processes are others."""
        if processes != ranks.world_size():
            changed = f"the run began on {processes} processes and goes on with {ranks.world_size()}"
            self._say(f"{changed}: it won't end with the bits of an uninterrupted one")
        elif self.settings.minutes is not None:
            self._say("the run stops by the clock, so it may not end with the bits of an uninterrupted one")

    def _refuse_split(self, pieces: int, why: str) -> None:
        refuse_split(getattr(self.stepper, "batch_level", list)(), pieces, self.settings.allow_batch_split, why)

    def _say(self, text: str) -> None:
        self.notes.append(text)
        self._tell({}, note=text)

    def _tell(self, values: dict[str, float], note: str = "") -> None:
        self.listen(Progress(self.track.run, self.state.step, self.settings.steps, self.epoch, values, note, self.track.stage))
