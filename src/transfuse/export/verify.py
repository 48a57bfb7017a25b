"""Runs what was written: the same answers as the network, from real samples through the file's own preprocessing, and how fast."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from transfuse.core.card import TaskName
from transfuse.core.preprocess import Preprocess
from transfuse.core.shipping import Written
from transfuse.core.types import Model, Samples
from transfuse.errors import ExportError
from transfuse.evaluate import metrics, statistics
from transfuse.evaluate.agreement import agreement
from transfuse.evaluate.outcomes import Outcomes, columns, outcomes
from transfuse.evaluate.predict import original_units, predict

TOLERANCE = 1e-4  # largest difference of a float32 file, as a share of the network's largest output
BLOCKS, BLOCK_SECONDS, FEWEST_CALLS = 9, 0.04, 3
_BATCH = 64
SLOWER = 1.03  # a ratio of times above this is called slower, where three blocks in four agree


@dataclass
class Judge:
    """What a file is judged on.

    Attributes:
        samples: real ones, with labels where there are some.
        split: what they are: "test", or how they were chosen.
        task: what outputs mean.
        marks: (least agreement, largest loss), or None where the file must be the same as the network.
        progress: called with (done, total).
    """

    samples: Samples
    split: str
    task: TaskName
    marks: tuple[float, float] | None
    progress: Callable[[int, int], None] | None = None


class AsStored(Preprocess):
    """No preprocessing at all: pixels as a file or an array has them, for graphs that do everything themselves."""

    def exact_batch(self, raw: Tensor) -> Tensor:
        return self._channels(raw).float() if raw.ndim == 4 else raw.float()

    def exact_image(self, image: Image.Image) -> Tensor:
        pixels = np.array(image.convert("L" if self.channels == 1 else "RGB"), dtype=np.float32)
        return torch.from_numpy(pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[None].copy())


def as_asked(model: Model) -> Preprocess:
    """A written file's own preprocessing; that of a graph that does it all, and names nothing but channels, is none."""
    told = model.preprocess or Preprocess()
    inside = told.channels is not None and told == Preprocess(channels=told.channels)
    return AsStored(channels=told.channels) if inside else told


def answers(model: Model, judge: Judge) -> Tensor:
    """What a written file says about every sample, along its own preprocessing: float32 [n, outputs].

    The first sample is asked alone and the others together, so that a file that only takes one size of batch is found out. Where the
    file takes pictures of any size, they are asked one by one, as they are stored.
    """
    chosen = as_asked(model)
    alone = isinstance(chosen, AsStored)
    parts, done, total = [], 0, len(judge.samples)
    with torch.inference_mode():
        while done < total:
            count = 1 if alone or done == 0 else min(_BATCH, total - done)
            parts.append(model.network(judge.samples.exact(range(done, done + count), chosen)).float())
            done += count
            if judge.progress is not None:
                judge.progress(done, total)
    return torch.cat(parts)


def verify(model: Model, written: Written, opened: Model, judge: Judge, blocks: int = BLOCKS) -> dict[str, Any]:
    """Compares a written file with the network that it came from, and times both; the content of verify.json.

    Args:
        model: the network, with its preprocessing.
        written: what was written.
        opened: the same, opened again from its files.
        judge: samples and pass marks.
        blocks: of the timing; see `alternating`.

    Raises:
        ExportError: there is no sample to run it on.
    """
    if not len(judge.samples):
        raise ExportError("there is no sample to run the file on", where=written.file.name)
    assert model.preprocess is not None
    model.network.to("cpu")  # where the file runs, and where it is timed beside it
    ours = predict(model.network, judge.samples, model.preprocess)
    theirs = answers(opened, judge)
    found: dict[str, Any] = {
        "file": written.file.name,
        "bytes": written.file.stat().st_size,
        "sha256": hashlib.sha256(written.file.read_bytes()).hexdigest(),
        **written.facts,
        "samples": len(judge.samples),
        "split": judge.split,
        **compared(ours, theirs, judge, model),
    }
    found["failures"] = failures(found, judge)
    found["passed"] = not found["failures"]
    found["latency_ms"] = timed(model, opened, written.beside, judge.samples, blocks)
    found["remarks"] = [*written.notes, *remarks(found, judge.task)]
    return found


