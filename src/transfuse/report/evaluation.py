"""An evaluation in rows and words, for its page and the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfuse.report import words
from transfuse.report.words import Verdict

Summary = Mapping[str, Any]
_MOST_CLASSES = 20


def is_evaluation(summary: Summary) -> bool:
    """Whether a summary.json is that of `transfuse eval`."""
    return summary.get("job") == "eval"


def rows(summary: Summary) -> list[dict[str, str]]:
    """One row per model, teachers last; columns without any value are left out."""
    name = summary["primary"]["name"]
    robust = (summary.get("robustness") or {}).get("models") or {}
    fidelity = summary.get("fidelity") or {}
    found = []
    for model, block in {**summary["models"], **summary["teachers"]}.items():
        metrics = block.get("metrics") or {}
        ece = metrics.get("ece")
        agreement = next(iter((fidelity.get(model) or {}).values()), {}).get("agreement")
        found.append(
            {
                "model": f"teacher {model}" if model in summary["teachers"] and model != "teacher" else model,
                words.title(name): words.metric(name, metrics.get(name)),
                "95% interval": words.interval(name, (block.get("intervals") or {}).get(name)),
                "ECE": "" if ece is None else words.metric("ece", ece),
                "corruption error": words.share((robust.get(model) or {}).get("mean_corruption_error")),
                "parameters": words.count(block.get("parameters")),
                "MACs": words.quantity(block.get("macs")),
                "size": words.size(block.get("bytes")),
                "latency": words.milliseconds(words.latency(block)),
                "agreement with teacher": words.share(agreement),
            }
        )
    empty = [column for column in found[0] if not any(row[column] for row in found)]
    return [{column: value for column, value in row.items() if column not in empty} for row in found]


def verdict(summary: Summary) -> Verdict:
    """What was measured, in a sentence."""
    name, data = summary["primary"]["name"], summary.get("data") or {}
    part = {"all": "all", "test": "the test", "val": "the validation", "train": "the training"}.get(str(data.get("part")), "the")
    where = f"on {part} {data.get('samples', 0):,} samples of {data.get('source', 'the data')}"
    values = {model: (block["metrics"] or {}).get(name) for model, block in summary["models"].items()}
    listed = ", ".join(f"{model} {words.metric(name, value)}" for model, value in values.items())
    details = [_test(name, test) for test in summary.get("tests") or [] if test["difference"] is not None]
    title = words.title(name)
    return Verdict("none", f"{title[0].upper()}{title[1:]} {where}: {listed}.", details[:10])


def _test(name: str, test: Mapping[str, Any]) -> str:
    first, second = test["models"]
    bounds = test["interval"]
    said = f"{second} minus {first}: {words.difference(name, test['difference'])}"
    if bounds:
        said += f" (95% interval {words.difference(name, bounds[0])} to {words.difference(name, bounds[1])})"
    return said + (f", McNemar p = {test['mcnemar']:.2g}." if "mcnemar" in test else ".")


def fidelity_sections(summary: Summary) -> list[dict[str, Any]]:
    """For each model and teacher what the page shows: figures, likeness of layers, classes by what was lost."""
    found = []
    for model, teachers in (summary.get("fidelity") or {}).items():
        for teacher, figures in teachers.items():
            whole = {
                "model": model,
                "agreement": words.share(figures.get("agreement")),
                "KL (nats)": "" if figures.get("kl") is None else f"{figures['kl']:.4g}",
                "RMSE to teacher": "" if figures.get("rmse_to_teacher") is None else f"{figures['rmse_to_teacher']:.4g}",
                "both right": _count(figures.get("both_right")),
                f"only {model} right": _count(figures.get("only_student_right")),
                f"only {teacher} right": _count(figures.get("only_teacher_right")),
                "both wrong": _count(figures.get("both_wrong")),
            }
            classes = sorted(figures.get("per_class") or [], key=lambda row: row["gap"])
            found.append(
                {
                    "title": f"{model} beside its teacher" if teacher == "teacher" else f"{model} beside {teacher}",
                    "rows": [{column: value for column, value in whole.items() if value}],
                    "cka": [
                        {model: row["student"], teacher: row["teacher"], "CKA": "undefined" if row["cka"] is None else f"{row['cka']:.3f}"}
                        for row in figures.get("cka") or []
                    ],
                    "classes": [
                        {
                            "class": row["class"],
                            "samples": f"{row['samples']:,}",
                            model: words.share(row["student"]),
                            teacher: words.share(row["teacher"]),
                            "gap": words.difference("recall", row["gap"]),
                            "agreement": words.share(row["agreement"]),
                        }
                        for row in classes[:10]
                    ],
                    "count": len(classes),
                }
            )
    return found


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def class_rows(summary: Summary) -> dict[str, Any] | None:
    """Classes with the lowest recall (F1 for several labels) of the first model: all three figures of one model, one of several models."""
    blocks = {model: block["per_class"] for model, block in summary["models"].items() if block.get("per_class")}
    if not blocks:
        return None
    measure = "recall" if summary["task"] == "classification" else "f1"
    first = next(iter(blocks.values()))
    order = sorted((place for place, row in enumerate(first) if row["samples"]), key=lambda place: first[place][measure] or 0.0)
    shown = order[:_MOST_CLASSES] if len(order) > _MOST_CLASSES else sorted(order)
    rows = []
    for place in shown:
        row = {"class": first[place]["class"], "samples": f"{first[place]['samples']:,}"}
        if len(blocks) == 1:
            row |= {title: _share(first[place][key]) for key, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))}
            row["AUROC"] = _three_digits(first[place].get("auroc"))
        else:
            row |= {f"{model} {measure}": _share(block[place][measure]) for model, block in blocks.items()}
            row |= {f"{model} AUROC": _three_digits(block[place].get("auroc")) for model, block in blocks.items()}
        rows.append(row)
    empty = [column for column in rows[0] if not any(row[column] for row in rows)] if rows else []
    return {
        "rows": [{column: value for column, value in row.items() if column not in empty} for row in rows],
        "count": len(order),
        "measure": measure,
    }


def _three_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
