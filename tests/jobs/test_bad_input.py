"""Wrong input meets one message that says what, where and what to do, before a run folder is made; nothing of the user's is changed."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import transfuse
from transfuse.cli import main
from transfuse.core.protocols import Silent
from transfuse.errors import DataError, ModelError, NumericsError, RecipeError, RunError, TransfuseError
from transfuse.jobs import resume, rundir
from transfuse.jobs.context import Run
from transfuse.jobs.rundir import RunDir
from transfuse.jobs.train import control
from transfuse.recipe.load import from_values


def data(classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    part = (torch.randn(90, 4, generator=generator), torch.randint(0, classes, (90,), generator=generator))
    return part, part


class Saying(nn.Module):
    """A teacher that says one value about every sample of more than one, and zeros about a single one."""

    def __init__(self, value: float):
        super().__init__()
        self.linear, self.value = nn.Linear(4, 3), value

    def forward(self, inputs):
        return self.linear(inputs) * 0 + (self.value if len(inputs) > 1 else 0.0)


def test_crops_larger_than_the_pictures_leave_no_folder(job, tmp_path):
    with pytest.raises(DataError, match="can't be reflected") as refused:
        job(augment={"crop": 8})
    assert refused.value.where == "augment.crop"
    assert not (tmp_path / "run0").exists()


def test_a_table_of_predictions_is_refused_as_a_student(job, tmp_path):
    np.savez(tmp_path / "table.npz", ids=np.arange(1797), probabilities=np.full((1797, 10), 0.1))
    with pytest.raises(ModelError, match="can't be trained"):
        job(student={"source": f"predictions:{tmp_path / 'table.npz'}"})
    assert not (tmp_path / "run0").exists()


def test_a_table_about_other_samples_is_refused_before_training(job, tmp_path):
    np.savez(tmp_path / "table.npz", ids=np.arange(10**6, 10**6 + 20), probabilities=np.full((20, 10), 0.1))
    with pytest.raises(ModelError, match="no prediction for any"):
        job(teacher={"source": f"predictions:{tmp_path / 'table.npz'}"})
    assert not (tmp_path / "run0").exists()


def test_a_teacher_whose_weights_are_nan_is_refused_before_training(tmp_path):
    teacher = nn.Linear(4, 3)
    with torch.no_grad():
        teacher.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN") as refused:
        transfuse.distill(data(), nn.Linear(4, 3), teacher, train={"steps": 3}, out=tmp_path / "run", cache={"dir": str(tmp_path / "c")})
    assert refused.value.where == "teachers.teacher"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("views", [1, "fresh"])
def test_a_teacher_that_says_nan_while_it_teaches_stops_the_run(tmp_path, views):
    with pytest.raises(NumericsError, match="teacher's answer is NaN"):
        transfuse.distill(
            data(),
            nn.Linear(4, 3),
            Saying(float("nan")),
            train={"steps": 3},
            augment={"views": views},
            out=tmp_path / "run",
            cache={"dir": str(tmp_path / "c")},
        )


def test_a_cache_that_is_a_file_is_refused_and_the_file_stays(job, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not a folder") as refused:
        job(cache={"dir": str(tmp_path / "mine.txt")})
    assert refused.value.where == "cache.dir"
    assert not (tmp_path / "run0").exists()
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_cache_without_permission_is_refused_before_training(job, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # tests may run as root, to whom everything is permitted
    with pytest.raises(RunError, match="no permission"):
        job()
    assert not (tmp_path / "run0").exists()


def test_a_damaged_cache_is_trained_and_measured_anew(job, tmp_path):
    first = job()
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff\x00garbage")
    again = job()
    assert again.summary["models"]["control"]["metrics"] == first.summary["models"]["control"]["metrics"]
    assert again.summary["models"]["student"]["metrics"] == first.summary["models"]["student"]["metrics"]
    (stored,) = (tmp_path / "cache/controls").iterdir()
    assert control.is_stored(stored), "the damaged control was not replaced"


def test_a_cache_without_room_for_the_control_costs_the_run_nothing(job, tmp_path, monkeypatch):
    copy = control.shutil.copytree

    def full(source, target, *rest, **settings):
        if "controls" in str(target):
            raise OSError(28, "No space left on device", str(target))
        return copy(source, target, *rest, **settings)

    monkeypatch.setattr(control.shutil, "copytree", full)
    run = job()
    assert "control" in run.summary["models"]
    assert any("can't be kept" in note for note in json.loads((run.path / "reasons.json").read_text())["notes"])


def test_a_disk_that_is_full_at_the_beginning_leaves_no_folder(job, tmp_path, monkeypatch):
    write = rundir.os.replace

    def full(source, target):
        if str(target).endswith("env.json"):
            raise OSError(28, "No space left on device", str(target))
        write(source, target)

    monkeypatch.setattr(rundir.os, "replace", full)
    with pytest.raises(RunError, match="the disk is full"):
        job()
    assert not (tmp_path / "run0").exists()


@pytest.mark.parametrize("name", ["a" * 300, "file/below", "link"])
def test_a_place_that_can_be_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError) as refused:
        RunDir(tmp_path / name).refuse_occupied()
    assert "out=FOLDER" in str(refused.value.fix)


def test_outputs_that_become_nan_name_the_training_that_they_belong_to(job):
    with pytest.raises(NumericsError, match=r"NaN|nan|inf") as stopped:
        job(train={"steps": 20, "optimizer": {"sgd": {"lr": 1e30}}, "precision": "fp32", "evaluate_every": 0.1})
    assert stopped.value.where == "training control"
    assert "learning rate" in str(stopped.value.fix)


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run that was interrupted while its student was trained."""

    class Impatient(Silent):
        def progress(self, progress):
            if progress.name == "student" and progress.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

    values = {
        "job": "distill",
        "data": {"source": "bundled:digits", "labels_per_class": 10},
        "teacher": {"source": "builtin:mlp", "options": {"widths": [16]}, "train": {"steps": 5, "batch_size": 64}},
        "student": {"source": "builtin:mlp", "options": {"widths": [8]}},
        "train": {"steps": 20, "precision": "fp32"},
        "cache": {"dir": str(tmp_path / "cache")},
        "out": str(tmp_path / "run"),
    }
    with pytest.raises(KeyboardInterrupt):
        transfuse.jobs.distill.run(from_values(values), Impatient())
    return tmp_path / "run"