def compared(ours: Tensor, theirs: Tensor, judge: Judge, model: Model) -> dict[str, Any]:
    """Largest difference, decisions that differ, agreement and the difference in the task's first metric, with 95 % intervals."""
    if theirs.shape != ours.shape:
        return {"defect": f"the file gives outputs of shape {tuple(theirs.shape)} instead of {tuple(ours.shape)}"}
    for whose, outputs in (("file", theirs), ("network", ours)):
        if not bool(torch.isfinite(outputs).all()):
            return {"defect": f"the {whose} gives NaN or infinity"}
    largest = float((theirs - ours).abs().max())
    scale = float(ours.abs().max())
    found: dict[str, Any] = {"largest_difference": {"absolute": largest, "relative": largest / scale if scale else largest}}
    if judge.task != "regression":
        same = _decisions(ours, judge.task) == _decisions(theirs, judge.task)
        per_sample = same.reshape(len(same), -1).mean(1)
        found["different_decisions"] = int((per_sample < 1).sum())
        found |= {
            "agreement": float(per_sample.mean()),
            "agreement_interval": _interval(per_sample),
            "kl": agreement(theirs, ours, judge.task)["kl"],
        }
    else:
        explained = _explained(ours, theirs, model.target is not None)
        found |= {"agreement": float(explained.mean()), "agreement_interval": _interval(explained)}
    return found | _metric_difference(ours, theirs, judge, model)


def _explained(ours: Tensor, theirs: Tensor, standardised: bool) -> np.ndarray:
    """Per sample, what averages to 1 - mean (theirs - ours)^2 / variance of ours, over targets: the agreement of two regressions.

    One sample, or a network that predicts the same for all, has no variance to explain. Differences are then held against the labels'
    variance, which is 1 in the units of standardised targets, or else against the mean square of the predictions.
    """
    apart, variance = ((theirs - ours).double() ** 2).numpy(), ours.double().var(0, correction=0).numpy()
    square = np.ones_like(variance) if standardised else (ours.double() ** 2).mean(0).numpy()
    square[square == 0] = 1
    yardstick = np.where(variance > TOLERANCE**2 * square, variance, square)
    return 1 - (apart / yardstick).mean(1)


def _decisions(outputs: Tensor, task: TaskName) -> np.ndarray:
    logits = columns(task, outputs.numpy())
    return logits > 0 if task == "multilabel" else logits.argmax(1)


def _interval(per_sample: np.ndarray) -> list[float]:
    """Wilson's for shares of whole samples, which is sensible at 1; the bootstrap's for means of shares."""
    n = len(per_sample)
    if bool(np.isin(per_sample, (0.0, 1.0)).all()):
        return list(statistics.wilson(float(per_sample.sum()), n))
    return list(statistics.bootstrap(n, {"mean": lambda weights: weights @ per_sample / weights.sum(1)})["mean"] or (0.0, 1.0))


def _metric_difference(ours: Tensor, theirs: Tensor, judge: Judge, model: Model) -> dict[str, Any]:
    """{metric: {"network", "file", "loss", "interval"}}; the loss is positive where the file is worse, of rmse as a share of it."""
    both = [original_units(outputs, model.target) if model.target is not None else outputs for outputs in (ours, theirs)]
    results: list[Outcomes] = [outcomes(judge.task, outputs, judge.samples.labels.numpy(), model.target) for outputs in both]
    name, higher = metrics.primary(judge.task)
    metric, count = metrics.table(judge.task)[name], len(results[0])
    (before, why), (after, _) = (metrics.point(metric, result) for result in results)
    if before is None or after is None:
        return {"metric": {"name": name, "network": None, "file": None, "loss": None, "interval": None, "reason": why or "undefined"}}
    sign = -1 if higher else 1
    share = before if judge.task == "regression" and before else 1.0
    low_high = statistics.paired_difference(
        count, lambda weights: metric.values(results[0], weights), lambda weights: metric.values(results[1], weights)
    )
    bounds = None if low_high is None else sorted(sign * bound / share + 0.0 for bound in low_high)  # no -0.0
    loss = sign * (after - before) / share + 0.0
    return {"metric": {"name": name, "network": before, "file": after, "loss": loss, "interval": bounds, "labelled": count}}


