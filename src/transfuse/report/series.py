"""A job of several runs in words and rows: what it found, and a line for each run; for the page, the card and the console."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transfuse.report import budget, words
from transfuse.report.words import Verdict

Summary = Mapping[str, Any]

_KEYS = {"objectives.": "", "train.optimizer.": "", "teachers.": "", "train.": ""}  # beginnings that say nothing in a table


def is_series(summary: Summary) -> bool:
    """Whether a summary.json is that of a job of several runs."""
    return "runs" in summary


def shipped(summary: Summary) -> str | None:
    """The folder of the run whose student a series hands on, below its own; None where none is the one."""
    names = {"sweep": (summary.get("chosen") or {}).get("run"), "chain": "student"}
    last = summary["runs"][-1]["name"] if summary["series"] in ("generations", "folds") else None
    name = names.get(summary["series"], last)
    return next((entry["path"] for entry in summary["runs"] if entry["name"] == name), None)


def one_line(summary: Summary) -> str:
    """What a run of a series came to: accuracy 91.20%, control 88.90%, gain +2.30."""
    name = summary["primary"]["name"]
    parts = [words.title(name)]
    for model in ("student", "control"):
        value = value_of(summary, model, name)
        if value is not None:
            parts.append(f"{words.metric(name, value)} ({model})")
    gain = (summary.get("transfer") or {}).get("gain")
    if gain is not None:
        parts.append(f"gain {words.difference(name, gain)}")
    return ", ".join([" ".join(parts[:2]), *parts[2:]])


def value_of(block: Mapping[str, Any], model: str, name: str) -> float | None:
    """A metric of one of a summary's models."""
    return (((block.get("models") or {}).get(model) or {}).get("metrics") or {}).get(name)


def short_key(key: str) -> str:
    """A recipe key for a table's head: objectives.kd.temperature -> kd.temperature."""
    for beginning, instead in _KEYS.items():
        if key.startswith(beginning):
            return instead + key.removeprefix(beginning)
    return key