def test_damaged_notes_and_figures_do_not_keep_a_run_from_going_on(stopped):
    (stopped / "reasons.json").write_text("{")
    (stopped / "ledger.json").write_text("[]")
    (stopped / "metrics.jsonl").write_bytes(b"")
    assert resume.resume(stopped).summary["models"]["student"]
    assert all(json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines())


def test_a_run_without_any_whole_checkpoint_says_that_it_starts_over(stopped):
    for path in (stopped / "checkpoints/student").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:100])
    run = resume.resume(stopped)
    assert any("starts over" in note for note in json.loads((run.path / "reasons.json").read_text())["notes"])


def test_a_damaged_teacher_of_a_run_is_named_with_what_helps(stopped):
    path = stopped / "teacher.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match="truncated") as refused:
        resume.resume(stopped)
    assert "delete teacher.safetensors and resume" in str(refused.value.fix)
    path.unlink()
    assert resume.resume(stopped).summary["models"]["student"]


def test_a_resolved_recipe_that_was_made_undecided_is_refused(stopped):
    path = stopped / "recipe.resolved.yaml"
    path.write_text(path.read_text().replace("precision: fp32", "precision: auto", 1))
    with pytest.raises(RunError, match="precision is auto"):
        resume.resume(stopped)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"objectives": [{"kd": {"temperature": 0}}]}, RecipeError, "temperature"),
        ({"objectives": [{"kd": {"weight": -1}}]}, RecipeError, "weight"),
        ({"objectives": ["kdd"]}, RecipeError, "did you mean 'kd'"),
        ({"train": {"steps": 0}}, RecipeError, "at least 1"),
        ({"train": {"epochs": -1}}, RecipeError, "greater than 0"),
        ({"train": {"optimizer": {"adamw": {"lr": -1}}}}, RecipeError, "lr"),
        ({"augment": {"views": 0}}, RecipeError, "views"),
        ({"studnt": "builtin:mlp"}, RecipeError, "did you mean 'student'"),
        ({"data": {"source": "bundled:digits", "size": 10**8}}, RecipeError, "size"),
        ({"student": {"source": "builtin:mpl"}}, ModelError, "did you mean"),
        ({"student": {"source": "builtin:mlp", "preprocess": {"size": 0}}}, ModelError, "preprocess.size"),
        ({"student": {"source": "builtin:mlp", "preprocess": {"std": [0.0]}}}, ModelError, "preprocess.std"),
        ({"teacher": {"source": "builtin:mlp"}}, ModelError, "no trained weights"),
        ({"data": "images:/nope/x"}, DataError, "there is no 'nope'"),
    ],
)
def test_a_wrong_recipe_leaves_no_folder(job, tmp_path, changes, error, words):
    with pytest.raises(error, match=words) as refused:
        job(**changes)
    assert isinstance(refused.value, TransfuseError)
    assert not (tmp_path / "run0").exists()


