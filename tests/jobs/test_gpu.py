"""Whole jobs on a GPU: what they promise on a CPU holds there, and what only a GPU has is used. Skipped where there is none."""

import gc
import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from transfuse.core.protocols import Silent
from transfuse.core.types import DataRequest, ModelRequest
from transfuse.data import open_data
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop
from transfuse.evaluate.predict import predict
from transfuse.jobs import distill, resume
from transfuse.jobs.train import training
from transfuse.models import open_model
from transfuse.recipe.load import from_values

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DROPOUT = {"source": "builtin:mlp", "options": {"widths": [32, 32], "dropout": 0.3}}
TEACHER = {"source": "builtin:mlp", "options": {"widths": [64]}, "train": {"steps": 100, "optimizer": {"adamw": {"lr": 0.01}}}}


def recipe(folder, name, **changes):
    train = {"steps": 40, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.01}}, **changes.pop("train", {})}
    return {
        "job": "distill",
        "data": {"source": "bundled:digits", "labels_per_class": 20},
        "teacher": TEACHER,
        "student": DROPOUT,
        "augment": {"crop": 1, "views": 2},
        "train": train,
        "control": "none",
        "samples": False,
        "cache": {"dir": str(folder / "cache")},
        "out": str(folder / name),
        **changes,
    }


def run(values, reporter=None):
    made = from_values(values)
    return distill.run(made) if reporter is None else distill.run(made, reporter)


def weights(run):
    return load_file(run.path / "student.safetensors")


def notes(run):
    return json.loads((run.path / "reasons.json").read_text())["notes"]


def differing(one, two):
    return [name for name in one if not torch.equal(one[name], two[name])]


@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16", "bf16"])
def test_a_student_of_a_gpu_says_on_a_cpu_what_it_said_there(tmp_path, precision):
    made = run(recipe(tmp_path, "run", train={"precision": precision}))
    assert json.loads((made.path / "env.json").read_text())["device"] == torch.cuda.get_device_name()
    assert made.summary["models"]["student"]["metrics"]["accuracy"] > 0.3
    shipped = open_model(f"run:{made.path}", ModelRequest())
    said = predict(shipped.network.cpu(), open_data("bundled:digits", DataRequest()).test, shipped.preprocess)
    there = torch.from_numpy(np.load(made.path / "predictions/student.npz")["outputs"])
    torch.testing.assert_close(said, there, rtol=1e-3, atol=1e-3)


class Impatient(Silent):
    """Sends Ctrl-C when the student reaches a step."""

    def __init__(self, at):
        self.at = at

    def progress(self, progress):
        if progress.name == "student" and progress.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("student", [DROPOUT, "builtin:resnet20"], ids=["dropout", "convolutions"])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path, student, precision):
    shape = {"student": student, "train": {"precision": precision, "ema": 0.9, "steps": 30}}
    whole = run(recipe(tmp_path, "whole", **shape))
    with pytest.raises(KeyboardInterrupt):
        run(recipe(tmp_path, "stopped", **shape), Impatient(at=25))
    again = resume.resume(tmp_path / "stopped")
    assert differing(weights(whole), weights(again)) == []


@pytest.mark.parametrize(
    "objectives",
    [
        ["fitnet"],
        ["attention_transfer"],
        ["crd"],
        ["review"],
        ["sp", "rkd"],
        ["ofd"],
    ],
    ids="-".join,
)
def test_the_same_recipe_gives_the_same_bits_twice(tmp_path, objectives):
    shape = {"teacher": {"source": "builtin:resnet20", "train": {"steps": 20}}, "student": "builtin:resnet20", "train": {"steps": 20}}
    terms = ["cross_entropy", *({name: {"weight": "auto"}} for name in objectives)]
    one, two = (run(recipe(tmp_path, name, objectives=terms, **shape)) for name in ("one", "two"))
    assert differing(weights(one), weights(two)) == []
    assert not [note for note in notes(two) if "no fixed order" in note]


def losses(run):
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train" and line["run"] == "student"]


