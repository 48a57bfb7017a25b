"""Numbers and findings in words, the same on the page, on the card and in the console."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_SHARES = {"accuracy", "precision", "recall", "f1", "balanced_accuracy"}
_TOP = re.compile(r"top(\d+)_accuracy")
_TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "nll": "NLL (nats)",
    "brier": "Brier score",
    "ece": "ECE",
    "auroc": "AUROC",
    "map": "mean average precision",
    "hamming": "Hamming loss",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision (macro)",
    "recall": "recall (macro)",
    "kl": "KL",
    "macs": "MACs",
    "latency_ms": "latency",
}
Tone = Literal["good", "none", "bad"]


def title(name: str) -> str:
    """What a metric is called in prose."""
    top = _TOP.fullmatch(name)
    return f"top-{top[1]} accuracy" if top else _TITLES.get(name, name.replace("_", " "))


def is_share(name: str) -> bool:
    """Whether a metric is a share that is shown in per cent."""
    return name in _SHARES or bool(_TOP.fullmatch(name))


def metric(name: str, value: float | None) -> str:
    """87.12% for shares, four significant digits for others, "undefined" for None."""
    if value is None:
        return "undefined"
    return f"{100 * value:.2f}%" if is_share(name) else f"{value:.4g}"


def interval(name: str, bounds: Sequence[float] | None) -> str:
    """85.60 to 88.51%."""
    if bounds is None:
        return ""
    low, high = bounds
    return f"{100 * low:.2f} to {100 * high:.2f}%" if is_share(name) else f"{low:.4g} to {high:.4g}"


def difference(name: str, value: float, signed: bool = True) -> str:
    """+2.10 points of accuracy (shares), +3.21 (others)."""
    number = 100 * value if is_share(name) else value
    digits = ".2f" if is_share(name) else ".4g"
    return f"{number:{'+' if signed else ''}{digits}}"


def count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def size(value: float | None) -> str:
    """Bytes in decimal units: 49.4 kB."""
    if value is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"


def quantity(value: float | None) -> str:
    """Large numbers with three digits: 272k, 40.6M."""
    if value is None:
        return ""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} ms"


def share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}%"


def latency(model: Mapping[str, Any]) -> float | None:
    """p50 at batch 1 in milliseconds, where it was measured."""
    return ((model.get("latency_ms") or {}).get("batch_1") or {}).get("p50")


def measured_in(facts: Mapping[str, Any]) -> str:
    """How a latency was measured: torch, float32, 1 thread."""
    threads = facts.get("threads")
    counted = f"{threads} thread{'' if threads == 1 else 's'}" if threads else None
    return ", ".join(part for part in (facts.get("runtime", "torch"), facts.get("dtype"), counted) if part)


@dataclass
class Verdict:
    """What the run found.

    Attributes:
        tone: good (the interval of the gain lies above 0), bad (below), none (it holds 0, or nothing was compared).
        sentence: the finding.
        details: what else a reader should know at once, one sentence each.
    """

    tone: Tone
    sentence: str
    details: list[str] = field(default_factory=list)


def verdict(summary: Mapping[str, Any]) -> Verdict:
    """Does the student beat its control, by how much, and how sure is that?"""
    if "fusion" in summary:
        from transfuse.report import fusion  # which has its words from here

        return fusion.verdict(summary)
    if "amalgamation" in summary:
        from transfuse.report import amalgamation

        return amalgamation.verdict(summary)
    name = summary["primary"]["name"]
    tone, sentence = _finding(summary, name)
    details = [
        *_on_the_source(summary, name),
        *_of_tasks(summary, name),
        *_against_teachers(summary, name),
        *_peers(summary, name),
        *_agreement(summary),
        *_features(summary),
        *_by_policy(summary),
    ]
    if summary["models"].get("control") and (summary.get("transfer") or {}).get("gain_interval"):
        samples = summary["models"]["student"].get("samples")
        over = f"the {samples:,} test samples" if samples else "the test samples"
        details.append(f"The interval covers chance in {over}, not in training: other seeds can give other gains.")
    return Verdict(tone, sentence, details)


def _value(summary: Mapping[str, Any], group: str, model: str, name: str) -> float | None:
    return ((summary.get(group) or {}).get(model) or {}).get("metrics", {}).get(name)


def _finding(summary: Mapping[str, Any], name: str) -> tuple[Tone, str]:
    transfer = summary.get("transfer") or {}
    student, control = _value(summary, "models", "student", name), _value(summary, "models", "control", name)
    gain, bounds = transfer.get("gain"), transfer.get("gain_interval")
    if "control" not in summary["models"]:
        reached = f"The student reaches {title(name)} {metric(name, student)}. " if student is not None else ""
        return "none", f"{reached}There is no control to compare it with, so this run can't say what {_helper(summary)} was worth."
    if gain is None:
        why = (transfer.get("reasons") or {}).get("gain", "a value is undefined")
        return "none", f"Student and control can't be compared: {why}."
    both = f"{metric(name, student)} against {metric(name, control)}"
    if bounds is None:
        return "none", f"The difference from the control is {amount(name, gain, True)}, without an interval: {both}."
    low, high = bounds
    if low > 0:
        return "good", f"The student beats its control by {amount(name, gain)} ({_range(name, low, high)}): {both}."
    if high < 0:
        harm = "Negative transfer: the student" if transferred(summary) else "The student"
        return "bad", f"{harm} does worse than its control by {amount(name, -gain)} ({_range(name, -high, -low)}): {both}."
    small = f"the difference of {amount(name, gain, True)} is within chance ({_range(name, low, high)})"
    return "none", f"No evidence that {_helper(summary)} helped: {both} for the control, and {small}."


def adapted(summary: Mapping[str, Any]) -> bool:
    """Whether the student learnt from two domains."""
    return summary.get("job") == "adapt"


def transferred(summary: Mapping[str, Any]) -> bool:
    """Whether the student began with, or learnt from, something that may do harm: another domain or task, weights from elsewhere."""
    return summary.get("job") in ("adapt", "extract", "finetune", "together")


def control_is(summary: Mapping[str, Any]) -> str:
    """What the control is, for the sentence that begins so."""
    if "fusion" in summary:
        from transfuse.report import fusion

        return fusion.control_is(summary)
    if "amalgamation" in summary:
        from transfuse.report import amalgamation

        return amalgamation.control_is(summary)
    if summary.get("job") == "finetune":
        return "the same network, trained from scratch on the labels in as many steps"
    if "extract" in summary:
        untrained = summary["extract"].get("control") == "untrained"
        head = "the same head, fitted in the same way to the features of the same network with random weights"
        return head if untrained else "the same network, trained from scratch on labels only"
    alone = {"adapt": "the source alone", "together": "the target alone"}.get(str(summary.get("job")), "labels only")
    return f"the same student from the same initial weights and batches, trained on {alone}"


def _on_the_source(summary: Mapping[str, Any], name: str) -> list[str]:
    """What was reached where the labels come from."""
    reached = {model: (block.get("metrics") or {}).get(name) for model, block in (summary.get("source_test") or {}).items()}
    if reached.get("student") is None:
        return []
    beside = f", its control {metric(name, reached['control'])}" if reached.get("control") is not None else ""
    return [f"On the source's own test part the student reaches {metric(name, reached['student'])}{beside}."]


def _of_tasks(summary: Mapping[str, Any], name: str) -> list[str]:
    """What was reached on each of several tasks."""
    if "tasks" not in summary:
        return []
    from transfuse.report import together  # which has its words from here

    return together.tasks(summary, name)


def amount(name: str, gain: float, signed: bool = False) -> str:
    """2.10 points of accuracy."""
    return f"{difference(name, gain, signed)} {'points of ' if is_share(name) else 'in '}{title(name)}"


def _range(name: str, low: float, high: float) -> str:
    signed = low < 0 < high
    return f"95% interval {difference(name, low, signed)} to {difference(name, high, signed)}"


def _helper(summary: Mapping[str, Any]) -> str:
    """What the student had and its control had not."""
    if adapted(summary):
        return "the target's samples"
    if summary.get("job") == "together":
        return "learning from the source, too,"
    if summary.get("job") in ("extract", "finetune"):
        return "what the network had learnt before"
    if not peers_of(summary):
        return "the teacher"
    return "learning from teacher and peers" if summary.get("teachers") else "learning from peers"


def peers_of(summary: Mapping[str, Any]) -> list[str]:
    """Names of the networks that learnt beside the student, as `models` has them: "peer NAME"."""
    return [model for model in summary["models"] if model.startswith("peer ")]


def _peers(summary: Mapping[str, Any], name: str) -> list[str]:
    reached = [f"{peer} reaches {metric(name, _value(summary, 'models', peer, name))}" for peer in peers_of(summary)]
    return [f"Of the networks that learnt beside it, {', '.join(reached)}."] if reached else []


def _features(summary: Mapping[str, Any]) -> list[str]:
    """What features cost in a run that extracts some."""
    about = summary.get("extract") or {}
    if "seconds" not in about:
        return []
    if about.get("computed"):
        return [f"Features of {about['computed']:,} samples and views took {about['seconds']['features']:.3g} s, and are remembered."]
    return [f"All features were remembered from an earlier run, and read in {about['seconds']['features']:.2g} s."]


def _against_teachers(summary: Mapping[str, Any], name: str) -> list[str]:
    student = summary["models"]["student"]
    lines = []
    for teacher, block in (summary.get("teachers") or {}).items():
        called = "the teacher" if len(summary["teachers"]) == 1 else f"teacher {teacher}"
        parts = []
        if block.get("parameters") and student.get("parameters"):
            times = block["parameters"] / student["parameters"]
            smaller = (
                f"{times:.3g} times smaller than"
                if times > 1.05
                else "as large as"
                if times > 0.95
                else f"{1 / times:.3g} times larger than"
            )
            parts.append(f"is {smaller} {called}")
        value, own = _value(summary, "teachers", teacher, name), student["metrics"].get(name)
        if value is not None and own is not None:
            parts.append(f"reaches {metric(name, own)} where {called if not parts else 'that one'} reaches {metric(name, value)}")
        if parts:
            lines.append(f"The student {' and '.join(parts)}.")
    return lines


def _agreement(summary: Mapping[str, Any]) -> list[str]:
    transfer = summary.get("transfer") or {}
    apart = transfer.get("rmse_to_teacher")
    if apart is not None:
        control = transfer.get("control_rmse_to_teacher")
        beside = f", the control's {control:.4g}" if control is not None else ""
        return [f"Its predictions are {apart:.4g} (RMSE) away from the teacher's{beside}."]
    if transfer.get("agreement") is None:
        return []
    what = "decisions" if summary.get("task") == "multilabel" else "test samples"
    teachers = "teachers together" if len(summary.get("teachers") or {}) > 1 else "teacher"
    control = transfer.get("control_agreement")
    beside = f"; the control does on {share(control)}" if control is not None else ""
    return [f"It answers as its {teachers} on {share(transfer['agreement'])} of the {what}{beside}."]


def policy(block: Mapping[str, Any]) -> str:
    """A policy with its settings: gradual (until 0.5, decay 1.0)."""
    name, settings = next(iter(block.items()))
    told = ", ".join(f"{key} {value}" for key, value in (settings or {}).items() if value is not None)
    return f"{name} ({told})" if told else str(name)


def _by_policy(summary: Mapping[str, Any]) -> list[str]:
    """How a fine-tuned student was trained."""
    about = summary.get("finetune") or {}
    if not about.get("policy"):
        return []
    average = about.get("average")
    shipped = [f"What is shipped is an average: {average['said']}."] if average else []
    return [f"It was trained by the policy {policy(about['policy'])}.", *shipped]
