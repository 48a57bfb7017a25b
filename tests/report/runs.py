"""Run folders as a job leaves them, made from real metrics of invented predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from transfuse.evaluate import metrics
from transfuse.evaluate.summary import model_summary, transfer_summary

TEACHER_COST, STUDENT_COST = (853_018, 127_000_000, 3_430_000, 2.31), (41_482, 5_600_000, 168_300, 0.284)


def cost(parameters, macs, size, p50):
    latency = {"runtime": "torch", "device": "cpu", "threads": 1, "dtype": "float32", "batch_1": {"p50": p50, "p95": p50 * 1.3}}
    return {"parameters": parameters, "macs": macs, "bytes": size, "latency_ms": latency}


def invented(task, n, classes, seed=0):
    """Labels and the outputs of a good teacher, a student that follows it and a weaker control."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(n, classes))
    if task == "regression":
        labels = random.normal(size=(n, classes)) * 70 + 150
        teacher = labels + noise * 30
        return labels, {
            "student": teacher + random.normal(size=noise.shape) * 20,
            "control": labels + random.normal(size=noise.shape) * 55,
            "teacher": teacher,
        }
    if task == "multilabel":
        labels = (random.random((n, classes)) < np.linspace(0.1, 0.5, classes)).astype(np.float32)
        signal = 3 * labels - 1.5
    else:
        labels = random.integers(classes, size=n)
        signal = np.eye(classes)[labels] * (3 + np.log(classes) / 4) + np.roll(np.eye(classes), 1, axis=1)[labels] * 2
    teacher = signal * 1.4 + noise
    outputs = {
        "student": teacher * 0.8 + random.normal(size=noise.shape) * 0.7,
        "control": signal + random.normal(size=noise.shape) * 1.1,
        "teacher": teacher,
    }
    return labels, {name: values.astype(np.float32) for name, values in outputs.items()}


