"""The metadata of a model card as a hub reads it: library, tags, data, metrics, base models and results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from transfuse.report import together, words
from transfuse.report.collect import RunFiles

_TAGS = {
    "distill": "knowledge-distillation",
    "born_again": "knowledge-distillation",
    "assistants": "knowledge-distillation",
    "sweep": "knowledge-distillation",
    "adapt": "domain-adaptation",
    "finetune": "fine-tuning",
    "extract": "feature-extraction",
    "fuse": "model-fusion",
}
_PUBLIC = ("bundled", "torchvision", "hub")  # data sources whose names mean something elsewhere
_BASES = ("timm", "hf")  # model sources that are named as hubs name them


def front_matter(run: RunFiles) -> str:
    """The YAML header of README.md, between its lines of dashes."""
    text = yaml.safe_dump(metadata(run), sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)
    return f"---\n{text}---\n"


def metadata(run: RunFiles) -> dict[str, Any]:
    """The header's values; what is not known is left out, and so is where data lie on this machine."""
    summary, image = run.summary, _shows_pictures(run)
    found: dict[str, Any] = {"library_name": "transfuse"}
    if image and run.task in ("classification", "multilabel"):
        found["pipeline_tag"] = "image-classification"
    job = str(summary["job"])
    found["tags"] = list(dict.fromkeys(["transfuse", _TAGS.get(job, job.replace("_", "-")), run.task, "pytorch"]))
    if datasets := _datasets(run.recipe):
        found["datasets"] = datasets
    found["metrics"] = [name for name in ("accuracy", "f1", "precision", "recall", "rmse", "mae") if name in _metrics(summary)]
    if bases := _bases(run.recipe):
        found["base_model"] = bases
    if results := _results(summary, run.recipe, found.get("pipeline_tag")):
        found["model-index"] = [{"name": _name(run), "results": results}]
    return {key: value for key, value in found.items() if value}


def _metrics(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    student = (summary.get("models") or {}).get("student")
    if student:
        return student.get("metrics") or {}
    repeated = ((summary.get("aggregate") or {}).get("models") or {}).get("student") or {}
    return {name: spread["mean"] for name, spread in (repeated.get("metrics") or {}).items()}


def _shows_pictures(run: RunFiles) -> bool:
    channels = (run.student.get("preprocess") or {}).get("channels")
    return bool(channels) or str(_source(run.recipe.get("data"))).startswith(("images:", "idx:", "torchvision:"))


def _source(block: Any) -> str:
    return str(block.get("source") or "") if isinstance(block, Mapping) else block if isinstance(block, str) else ""


def _datasets(recipe: Mapping[str, Any]) -> list[str]:
    names = []
    for block in together.sets(recipe).values():
        prefix, _, name = _source(block).partition(":")
        if prefix in _PUBLIC and name:
            names.append(name.partition("@")[0].lower())
    return list(dict.fromkeys(names))


def _bases(recipe: Mapping[str, Any]) -> list[str]:
    """Published models that the student comes from: its own beginning, and its teachers or sources."""
    blocks = [recipe.get("student"), recipe.get("model")]
    for group in ("teachers",) if recipe.get("job") == "together" else ("teachers", "sources"):
        named = recipe.get(group)
        blocks += list(named.values()) if isinstance(named, Mapping) else []
    found = []
    for block in blocks:
        prefix, _, name = _source(block).partition(":")
        trained = prefix == "hf" or (prefix == "timm" and "." in name)  # a timm name with a tag has weights
        if prefix in _BASES and trained:
            found.append(name if prefix == "hf" else f"timm/{name}")
    return list(dict.fromkeys(found))


def _name(run: RunFiles) -> str:
    return _source(run.recipe.get("student") or run.recipe.get("model")) or run.path.name


def _results(summary: Mapping[str, Any], recipe: Mapping[str, Any], pipeline: str | None) -> list[dict[str, Any]]:
    """The test split's figures in the hub's form; the name of the data is that of their folder or set, without the way to it."""
    values = {name: value for name, value in _metrics(summary).items() if isinstance(value, (int, float))}
    if not values:
        return []
    source = _source(recipe.get("target") or recipe.get("data")).partition(":")[2]
    name = source.partition("@")[0].rstrip("/").rpartition("/")[2] or "private data"
    task = {"type": pipeline or f"tabular-{'regression' if summary['task'] == 'regression' else 'classification'}"}
    listed = [{"type": metric, "name": words.title(metric), "value": round(float(value), 6)} for metric, value in values.items()]
    return [{"task": task, "dataset": {"name": name, "type": name.lower().replace(" ", "-"), "split": "test"}, "metrics": listed}]
