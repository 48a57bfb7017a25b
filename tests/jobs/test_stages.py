"""Objectives that are trained in stages, in real jobs: what each stage trains, how steps add up, and that a kill costs nothing."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from transfuse.core.protocols import Silent
from transfuse.errors import RecipeError
from transfuse.jobs import distill, resume
from transfuse.jobs.deliver import finish
from transfuse.recipe.load import from_values

STEPS = 8
RATES = {"optimizer": {"adamw": {"lr": 0.01}}, "schedule": {"cosine": {"warmup": 0.0}}}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["transfuse.jobs.distill", "transfuse.jobs.resume"])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A residual network that was trained for a moment, on digits."""
    folder = tmp_path_factory.mktemp("teacher")
    train = {"steps": 3, "batch_size": 32, "precision": "fp32"}
    values = recipe(folder / "run", folder, objectives=["cross_entropy"], teacher={"source": "builtin:resnet14", "train": train})
    return distill.run(from_values(values)).path


def recipe(out, folder, **changes):
    return {
        "job": "distill",
        "data": {"source": "bundled:digits", "labels_per_class": 20},
        "student": {"source": "builtin:resnet8"},
        "augment": {"crop": 1, "views": 2},
        "train": {"steps": STEPS, "precision": "fp32", "batch_size": 16, "checkpoint_seconds": 0, **RATES},
        "cache": {"dir": str(folder / "cache")},
        "samples": False,
        "out": str(out),
        **changes,
    }


@pytest.fixture
def job(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "report", lambda context: None)

    def run(*objectives, name="run", reporter=None, **changes):
        changes = {"control": "none", **changes}
        values = recipe(tmp_path / name, tmp_path, teacher=f"run:{teacher}#teacher", objectives=list(objectives), **changes)
        return distill.run(from_values(values), reporter)

    return run


def lines(run, kind="train", who="student"):
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind and row["run"] == who]