def test_a_teacher_of_another_split_of_the_same_data_is_named(job):
    first = job()
    run = job("data.split.seed=1", teacher=f"run:{first.path}#teacher")
    notes = json.loads((run.path / "reasons.json").read_text())["notes"]
    assert any("another split of bundled:digits" in note for note in notes)
    again = job(teacher=f"run:{first.path}#teacher")
    notes = json.loads((again.path / "reasons.json").read_text())["notes"]
    assert not any("another split" in note for note in notes)
    assert any("all answers came from the cache" in note for note in notes)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder with tables of 8, 5 and 1 columns and the run of a student of the first, which has a mean and std for each column."""
    folder = tmp_path_factory.mktemp("tables")
    values = np.random.default_rng(0).normal(size=(90, 8)).astype(np.float32)
    for columns in (8, 5, 1):
        parts = {
            f"{kind}_{part}": array[rows]
            for part, rows in (("train", slice(60)), ("test", slice(60, 90)))
            for kind, array in (("x", values[:, :columns]), ("y", (values[:, 0] > 0).astype(np.int64)))
        }
        np.savez(folder / f"{columns}.npz", **parts)
    learnt = {"data": f"arrays:{folder / '8.npz'}", "student": "builtin:mlp", "teacher": {"source": "builtin:mlp", "train": {"steps": 2}}}
    transfuse.distill(**learnt, train={"steps": 2}, control="none", out=folder / "run", cache={"dir": str(folder / "cache")})
    return folder


@pytest.mark.parametrize("columns", [5, 1])
@pytest.mark.parametrize(
    "words",
    [
        "eval run:{run}",
        "distill teacher=run:{run} student=builtin:mlp",
        "finetune model=run:{run}",
        "extract model=run:{run}",
        "export run:{run} target=onnx",
        "export {run} target=onnx",
        "fuse sources.a=run:{run} sources.b=run:{run}#teacher",
    ],
)
def test_data_of_another_width_than_the_model_meet_one_message_in_every_verb(tables, tmp_path, capsys, columns, words):
    asked = words.format(run=tables / "run").split()
    assert main.run([*asked, f"data=arrays:{tables / f'{columns}.npz'}", f"out={tmp_path / 'out'}"]) == 2
    assert f"the model takes 8 columns, the data have {columns}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_of_predictions_is_no_network_to_load(tmp_path):
    np.savez(tmp_path / "table.npz", ids=np.arange(5), probabilities=np.full((5, 2), 0.5))
    with pytest.raises(ModelError, match="no network") as refused:
        transfuse.load(f"predictions:{tmp_path / 'table.npz'}")
    assert refused.value.where == f"predictions:{tmp_path / 'table.npz'}"


@pytest.mark.parametrize("kind", [str, Path, Run])
def test_one_run_to_compare_is_taken_whole_and_not_letter_by_letter(tmp_path, kind):
    with pytest.raises(RunError) as refused:
        transfuse.compare(kind(str(tmp_path / "nowhere")))
    assert refused.value.where == str(tmp_path / "nowhere")