@pytest.mark.parametrize("student", ["builtin:mlp", "builtin:resnet20"])
@pytest.mark.parametrize("compile", [True, "max"])
def test_a_compiled_student_learns_what_the_plain_one_learns(tmp_path, monkeypatch, compile, student):
    graphs, original = [], training.graphed
    monkeypatch.setattr(training, "graphed", lambda network: graphs.append(network) or original(network))
    shape = {"student": student, "objectives": ["cross_entropy"]}
    train = {"precision": "fp32", "steps": 6, "optimizer": {"sgd": {"lr": 0.02}}}
    plain = run(recipe(tmp_path, "plain", train={**train, "compile": False}, **shape))
    fast = run(recipe(tmp_path, "fast", train={**train, "compile": compile}, **shape))
    assert not [note for note in notes(fast) if "compile" in note]
    assert len(graphs) == (compile == "max")
    assert len(losses(plain)) == 6
    assert losses(fast) == pytest.approx(losses(plain), rel=2e-3)
    assert losses(plain)[-1] < 0.98 * losses(plain)[0], "nothing was learnt that could be compared"


def test_cuda_graphs_go_with_dropout_bf16_averages_and_resuming(tmp_path):
    shape = {"train": {"precision": "bf16", "steps": 30, "compile": "max", "ema": 0.9}}
    whole = run(recipe(tmp_path, "whole", **shape))
    with pytest.raises(KeyboardInterrupt):
        run(recipe(tmp_path, "stopped", **shape), Impatient(at=25))
    assert differing(weights(whole), weights(resume.resume(tmp_path / "stopped"))) == []
    assert not [note for note in notes(whole) if "compile" in note]


def test_a_student_learns_the_same_from_answers_that_were_stored_before(tmp_path):
    shape = {"train": {"precision": "fp32"}, "objectives": ["kd"]}
    stored = run(recipe(tmp_path, "stored", **shape))
    again = run(recipe(tmp_path, "again", **shape))
    assert differing(weights(stored), weights(again)) == []
    assert again.summary["teacher_forwards"] < stored.summary["teacher_forwards"]


TERMS = {
    "kd": ["cross_entropy", "kd"],
    "fitnet": ["cross_entropy", "fitnet"],
    "crd": ["cross_entropy", "crd"],
    "rkd": ["rkd"],
    "ofd": ["cross_entropy", "ofd"],
    "mlld": ["mlld"],
}


@pytest.mark.parametrize("views", [2, "fresh"])
@pytest.mark.parametrize("name", TERMS)
def test_no_step_waits_for_the_gpu(tmp_path, monkeypatch, name, views):
    shape = {"teacher": {"source": "builtin:resnet20", "train": {"steps": 5}}, "student": "builtin:resnet20"}
    shape |= {"augment": {"crop": 1, "flip": True, "views": views}, "objectives": TERMS[name]}
    values = recipe(tmp_path, "first", **shape, train={"precision": "bf16", "clip": 1.0, "ema": 0.9})
    run(values)  # all answers are stored
    watched = []

    def strictly(function):
        def call(self, *arguments):
            if self is not watching.get("loader") and getattr(self, "state", None) is None:
                return function(self, *arguments)
            if getattr(self, "state", None) is not None and self.state.step < 3:  # what is made once, with the first batch
                watching["loader"] = self.loader
                return function(self, *arguments)
            watched.append(type(self).__name__)
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                return function(self, *arguments)
            finally:
                torch.cuda.set_sync_debug_mode(before)

        return call

    watching: dict = {}
    monkeypatch.setattr(Loop, "_step", strictly(Loop._step))
    monkeypatch.setattr(MemoryLoader, "batch", strictly(MemoryLoader.batch))
    run({**values, "out": str(tmp_path / "second")})
    assert {"Loop", "MemoryLoader"} <= set(watched)


def test_a_batch_that_does_not_fit_is_computed_in_parts(tmp_path):
    values = recipe(tmp_path, "run", objectives=["cross_entropy"], augment={"views": 1})
    values |= {"data": "bundled:digits", "student": {"source": "builtin:mlp", "options": {"widths": [1024] * 24}}}
    values["train"] = {"steps": 3, "batch_size": 1280, "precision": "fp32", "select": "last"}
    values["train"]["optimizer"] = {"sgd": {"lr": 0.001, "momentum": 0.0, "weight_decay": 0.0}}
    del values["teacher"]
    whole = run(values)
    gc.collect()
    torch.cuda.empty_cache()
    weights_and_gradients, half_of_what_a_step_keeps = 2 * 24 * 4, 24 * 5  # MiB
    allowed = torch.cuda.memory_reserved() + (weights_and_gradients + half_of_what_a_step_keeps + 60) * 2**20
    try:
        torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
        tight = run({**values, "out": str(tmp_path / "tight")})
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [note for note in notes(tight) if "memory ran out" in note]
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(tight)[name], value, rtol=1e-3, atol=1e-5)