@pytest.mark.parametrize(("name", "share", "steps"), [("fitnet", 0.25, 2), ("fsp", 0.5, 4)])
def test_the_student_learns_from_a_term_alone_and_then_from_the_others_within_its_steps(job, name, share, steps):
    run = job("cross_entropy", "kd", {name: {"share": share, "when": "first"}}, control="reuse")
    rows = lines(run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row.get("stage") for row in rows] == [name] * steps + [None] * (STEPS - steps)
    assert [list(row["terms"]) for row in rows] == [[name]] * steps + [["cross_entropy", "kd"]] * (STEPS - steps)
    assert all(row["step"] > steps for row in lines(run, "val")), "what has no task yet is not validated"
    assert run.summary["stages"][name] | {"seconds": 0} == {"kind": "first", "steps": steps, "seconds": 0}
    control = [json.loads(line) for line in (run.path / "control/metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in control) == STEPS
    rates = [row["lr"] for row in rows]
    assert rates[0] > rates[steps - 1], "each stage has the learning rate's schedule to itself"
    assert rates[steps] == pytest.approx(0.01, rel=0.1)
    assert rates[steps] > rates[-1]


def test_a_first_stage_shows_the_student_the_samples_that_come_first(job, monkeypatch):
    seen = {}
    from transfuse.engine.steppers.supervised import Supervised

    terms = Supervised.terms

    def noting(self, batch, phase, progress):
        seen.setdefault(where[0], []).append(batch.ids.tolist())
        return terms(self, batch, phase, progress)

    monkeypatch.setattr(Supervised, "terms", noting)
    where = ["staged"]
    job("cross_entropy", {"ab": {"share": 0.5}})
    where = ["together"]
    run = job("cross_entropy", {"ab": {"when": "together"}}, name="other")
    assert seen["staged"] == seen["together"]
    assert [list(row["terms"]) for row in lines(run)] == [["cross_entropy", "ab"]] * STEPS
    assert "stages" not in run.summary


@pytest.mark.parametrize(("name", "parts"), [("ft", "encoders and decoders"), ("sskd", "teacher_embedding")])
def test_a_preparation_has_steps_of_its_own_and_what_it_prepared_is_kept(job, name, parts, monkeypatch):
    from transfuse.engine.loop import Loop

    ended = {}
    fit = Loop.fit

    def noting(self):
        outcome = fit(self)
        ended[self.track.run] = {key: value.clone() for key, value in self.module.state_dict().items()}
        return outcome

    monkeypatch.setattr(Loop, "fit", noting)
    run = job({"cross_entropy": {"weight": 0.1}}, {name: {"preparation": 0.5}}, control="reuse")
    assert [row["step"] for row in lines(run)] == list(range(1, STEPS + 1))
    assert [row["step"] for row in lines(run, who=f"student.{name}")] == [1, 2, 3, 4]
    assert run.summary["stages"][name] | {"seconds": 0} == {"kind": "prepare", "steps": 4, "seconds": 0}
    notes = json.loads((run.path / "reasons.json").read_text())["notes"]
    assert f"{name}: {parts} prepared on the teacher alone in 4 steps, on top of the student's 8" in notes
    kept = {key: value for key, value in ended["student"].items() if any(f"objectives.1.{part}" in key for part in parts.split(" and "))}
    assert len(kept) == len(ended[f"student.{name}"]) > 0
    assert all(torch.equal(one, two) for one, two in zip(ended[f"student.{name}"].values(), kept.values(), strict=True))
    assert load_file(run.path / "student.safetensors").keys() == load_file(run.path / "control/student.safetensors").keys()


def test_stages_of_several_objectives_follow_each_other_and_progress_says_which_it_is(job):
    heard = []

    class Listening(Silent):
        def progress(self, progress):
            heard.append(progress.title)

    run = job("kd", "fsp", "ft", {"ab": {"share": 0.3}}, reporter=Listening())
    assert [list(row["terms"]) for row in lines(run)] == [["fsp"]] * 2 + [["ab"]] * 2 + [["kd", "ft"]] * 4
    assert list(run.summary["stages"]) == ["ft", "fsp", "ab"]
    assert list(dict.fromkeys(heard)) == ["student.ft (preparation)", "student (fsp)", "student (ab)", "student"]


@pytest.mark.parametrize(
    ("objectives", "words"),
    [
        (["ab"], "nothing is left to learn from"),
        ([{"cross_entropy": {"weight": 0.0}}, "fsp"], "nothing is left to learn from"),
        (["kd", {"ab": {"share": 0.6}}, {"fsp": {"share": 0.4}}], "8 of 8 steps"),
    ],
)
def test_stages_that_leave_nothing_for_the_end_are_refused_before_training(job, tmp_path, objectives, words):
    with pytest.raises(RecipeError, match=words):
        job(*objectives)
    assert not (tmp_path / "run").exists()


def work(values, out):
    """In a process of its own: start the run, or go on with it; without a page, which takes longer than all stages."""
    torch.set_num_threads(1)
    with patch.object(finish, "report"):
        if not (Path(out) / "recipe.resolved.yaml").exists():
            distill.run(from_values(values))
        elif not (Path(out) / "summary.json").exists():
            resume.resume(out)


KILLED_AT = [("student.sskd.preparation", 2), ("student.ab", 7), ("student", 10)]


def killed_once(values, out, folder, step):
    """Runs until a checkpoint of that step lies in the folder, and is killed with SIGKILL; returns whether it lived so long."""
    process = PROCESSES.Process(target=work, args=(values, str(out)))
    process.start()
    while process.is_alive():
        if any(int(path.stem.split("_")[1]) >= step for path in (out / "checkpoints" / folder).glob("step_*.pt")):
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            return True
        time.sleep(0.002)
    return False


def test_a_run_that_is_killed_in_every_stage_ends_with_the_same_bits(teacher, tmp_path):
    changes = {
        "objectives": [{"cross_entropy": {"weight": 0.1}}, "sskd", {"fsp": {"share": 0.5}}, {"ab": {"share": 0.25}}],
        "teacher": f"run:{teacher}#teacher",
        "control": "none",
        "train": recipe("", Path())["train"] | {"ema": 0.9, "steps": 12},
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    work(recipe(whole, tmp_path, **changes), whole)
    values = recipe(killed, tmp_path, **changes)
    kills = sum(killed_once(values, killed, *moment) for moment in KILLED_AT)
    work(values, killed)
    assert kills >= 3, "the run was over before it could be killed"
    one, two = load_file(whole / "student.safetensors"), load_file(killed / "student.safetensors")
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert (whole / "metrics.jsonl").read_text() == (killed / "metrics.jsonl").read_text()
    stages = json.loads((killed / "summary.json").read_text())["stages"]
    assert {name: stage["steps"] for name, stage in stages.items()} == {"sskd": 3, "fsp": 6, "ab": 3}
    assert [path.name for path in (killed / "checkpoints").iterdir() if any(path.iterdir())] == ["student"]


def test_sskd_refuses_pictures_that_are_not_square_and_tables_for_teachers(tmp_path):
    import numpy as np

    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    np.savez(tmp_path / "wide.npz", x=random.integers(0, 255, (40, 3, 8, 12), dtype=np.uint8), y=labels)
    np.savez(tmp_path / "table.npz", x=random.normal(size=(40, 5)).astype("float32"), y=labels)
    for data, student, words in (("wide", "builtin:resnet8", "8x12 pixels"), ("table", "builtin:mlp", "the data are columns")):
        values = {
            **recipe(tmp_path / "run", tmp_path, objectives=["cross_entropy", "sskd"], augment={}),
            "data": {"source": f"arrays:{tmp_path / data}.npz"},
            "student": {"source": student},
            "teacher": {"source": student, "train": {"steps": 1}},
        }
        with pytest.raises(RecipeError, match=words):
            distill.run(from_values(values))
    assert not (tmp_path / "run").exists()