def write_metrics(path, task, seed=0, runs=("student",)):
    random = np.random.default_rng(seed)
    name = metrics.primary(task)[0]
    lines = []
    for run in runs:
        for step in range(10, 1010, 10):
            progress = step / 1000
            terms = {
                "kd": 2.2 * np.exp(-3 * progress) + random.random() * 0.2,
                "cross_entropy": 1.5 * np.exp(-2 * progress) + random.random() * 0.1,
            }
            if run != "student":
                terms.pop("kd")
            loss = sum(terms.values()) / len(terms)
            row = {"run": run, "kind": "train", "step": step, "epoch": 30 * progress, "loss": loss, "terms": terms, "lr": 0.01}
            lines.append(row)
            if step % 50 == 0:
                good = (0.9 if run == "student" else 0.85) * (1 - np.exp(-4 * progress)) + random.random() * 0.01
                value = 80 * (1.4 - good) if task == "regression" else good
                lines.append({"run": run, "kind": "val", "step": step, "epoch": 30 * progress, "metrics": {name: value}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def recipe(names, **changes):
    return {
        "job": "distill",
        "seed": 0,
        "data": {"source": "images:./photos", "unlabelled": None, "split": {"val": 0.1, "test": 0.2, "seed": 0}, "labels_per_class": None},
        "teachers": {"teacher": {"source": "file:r56.safetensors", "architecture": "builtin:resnet56", "options": {"shortcut": "A"}}},
        "student": {"source": "builtin:resnet8", "architecture": None, "options": {}},
        "objectives": [{"cross_entropy": {"weight": 0.1}}, {"kd": {"weight": 0.9, "teacher": "teacher", "temperature": 4.0}}],
        "train": {"epochs": 30.0, "batch_size": 128, "optimizer": {"adamw": {"lr": 0.001}}, "precision": "fp32"},
        "control": "reuse",
        "budget": {"bytes": 200_000, "latency_ms": 0.2, "threads": 1},
        "out": "runs/x",
    } | changes


def write_run(path: Path, task="classification", n=600, names=None, control=True, teacher=True, pictures=True, seed=0, weaker=False):
    """A finished run; returns its summary."""
    names = names or ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    labels, outputs = invented(task, n, len(names), seed)
    if weaker:  # the student is no better than its control
        outputs["student"] = (
            invented(task, n, len(names), seed)[1]["control"][:] + np.random.default_rng(9).normal(size=outputs["control"].shape) * 0.3
        )
    if not control:
        outputs.pop("control")
    if not teacher:
        outputs.pop("teacher")
    path.mkdir(parents=True, exist_ok=True)
    costs = {"student": cost(*STUDENT_COST), "control": cost(*STUDENT_COST), "teacher": cost(*TEACHER_COST)}
    blocks = {name: model_summary(task, values, labels, costs[name]) for name, values in outputs.items()}
    name, higher = metrics.primary(task)
    summary = {
        "job": "distill",
        "task": task,
        "seed": 0,
        "primary": {"name": name, "higher_is_better": higher},
        "models": {key: blocks[key] for key in ("student", "control") if key in blocks},
        "teachers": {"teacher": blocks["teacher"]} if teacher else {},
        "sources": {},
        "transfer": transfer_summary(task, labels, outputs["student"], outputs.get("control"), outputs.get("teacher")),
        "teacher_forwards": 41_000,
        "seconds": {"train": 31.2, "total": 58.9},
    }
    (path / "summary.json").write_text(json.dumps(summary, allow_nan=False))
    values = recipe(names, **({} if teacher else {"teachers": {}}))
    (path / "recipe.yaml").write_text("job: distill\ndata: images:./photos\nteacher: file:r56.safetensors\nstudent: builtin:resnet8\n")
    (path / "recipe.resolved.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    reasons = {
        "auto": {"train.precision": "the CPU has no matrix units for bf16", "objectives.kd.teacher": "the only teacher"},
        "notes": ["images:./photos: 4000 train, 400 validation, 600 test samples", "2 files can't be read and were skipped: a.jpg, b.jpg"],
    }
    (path / "reasons.json").write_text(json.dumps(reasons))
    environment = {
        "format": 1, "python": "3.11.9", "platform": "Linux-6.1", "processor": "a CPU", "cores": 2, "device": "cpu",
        "versions": {"transfuse": "0.1.0", "torch": "2.13.0"}, "commit": None, "seed": 0, "command": ["transfuse", "run", "recipe.yaml"],
        "started": "2026-11-21T14:03:12+01:00",
    }  # fmt: skip
    (path / "env.json").write_text(json.dumps(environment))
    facts = {"format": 1, "source": "builtin:resnet8", "architecture": "builtin:resnet8", "options": {}, "preprocess": {"size": [32, 32]}}
    target = {"names": names, "mean": [150.0] * len(names), "std": [70.0] * len(names)} if task == "regression" else None
    (path / "student.json").write_text(json.dumps(facts | {"classes": None if target else names, "target": target}))
    write_metrics(path / "metrics.jsonl", task, runs=("teacher", "student") if teacher else ("student",))
    if control:
        write_metrics(path / "control" / "metrics.jsonl", task, seed=1, runs=("control",))
    ids = np.array([f"photos/test/{i:04d}.png" for i in range(n)])
    (path / "predictions").mkdir(exist_ok=True)
    for key, values in outputs.items():
        parts = {"ids": ids, "labels": labels, "outputs": values}
        np.savez(path / "predictions" / f"{key}.npz", **parts, **{f"val_{part}": array[:50] for part, array in parts.items()})
    if pictures and task != "regression":
        (path / "samples").mkdir(exist_ok=True)
        np.savez_compressed(path / "samples" / "samples.npz", ids=ids[:256], inputs=drawings(labels[:256], seed))
    return summary


def drawings(labels, seed):
    """Small colour pictures that differ: gradients and discs."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] / 31
    pictures = []
    for _ in labels:
        base, tint, centre = random.random(3), random.random(3), random.random(2)
        disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.08
        picture = base[:, None, None] * x + tint[:, None, None] * (1 - y) * 0.6
        pictures.append(np.where(disc, tint[::-1, None, None], picture))
    return (np.clip(np.array(pictures), 0, 1) * 255).astype(np.uint8)