def failures(found: Mapping[str, Any], judge: Judge) -> list[str]:
    """Why the file doesn't pass, in words; empty where it does."""
    if "defect" in found:
        return [found["defect"]]
    failed, loss = [], found["metric"]["loss"]
    if judge.marks is None:
        relative = found["largest_difference"]["relative"]
        if relative > TOLERANCE:
            failed.append(f"its largest difference is {relative:.2g} of the largest output; {TOLERANCE:g} is allowed")
        if found.get("different_decisions"):
            failed.append(f"it decides differently on {found['different_decisions']} of {found['samples']} samples")
        return failed
    least_agreement, most_loss = judge.marks
    if found.get("agreement", 1.0) < least_agreement:
        share = f"{100 * found['agreement']:.2f}%"
        text = f"it decides as the network does on {share} of the samples"
        if judge.task == "regression":
            text = f"it explains {share} of the variance of the network's predictions"
        failed.append(f"{text}; the mark is {100 * least_agreement:g}%")
    if loss is not None and loss > most_loss:
        failed.append(f"it loses {_points(loss, found['metric']['name'])}; the mark is {_points(most_loss, found['metric']['name'])}")
    return failed


def remarks(found: Mapping[str, Any], task: TaskName) -> list[str]:
    """What the user should hear of a file that works: that it is slower, or that it decides worse than the network."""
    said = []
    for name, entry in found["latency_ms"]["against"].items():
        if entry["ratio"] > SLOWER and entry["quartiles"][0] > 1:
            said.append(f"it is slower than {name}: {entry['ratio']:.2f} times its time for one sample")
    metric = found.get("metric", {})
    if metric.get("loss") and metric["loss"] > 0:
        said.append(f"it loses {_points(metric['loss'], metric['name'])}{_how_sure(metric['interval'], task)}")
    return said


def _how_sure(interval: Sequence[float] | None, task: TaskName) -> str:
    """(95% interval 1.00 to 3.00 points); nothing where there is no interval."""
    if interval is None:
        return ""
    low, high = interval
    digits, unit = (1, " of it") if task == "regression" else (100, " points")
    sure = "" if low > 0 else ", which chance alone could do"
    return f" (95% interval {digits * low:.2f} to {digits * high:.2f}{unit}){sure}"


def _points(loss: float, metric: str) -> str:
    return f"{100 * loss:.2f} points of {metric}" if metric != "rmse" else f"{100 * loss:.2f}% of rmse"


def timed(model: Model, opened: Model, beside: Mapping[str, nn.Module], samples: Samples, blocks: int = BLOCKS) -> dict[str, Any]:
    """Time for one sample at one thread, and its ratio to others'; preprocessing is inside only where the file does it itself."""
    assert model.preprocess is not None
    mine = samples.exact([0], as_asked(opened))
    prepared = samples.exact([0], model.preprocess)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            others = {"the network in torch": model.network.eval(), **beside}
            ask = _asked(opened.network, mine)
            against = {name: alternating(ask, _asked(network, prepared), blocks) for name, network in others.items()}
    finally:
        torch.set_num_threads(threads)
    first = against["the network in torch"]
    return {"threads": 1, "batch": 1, "p50": first.pop("p50"), "against": {name: _without_p50(entry) for name, entry in against.items()}}


def _asked(network: nn.Module, inputs: Tensor) -> Callable[[], object]:
    return lambda: network(inputs)


def _without_p50(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "p50"}


def alternating(first: Callable[[], object], second: Callable[[], object], blocks: int = BLOCKS) -> dict[str, Any]:
    """How long one thing takes beside another, in blocks that take turns, so that what else the machine does hits both.

    Returns:
        {"p50": milliseconds of a call of the first, "other_p50": of the second, "ratio": median over pairs of blocks of first / second,
        "quartiles": of that ratio, "blocks"}.
    """
    times: tuple[list[float], list[float]] = ([], [])
    calls = [_calls(function) for function in (first, second)]
    for block in range(blocks):
        order = (0, 1) if block % 2 == 0 else (1, 0)
        for which in order:
            function, began = (first, second)[which], time.perf_counter()
            for _ in range(calls[which]):
                function()
            times[which].append(1e3 * (time.perf_counter() - began) / calls[which])
    ratios = np.array(times[0]) / np.array(times[1])
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    p50, other = (float(np.median(block)) for block in times)
    return {"p50": p50, "other_p50": other, "ratio": float(middle), "quartiles": [float(low), float(high)], "blocks": blocks}


def _calls(function: Callable[[], object]) -> int:
    """Calls that fill a block, after a warm-up."""
    function()
    began = time.perf_counter()
    function()
    return max(FEWEST_CALLS, int(BLOCK_SECONDS / max(1e-6, time.perf_counter() - began)))


def mark_failed(folder: Path, file: Path) -> Path:
    """Renames a file that didn't pass, so that nobody ships it by its name: student.onnx -> student.failed.onnx."""
    failed = folder / f"{file.stem}.failed{file.suffix}"
    file.replace(failed)
    return failed