def shown(value: Any) -> str:
    """A recipe's value in a table's cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# what was found


def verdict(summary: Summary) -> Verdict:
    """The finding of a series in a sentence, and what else a reader should know at once."""
    return {"seeds": _seeds, "folds": _folds, "generations": _generations, "chain": _chain, "sweep": _sweep}[summary["series"]](summary)


def _mean(name: str, spread: Mapping[str, Any]) -> str:
    """91.20% ± 0.41, the second the standard deviation over runs."""
    deviation = spread.get("std")
    beside = f" ± {words.difference(name, deviation, signed=False)}" if deviation is not None else ""
    return f"{words.metric(name, spread['mean'])}{beside}"


def _seeds(summary: Summary) -> Verdict:
    name = summary["primary"]["name"]
    found = summary["aggregate"]
    models, gain = found["models"], found["transfer"].get("gain")
    count = len(summary["runs"])
    over = f"Over {count} seeds" if count > 1 else "With one seed"
    student = (models.get("student") or {}).get("metrics", {}).get(name)
    reached = f"the student reaches {words.title(name)} {_mean(name, student)}" if student else "the student has no figure"
    if gain is None:
        return Verdict("none", f"{over} {reached}.", ["There is no control, so this can't say what the teacher was worth."])
    control = (models.get("control") or {}).get("metrics", {}).get(name)
    both = f"{_mean(name, student)} against {_mean(name, control)}" if student and control else reached
    details = (
        [] if gain["interval"] is None else ["Figures are means and standard deviations over seeds; the gain is taken within each seed."]
    )
    return Verdict(*_gained(name, gain["mean"], gain["interval"], f"{over} the student", "its control", both), details)


def _folds(summary: Summary) -> Verdict:
    """The out-of-fold figures first: they are of all training samples, and the test part had no share in them."""
    name, found = summary["primary"]["name"], summary["out_of_fold"]
    count, spread = summary["aggregate"]["n"], summary["aggregate"]["models"]["student"]["metrics"].get(name)
    value, control = (value_of(found, model, name) for model in ("student", "control"))
    gain, bounds = found["transfer"].get("gain"), found["transfer"].get("gain_interval")
    who = f"On {count} folds, each sample judged while it was held out, the student"
    details = [] if spread is None else [f"Mean and standard deviation over folds: {_mean(name, spread)}."]
    details.append("The interval covers chance in the samples, not in training.")
    if value_of(summary, "student", name) is not None:
        test = words.metric(name, value_of(summary, "student", name))
        details.append(f"Refitted on the whole training part, it reaches {test} on the test part, which chose nothing.")
    if gain is None or value is None or control is None:
        reached = words.metric(name, value)
        return Verdict("none", f"{who} reaches {words.title(name)} {reached}.", details[:1] + details[2:])
    both = f"{words.metric(name, value)} against {words.metric(name, control)}"
    return Verdict(*_gained(name, gain, bounds, who, "its control", both), details)


def _gained(name: str, gain: float, interval: Sequence[float] | None, who: str, whom: str, both: str) -> tuple[words.Tone, str]:
    """(tone, sentence) of a difference with its interval."""
    amount = words.amount(name, abs(gain))
    if interval is None:
        return "none", f"{who} is {'better' if gain > 0 else 'no better'} than {whom} by {amount}, without an interval: {both}."
    low, high = interval
    bounds = f"95% interval {words.difference(name, low)} to {words.difference(name, high)}"
    if low > 0:
        return "good", f"{who} beats {whom} by {amount} ({bounds}): {both}."
    if high < 0:
        return "bad", f"{who} does worse than {whom} by {amount} ({bounds}): {both}."
    return "none", f"{who} is within chance of {whom}: {both}, a difference of {words.difference(name, gain)} ({bounds})."


def _generations(summary: Summary) -> Verdict:
    name, transfer = summary["primary"]["name"], summary["transfer"]
    found = words.verdict(summary)
    last = summary["runs"][-1]["name"].replace("_", " ")
    details = [f"The student is {last}, the last one.", *found.details]
    first = summary["runs"][0]
    if not first["differs"].get("teacher"):
        value = value_of(first, "student", name)
        details.insert(1, f"Generation 0, which learnt from the labels alone with another seed, reaches {words.metric(name, value)}.")
    together = value_of(summary, "ensemble", name)
    if together is not None:
        text = f"The mean prediction of the taught generations reaches {words.metric(name, together)}"
        theirs = value_of(summary, "control_ensemble", name)
        if theirs is not None and transfer.get("ensemble_gain") is not None:
            bounds = words.interval(name, transfer.get("ensemble_gain_interval"))
            text += (
                f", that of as many controls {words.metric(name, theirs)}: {words.difference(name, transfer['ensemble_gain'])} ({bounds})"
            )
        details.append(f"{text}.")
    return Verdict(found.tone, found.sentence, details)


def _chain(summary: Summary) -> Verdict:
    name, transfer = summary["primary"]["name"], summary["transfer"]
    against = words.verdict(summary)
    plain = value_of(summary, "without_assistants", name)
    if plain is None or transfer.get("over_plain") is None:
        return against
    count = len(summary["runs"]) - 2
    who = f"With {count} assistant{'s' if count > 1 else ''} the student"
    both = f"{words.metric(name, value_of(summary, 'student', name))} against {words.metric(name, plain)}"
    tone, sentence = _gained(
        name, transfer["over_plain"], transfer.get("over_plain_interval"), who, "the one taught by the teacher alone", both
    )
    return Verdict(tone, sentence, [against.sentence, _over_samples(summary)])


def _over_samples(summary: Summary) -> str:
    return f"Intervals cover chance in the {summary['models']['student']['samples']:,} test samples, not in training: seeds=5 shows that."


def _sweep(summary: Summary) -> Verdict:
    name, chosen = summary["primary"]["name"], summary["chosen"]
    metric = summary["selection"]["metric"]
    against = words.verdict(summary)
    settings = ", ".join(f"{short_key(key)} {shown(value)}" for key, value in chosen["differs"].items()) or "the recipe as it is"
    over = f", the mean over {len(chosen['runs'])} seeds" if len(chosen["runs"]) > 1 else ""
    best = f"Best on validation: {settings} ({words.title(metric)} {words.metric(metric, chosen['validation'])}{over})."
    details = [against.sentence, _states(summary)]
    if len(summary["runs"]) > 1:
        many = f"It was chosen among {len(summary['runs'])} trials on the validation split, so its figure there flatters"
        details.append(f"{many}; {_on_test(summary, name)}.")
    details.append(_forwards(summary))
    return Verdict(against.tone, best, [line for line in details if line])


def _on_test(summary: Summary, name: str) -> str:
    """What the chosen configuration reaches on the test split."""
    test = words.metric(name, value_of(summary, "student", name))
    if len(summary["chosen"]["runs"]) < 2:
        return f"on the test split it reaches {test}"
    mean = _mean(name, summary["aggregate"]["models"]["student"]["metrics"][name])
    return f"on the test split its seeds reach {mean}, and the one that is best on validation, which is the student, {test}"


def _states(summary: Summary) -> str:
    states = [run["state"] for run in summary["runs"]]
    parts = [f"{states.count('finished')} of {len(states)} trials ran to the end"]
    if "pruned" in states:
        parts.append(f"{states.count('pruned')} stopped early, with a validation below the median of the others")
    if "failed" in states:
        parts.append(f"{states.count('failed')} failed")
    return "; ".join(parts) + "."


def _forwards(summary: Summary) -> str:
    asked = [run.get("teacher_forwards") or 0 for run in summary["runs"]]
    if not sum(asked):
        return "The teacher was not asked anything: all answers came from the cache."
    free = asked.count(0)
    return f"The teacher was asked about {sum(asked):,} samples in all; {free} of {len(asked)} trials asked nothing."


# tables


def rows(summary: Summary) -> list[dict[str, str]]:
    """One row per run; keys are the column headers in order, values are ready to show. Columns without any value are left out."""
    name = summary["primary"]["name"]
    search = summary["series"] == "sweep"
    front = {run for point in summary.get("front", []) for run in point["runs"]}
    keys = list(dict.fromkeys(key for run in summary["runs"] for key in run["differs"]))
    found = []
    for run in summary["runs"]:
        student = (run.get("models") or {}).get("student") or {}
        transfer = run.get("transfer") or {}
        row = {"run": run["name"], **{short_key(key): shown(run["differs"][key]) if key in run["differs"] else "" for key in keys}}
        if search:
            metric = summary["selection"]["metric"]
            value = (run.get("validation") or {}).get(metric)
            row[f"validation {words.title(metric)}"] = words.metric(metric, value) if value is not None else ""
            row |= {"state": _state(run), "front": "yes" if run["name"] in front else ""}
        test, control = value_of(run, "student", name), value_of(run, "control", name)
        row[words.title(name) if summary["series"] == "folds" else f"test {words.title(name)}"] = (
            words.metric(name, test) if test is not None else ""
        )
        if not search:
            row["95% interval"] = words.interval(name, (student.get("intervals") or {}).get(name))
        row |= {
            "control": "" if control is None else words.metric(name, control),
            "gain": "" if transfer.get("gain") is None else words.difference(name, transfer["gain"]),
            "parameters": words.count((run.get("cost") or student).get("parameters")),
            "latency": words.milliseconds(words.latency(run.get("cost") or student)),
            "budget": budget.cell(run, {}),
            "teacher forwards": "" if run.get("teacher_forwards") is None else f"{run['teacher_forwards']:,}",
        }
        found.append(row)
    if all(run["state"] == "finished" for run in summary["runs"]):
        found = [{column: value for column, value in row.items() if column != "state"} for row in found]
    return _without_empty(found)


def _state(run: Mapping[str, Any]) -> str:
    if run["state"] == "pruned":
        return f"stopped at epoch {run['stopped_at']:.1f}" if run.get("stopped_at") is not None else "stopped early"
    return run["state"]


def _without_empty(found: list[dict[str, str]]) -> list[dict[str, str]]:
    empty = [column for column in found[0] if not any(row[column] for row in found)]
    return [{column: value for column, value in row.items() if column not in empty} for row in found]


def model_rows(summary: Summary) -> list[dict[str, str]]:
    """One row per model of the job as a whole (student, control, ensemble ...); empty where runs are only summed up."""
    name = summary["primary"]["name"]
    found = []
    for model, block in (summary.get("models") or {}).items():
        found.append(
            {
                "model": model.replace("_", " "),
                words.title(name): words.metric(name, block["metrics"].get(name)),
                "95% interval": words.interval(name, (block.get("intervals") or {}).get(name)),
                "parameters": words.count(block.get("parameters")),
                "MACs": words.quantity(block.get("macs")),
                "size": words.size(block.get("bytes")),
                "latency": words.milliseconds(words.latency(block)),
            }
        )
    return _without_empty(found) if found else []


def spread_rows(summary: Summary) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """One row per figure over runs (mean, standard deviation, interval, least, largest): those that matter most, and the others.

    Both are empty where nothing was summed up.
    """
    aggregate, primary = summary.get("aggregate"), summary["primary"]["name"]
    first: list[dict[str, str]] = []
    others: list[dict[str, str]] = []
    if not aggregate or aggregate["n"] < 2:
        return first, others
    for group in ("models", "teachers"):
        for model, block in aggregate[group].items():
            called = (model if group == "models" or model == "teacher" else f"teacher {model}").replace("_", " ")
            for name, spread in block["metrics"].items():
                row = _spread_row(f"{called}: {words.title(name)}", name, spread, words.metric)
                (first if name == primary else others).append(row)
    for figure, spread in aggregate["transfer"].items():
        if figure.endswith("mcnemar"):  # of summaries made before means of p-values were left out
            continue
        title = words.title(figure).replace("_", " ")
        if "gain" in figure or figure.startswith("over_"):
            first.append(_spread_row(title, primary, spread, words.difference))
        else:
            others.append(_spread_row(title, "accuracy" if figure.endswith("agreement") else figure, spread, words.metric))
    return first, others


def _spread_row(title: str, name: str, spread: Mapping[str, Any], show: Callable[[str, float], str]) -> dict[str, str]:
    return {
        "figure": title,
        "runs": str(spread["n"]),
        "mean": show(name, spread["mean"]),
        "standard deviation": "" if spread["std"] is None else words.difference(name, spread["std"], signed=False),
        "95% interval of the mean": " to ".join(show(name, bound) for bound in spread["interval"] or ()),
        "least": show(name, spread["min"]),
        "largest": show(name, spread["max"]),
    }


def notes(summary: Summary) -> list[str]:
    """What a reader of the table of runs has to know, in sentences."""
    found = ["Test split."] if summary["series"] not in ("sweep", "folds") else []
    if summary["series"] == "folds":
        found.append("Figures of a fold are of the samples that it holds out; those of the refit are of the test part.")
    if summary["series"] == "sweep":
        found.append("Trials are chosen on the validation split alone; test figures are shown only for those on the Pareto front.")
    if any("control" in (run.get("models") or {}) for run in summary["runs"]):
        if "extract" in (first := summary["runs"][0]):
            found.append(f"The control is {words.control_is(first)}.")
        else:
            found.append("The control is the same student from the same initial weights and batches, without what was transferred.")
    found += [f"{run['name']} failed: {run['reason']}" for run in summary["runs"] if run["state"] == "failed"]
    return found


def spread_note(summary: Summary) -> str:
    """What was summed up, and how."""
    which = {
        "seeds": "Over all runs.",
        "folds": "Over the folds, which share most of their training samples, so that these intervals are too narrow.",
        "generations": "Over the generations that were taught.",
        "sweep": "Over the seeds of the chosen configuration.",
    }.get(summary["series"], "")
    return f"{which} Intervals of means are Student's t over runs; a gain is taken within each run before it is averaged.".strip()


def heading(summary: Summary, recipe: Mapping[str, Any]) -> str:
    """The page's title."""
    jobs = {
        "distill": "Distillation",
        "born_again": "Born-again networks",
        "assistants": "Teacher assistants",
        "sweep": "Sweep",
        "extract": "Feature extraction",
    }
    job = jobs.get(str(summary["job"]), str(summary["job"]).replace("_", " ").capitalize())
    source = (recipe.get("data") or {}).get("source")
    times = f", {len(summary['runs'])} seeds" if summary["series"] == "seeds" else ""
    times = f", {summary['aggregate']['n']} folds" if summary["series"] == "folds" else times
    return f"{job} on {source}{times}" if source else f"{job}{times}"
