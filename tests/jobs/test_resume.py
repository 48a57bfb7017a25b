"""Runs that are killed or interrupted and go on."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import transfuse
from transfuse.errors import RunError, TransfuseError
from transfuse.jobs import distill, resume
from transfuse.jobs.runner import runner_of
from transfuse.recipe.load import from_values

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["transfuse.jobs.distill", "transfuse.jobs.resume"])


def recipe(out: Path, cache: Path) -> dict:
    """Dropout, an average of weights, augmentation, unlabelled samples, a cache that is being filled, a checkpoint after every step."""
    train = {"steps": 60, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32", "ema": 0.9, "checkpoint_seconds": 0, "batch_size": 64}
    return {
        "data": {"source": "bundled:digits", "labels_per_class": 10},
        "teacher": {"source": "builtin:mlp", "options": {"widths": [64]}, "train": {**train, "steps": 30}},
        "student": {"source": "builtin:mlp", "options": {"widths": [16, 16], "dropout": 0.3}},
        "augment": {"crop": 1, "views": 3},
        "train": train,
        "cache": {"dir": str(cache)},
        "out": str(out),
    }


def work(values: dict, out: str) -> None:
    """In a process of its own: start the run, or go on with it."""
    torch.set_num_threads(1)
    if not (Path(out) / "recipe.resolved.yaml").exists():
        distill.run(from_values({"job": "distill", **values}))
    elif not (Path(out) / "summary.json").exists():
        resume.resume(out)


def weights(path: Path, name: str = "student") -> dict[str, torch.Tensor]:
    return load_file(path / f"{name}.safetensors")


def started(out: Path) -> bool:
    return (out / "recipe.resolved.yaml").exists()


def test_a_run_that_is_killed_at_five_random_moments_ends_with_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = PROCESSES.Process(target=work, args=(recipe(whole, tmp_path / "cache1"), str(whole)))
    process.start()
    while not started(whole):
        time.sleep(0.01)
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    lasted = time.monotonic() - began
    moments, kills = random.Random(0), 0
    values = recipe(killed, tmp_path / "cache2")
    for _ in range(40):
        process = PROCESSES.Process(target=work, args=(values, str(killed)))
        process.start()
        while not started(killed) and process.is_alive():
            time.sleep(0.01)
        if kills < 5:
            process.join(moments.uniform(0.05, lasted / 4))
        else:
            process.join()
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if (killed / "summary.json").exists():
            break
    assert kills >= 3, "the run was over before it could be killed"
    for name in ("teacher", "control/student", "student"):
        one, two = weights(whole, name), weights(killed, name)
        assert all(torch.equal(one[key], two[key]) for key in one), name
    assert (whole / "metrics.jsonl").read_text() == (killed / "metrics.jsonl").read_text()
    assert json.loads((killed / "summary.json").read_text())["models"].keys() == {"student", "control"}


def interrupted(values: dict, at: int):
    """A reporter that sends Ctrl-C when the student reaches a step."""

    class Impatient(transfuse.core.protocols.Silent):
        def progress(self, progress):
            if progress.name == "student" and progress.step == at:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        distill.run(from_values({"job": "distill", **values}), Impatient())


def test_ctrl_c_leaves_a_run_that_can_be_resumed_and_counts_on(tmp_path):
    out = tmp_path / "run"
    values = recipe(out, tmp_path / "cache")
    values["train"] = {**values["train"], "checkpoint_seconds": 1000.0}
    interrupted(values, at=10)
    assert not (out / "summary.json").exists()
    finished = resume.resume(out)
    fresh = distill.run(
        from_values({"job": "distill", **values, "out": str(tmp_path / "fresh"), "cache": {"dir": str(tmp_path / "other")}})
    )
    assert all(torch.equal(weights(out)[key], weights(fresh.path)[key]) for key in weights(out))
    assert finished.summary["teacher_forwards"] == fresh.summary["teacher_forwards"]
    with pytest.raises(RunError, match="finished"):
        resume.resume(out)


@pytest.mark.parametrize(
    ("written", "job"), [("page", "distill"), ("card", "distill"), ("series_page", "seeds"), ("evaluation_page", "eval")]
)
def test_a_run_that_is_stopped_between_its_figures_and_its_pages_gets_them(tmp_path, monkeypatch, written, job):
    def power_cut(path):
        raise KeyboardInterrupt

    values = {"job": "distill", "data": "bundled:wine", "objectives": ["cross_entropy"], "control": "none", "student": "builtin:mlp"}
    values |= {"train": {"steps": 2, "precision": "fp32"}, "cache": {"dir": str(tmp_path / "cache")}, "out": str(tmp_path / "run")}
    if job == "seeds":
        values["seeds"] = 1
    elif job == "eval":
        distill.run(from_values({**values, "out": str(tmp_path / "learnt")}))
        values = {"job": "eval", "data": "bundled:wine", "models": {"learnt": f"run:{tmp_path / 'learnt'}"}, "out": str(tmp_path / "run")}
    with monkeypatch.context() as patched:
        patched.setattr(f"transfuse.report.{written}.write", power_cut)
        made = from_values(values)
        with pytest.raises(KeyboardInterrupt):
            runner_of(made).run(made)
    figures = (tmp_path / "run/summary.json").read_bytes()
    transfuse.resume(tmp_path / "run")
    assert (tmp_path / "run/summary.json").read_bytes() == figures, "nothing is asked again"
    assert (tmp_path / "run/report.html").exists()
    assert (tmp_path / "run/README.md").exists() == (job != "eval")
    with pytest.raises(RunError, match="finished"):
        transfuse.resume(tmp_path / "run")


def test_a_truncated_checkpoint_falls_back_to_the_one_before_it(tmp_path):
    out = tmp_path / "run"
    values = recipe(out, tmp_path / "cache")
    interrupted(values, at=10)
    newest = sorted((out / "checkpoints/student").glob("step_*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    finished = resume.resume(out)
    assert any("damaged" in note for note in json.loads((out / "reasons.json").read_text())["notes"])
    fresh = distill.run(from_values({"job": "distill", **values, "out": str(tmp_path / "fresh")}))
    assert all(torch.equal(weights(finished.path)[key], weights(fresh.path)[key]) for key in weights(fresh.path))


def test_a_run_with_live_objects_says_what_it_needs_to_go_on(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = ((torch.randn(100, 4, generator=generator), torch.randint(0, 3, (100,), generator=generator)),) * 2
    teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)

    class Impatient(transfuse.core.protocols.Silent):
        def progress(self, progress):
            if progress.name == "student" and progress.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        transfuse.distill(
            data, student, teacher, train={"steps": 20}, out=tmp_path / "run", reporter=Impatient(), cache={"dir": str(tmp_path)}
        )
    with pytest.raises(RunError, match="data, student, teacher"):
        transfuse.resume(tmp_path / "run")
    run = transfuse.resume(tmp_path / "run", data=data, student=student, teacher=teacher)
    assert run.summary["models"]["student"]["metrics"]["accuracy"] >= 0


@pytest.mark.parametrize(("source", "size"), [("bundled:digits", "8"), ("bundled:wine", "null")])
def test_an_evaluation_of_named_data_says_what_auto_became_and_goes_on(tmp_path, source, size):
    out = tmp_path / "run"
    first = transfuse.eval("builtin:mlp", source, out=out).summary
    resolved = (out / "recipe.resolved.yaml").read_text()
    assert f"size: {size}" in resolved
    assert "task: classification" in resolved
    (out / "summary.json").unlink()
    assert transfuse.resume(out).summary["models"]["mlp"]["metrics"] == first["models"]["mlp"]["metrics"]


def test_an_evaluation_of_live_modules_says_what_it_needs_to_go_on(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = ((torch.randn(100, 4, generator=generator), torch.randint(0, 3, (100,), generator=generator)),) * 2
    mine, teacher, out = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), tmp_path / "run"
    first = transfuse.eval({"mine": mine}, {"source": data}, teacher=teacher, out=out).summary
    (out / "summary.json").unlink()
    (out / "predictions/mine.npz").unlink()
    with pytest.raises(RunError, match=r"data, teacher, teachers\.mine"):
        transfuse.resume(out)
    again = transfuse.resume(out, data=data, teacher=teacher, teachers={"mine": mine}).summary
    assert again["models"]["mine"]["metrics"] == first["models"]["mine"]["metrics"]


@pytest.mark.parametrize(("name", "words"), [("nothing", "no such run"), ("empty", "not a run folder")])
def test_a_folder_that_is_no_run_is_refused(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TransfuseError, match=words):
        resume.resume(tmp_path / name)
