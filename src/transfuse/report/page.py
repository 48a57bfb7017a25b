"""report.html: one offline file that says what was asked, what came out, and how sure that is."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from transfuse.evaluate.calibration import reliability
from transfuse.report import (
    asked,
    budget,
    costs,
    exports,
    extraction,
    finetuning,
    flow,
    fusion,
    gallery,
    loading,
    perclass,
    plots,
    table,
    together,
    words,
)
from transfuse.report.collect import Predictions, RunFiles, collect, write_whole
from transfuse.report.drawing import role

_MOST_TARGETS = 3  # of a regression that get figures of their own


def write(run_path: str | Path) -> Path:
    """Writes report.html into a finished run's folder, from what the folder holds.

    A missing or damaged optional file leaves out a section and adds a line that says so.

    Raises:
        RunError: the folder holds no finished run, or can't be written.
    """
    return write_whole(Path(run_path) / "report.html", render(collect(run_path)))


def render(run: RunFiles) -> str:
    """The page as text. Everything that comes from the run is escaped."""
    summary = run.summary
    return template("page.html.j2").render(
        style=style(),
        run=run,
        summary=summary,
        heading=_heading(run),
        verdict=words.verdict(summary),
        budget=budget.lines(summary, run.recipe),
        rows=table.rows(summary),
        role=role,
        control_is=words.control_is(summary),
        fusion=[*fusion.tables(summary), *exports.tables(run.path)],
        costs=costs.tables(table.models(summary)),
        latency_note=table.latency_note(summary),
        flow=flow.draw(run.recipe),
        asked=asked.lines(run.recipe),
        terms=asked.terms(run.recipe),
        figures=_figures(run),
        classes=_classes(run),
        regression=_regression(run),
        views=gallery.views(run),
        disagreements=_disagreements(run),
        metrics=table.all_metrics(table.models(summary)),
        reasons=table.reasons({**table.models(summary), "transfer": summary.get("transfer") or {}}),
        auto=[(key, asked.value_of(run.recipe, key), reason) for key, reason in run.auto.items()],
        python=loading.python(run.path, run.student),
        command=loading.command(run.path),
        environment=environment_lines(run.environment),
        numbers=script_json(summary),
        downloads=_downloads(run),
    )


def template(name: str) -> Template:
    """A page's template; it escapes whatever it is given."""
    environment = Environment(
        loader=PackageLoader("transfuse.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["soft"] = soft
    return environment.get_template(name)


def soft(text: str) -> Markup:
    """A name that may be broken behind what joins its words, rather than inside them."""
    return Markup(re.sub(r"([_/.-])(?=\w)", r"\1<wbr>", str(escape(text))))


def style() -> Markup:
    """The style sheet of all pages."""
    return Markup(resources.files("transfuse.report").joinpath("page.css").read_text(encoding="utf-8"))


def _heading(run: RunFiles) -> str:
    if run.summary.get("job") in ("adapt", "together"):
        ends = [str(block.get("source") or "") for block in together.sets(run.recipe).values()]
        if words.adapted(run.summary):
            return f"Adaptation from {ends[0]} to {ends[1]}" if all(ends) and len(ends) == 2 else "Adaptation"
        named = f": {', '.join(ends[:-1])} and {ends[-1]}" if all(ends) and len(ends) > 1 else ""
        return f"{'Source' if len(ends) < 3 else 'Sources'} and target together{named}"
    titles = {"distill": "Distillation", "extract": "Feature extraction", "fuse": "Fusion", "finetune": "Fine-tuning"}
    job = titles.get(run.summary.get("job", ""), str(run.summary.get("job", "Run")).capitalize())
    if words.peers_of(run.summary) and not run.summary.get("teachers"):
        job = "Mutual learning"
    source = (run.recipe.get("data") or {}).get("source")
    return f"{job} on {source}" if source else job


def _selecting(run: RunFiles) -> str:
    return f"{run.recipe.get('select_on', 'source')}'s " if words.adapted(run.summary) else ""


def _figures(run: RunFiles) -> list[tuple[str, Markup]]:
    """(caption, figure) of those that the folder has the numbers for."""
    name = run.summary["primary"]["name"]
    curves = {trained: curve for trained, curve in run.curves.items() if not trained.startswith("features.")}  # heads, by the dozen
    found: list[tuple[str, Markup | None]] = [
        (
            f"{words.title(name)[0].upper()}{words.title(name)[1:]} against size, with 95% intervals",
            plots.size_plot(table.models(run.summary), name),
        ),
        (f"On the {_selecting(run)}validation split during training", plots.validation_plot(curves, name) if curves else None),
    ]
    if "student" in run.curves:
        found.append(("Training loss; terms before weighting", plots.loss_plot(run.curves["student"])))
    for name, curve in curves.items():
        if curve.train and curve.train[0].get("stage") == "preparation":
            whose = name.removeprefix("student.")
            found.append((f"Preparation of {whose}, before the student's own training", plots.loss_plot(curve, f"{whose}'s own parts")))
    if run.task == "classification":
        found.append(("Calibration: on the dashed line, confidence comes true", _calibration(run)))
    found += extraction.figures(run)
    found += together.figures(run)
    found += finetuning.figures(run)
    return [(caption, drawn) for caption, drawn in found if drawn is not None]


def _calibration(run: RunFiles) -> Markup | None:
    bins = {}
    for model, answers in _three(run).items():
        found = perclass.class_outcomes(answers)
        if found is not None:
            bins[model] = reliability(found.confidence, found.correct)
    return plots.reliability_plot(bins) if bins else None


def _three(run: RunFiles) -> dict[str, Predictions]:
    """Predictions of student, control and the first teacher, under these names."""
    found = {model: run.predictions[model] for model in ("student", "control") if model in run.predictions}
    for teacher in run.summary.get("teachers") or {}:
        if teacher in run.predictions:
            return found | {"teacher": run.predictions[teacher]}
    return found


@dataclass
class _Classes:
    """The class-by-class section: matrices or the commonest confusions, and a figure."""

    names: list[str]
    matrices: dict[str, list[list[tuple[int, float]]]]
    confusions: list[perclass.Confusion]
    models: list[str]
    figure: Markup | None
    measure: str
    rows: list[perclass.ClassRow]
    all: int
    against: str


def _classes(run: RunFiles) -> _Classes | None:
    models = _three(run)
    if run.task == "regression" or "student" not in models:
        return None
    rows = perclass.per_class(run, models)
    answered = {model: perclass.class_outcomes(answers) for model, answers in models.items()} if run.task == "classification" else {}
    judged = {model: found for model, found in answered.items() if found is not None}
    measure = "Recall" if run.task == "classification" else "F1"
    against = next((model for model in ("control", "teacher") if model in models), "")
    telling = perclass.most_telling([row for row in rows if "student" in row.values], against)
    drawn = plots.class_plot(telling, measure) if telling else None
    count = next(iter(judged.values())).classes if judged else len(rows)
    names, small = run.names(count), count <= perclass.LARGEST_MATRIX
    listed = [] if small or "student" not in judged else perclass.top_confusions(judged, names)
    shares = {model: perclass.with_shares(perclass.confusion(found)) for model, found in judged.items()} if small else {}
    return _Classes(names, shares, listed, list(models), drawn, measure, telling, len(rows), against)


def _regression(run: RunFiles) -> list[tuple[str, list[Markup]]]:
    if run.task != "regression" or "student" not in run.predictions:
        return []
    names = run.names(run.predictions["student"].outputs.shape[1])
    return [(name, plots.regression_plots(_three(run), column, name)) for column, name in enumerate(names[:_MOST_TARGETS])]


def _disagreements(run: RunFiles) -> dict[str, Any] | None:
    models = _three(run)
    if run.task == "regression" or "student" not in models or "teacher" not in models:
        return None
    count, shown = gallery.disagreements(run, models["teacher"])
    return {"count": count, "all": len(models["student"].ids), "shown": shown}


def environment_lines(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """env.json as (name, value) lines."""
    facts = dict(environment)
    versions = facts.pop("versions", None) or {}
    command = facts.pop("command", None)
    lines = [(name, str(value)) for name, value in facts.items() if value is not None and not isinstance(value, (dict, list))]
    lines += [("command", " ".join(map(str, command)))] if command else []
    return lines + [("versions", ", ".join(f"{package} {version}" for package, version in versions.items()))] * bool(versions)


def script_json(value: Any) -> Markup:
    """JSON that can stand in a <script> element: no "<" is left that could close it."""
    return Markup(json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _downloads(run: RunFiles) -> list[tuple[str, str]]:
    """(file name, data URI) of the numbers as JSON and CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "metric", "value", "low", "high"])
    for model, block in table.models(run.summary).items():
        for name, value in (block.get("metrics") or {}).items():
            writer.writerow([model, name, value, *((block.get("intervals") or {}).get(name) or ("", ""))])
        for name in ("parameters", "macs", "bytes"):
            writer.writerow([model, name, block.get(name), "", ""])
        writer.writerow([model, "latency_ms", words.latency(block), "", ""])
    return [
        data_uri("summary.json", "application/json", json.dumps(run.summary, indent=2)),
        data_uri("metrics.csv", "text/csv", buffer.getvalue()),
    ]


def data_uri(name: str, kind: str, text: str) -> tuple[str, str]:
    """(file name, the file as a link's target)."""
    return name, f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"
