"""Trackers are told what metrics.jsonl is told; each adapter is tried on a stand-in of its package."""

import importlib.util
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from transfuse.cli.main import run as command
from transfuse.engine import trackers
from transfuse.errors import MissingExtra, RecipeError
from transfuse.jobs.tracking import Tracked, Trackers, flat, tell_summary
from transfuse.recipe.load import from_values


class Recorder:
    """Stands in for a package: remembers calls by name."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*given, **named):
            self.calls.append((name, given, named))
            return self

        return call


def as_module(name, monkeypatch, **content):
    module = ModuleType(name)
    module.__spec__ = importlib.util.spec_from_loader(name, None)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


LINES = [("student", {"train/loss": 1.5, "train/kd": 2.0}, 10), ("student", {"val/accuracy": 0.5}, 10), ("control", {"train/loss": 3.0}, 5)]


def tell(name, folder):
    tracker = trackers.open_tracker(name, folder)
    for line in LINES:
        tracker.log(*line)
    tracker.close()


def test_wandb_is_told_each_training_against_its_own_step(monkeypatch, tmp_path):
    run, begun = Recorder(), []
    as_module("wandb", monkeypatch, init=lambda **named: begun.append(named) or run)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    tell("wandb", tmp_path)
    assert begun == [{"project": "mine", "name": tmp_path.name, "dir": str(tmp_path)}]
    assert [call[1][0] for call in run.calls if call[0] == "define_metric"] == ["student/*", "control/*"]
    logged = [call[1][0] for call in run.calls if call[0] == "log"]
    assert logged[0] == {"student/step": 10, "student/train/loss": 1.5, "student/train/kd": 2.0}
    assert logged[2] == {"control/step": 5, "control/train/loss": 3.0}
    assert run.calls[-1][0] == "finish"


def test_trackio_is_told_the_same(monkeypatch, tmp_path):
    calls = Recorder()
    as_module("trackio", monkeypatch, init=calls.init, log=calls.log, finish=calls.finish)
    tell("trackio", tmp_path)
    assert calls.calls[0][2]["project"] == "transfuse"
    assert calls.calls[2][1][0] == {"student/step": 10, "student/val/accuracy": 0.5}
    assert calls.calls[-1][0] == "finish"


def test_mlflow_gets_one_run_with_steps(monkeypatch, tmp_path):
    client = Recorder()
    client.create_run = lambda experiment, tags, run_name: SimpleNamespace(info=SimpleNamespace(run_id="r1"))
    experiment = SimpleNamespace(experiment_id="7")
    as_module("mlflow", monkeypatch, MlflowClient=lambda: client, set_experiment=lambda **named: experiment)
    tell("mlflow", tmp_path)
    logged = [(call[1], call[2]) for call in client.calls if call[0] == "log_metric"]
    assert logged[0] == (("r1", "student/train/loss", 1.5), {"step": 10})
    assert logged[-1] == (("r1", "control/train/loss", 3.0), {"step": 5})
    assert client.calls[-1] == ("set_terminated", ("r1",), {})


def test_tensorboard_writes_event_files_that_can_be_read(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tell("tensorboard", tmp_path)
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert found.Scalars("student/train/loss")[0].value == 1.5
    assert found.Scalars("control/train/loss")[0].step == 5


def test_tensorboard_is_told_scalars(monkeypatch, tmp_path):
    writer, places = Recorder(), []
    as_module("torch.utils.tensorboard", monkeypatch, SummaryWriter=lambda log_dir: places.append(log_dir) or writer)
    tell("tensorboard", tmp_path)
    assert places == [str(tmp_path / "tensorboard")]
    assert writer.calls[0] == ("add_scalar", ("student/train/loss", 1.5, 10), {})
    assert writer.calls[-1][0] == "close"


def test_the_file_stays_as_it_is_and_a_tracker_that_fails_is_left_out(monkeypatch, tmp_path):
    said: list[str] = []
    told = Trackers(["wandb", "trackio"], tmp_path, said.append)
    calls = Recorder()
    as_module("trackio", monkeypatch, init=calls.init, log=calls.log, finish=calls.finish)

    def broken(**named):
        raise ConnectionError("the server\nis away")

    as_module("wandb", monkeypatch, init=broken)
    track = Tracked(tmp_path / "metrics.jsonl", "student", "", told)
    for step in (1, 2):
        track.write("train", {"step": step, "epoch": 0.5, "loss": 1.0, "terms": {"kd": 2.0, "bad": float("nan")}, "lr": 0.1})
    told.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert said == ["track: wandb failed and is left out from here: the server is away"]
    logged = [call[1][0] for call in calls.calls if call[0] == "log"]
    assert logged[1] == {
        "student/step": 2, "student/train/epoch": 0.5, "student/train/loss": 1.0, "student/train/kd": 2.0, "student/train/lr": 0.1,
    }  # fmt: skip


def test_test_figures_are_told_at_the_end(monkeypatch, tmp_path):
    calls = Recorder()
    as_module("trackio", monkeypatch, init=calls.init, log=calls.log, finish=calls.finish)
    tell_summary(Trackers(["trackio"], tmp_path, print), {"models": {"student": {"metrics": {"accuracy": 0.9, "auroc": None}}}})
    assert calls.calls[-1][1][0] == {"student/step": 0, "student/test/accuracy": 0.9}


def test_no_tracker_is_on_by_default_and_names_are_checked():
    values = {"job": "distill", "data": "bundled:digits", "teacher": "builtin:mlp", "student": "builtin:mlp"}
    assert from_values(values).track == []
    with pytest.raises(RecipeError, match="did you mean 'tensorboard'"):
        from_values({**values, "track": ["tensorbord"]})
    assert set(trackers.names()) == {"mlflow", "tensorboard", "trackio", "wandb"}


def test_a_missing_package_is_one_line_before_anything_is_written(monkeypatch, tmp_path, capsys):
    whole = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "wandb" else whole(name, *more))
    with pytest.raises(MissingExtra):
        trackers.require("wandb")
    models = ["teacher=builtin:mlp", "student=builtin:mlp"]
    status = command(["distill", "data=bundled:digits", *models, "track=[wandb]", f"out={tmp_path / 'r'}"])
    assert status == 2
    assert "track: [wandb] needs the package wandb" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_lines_numbers_are_named_after_their_kind():
    assert flat("val", {"step": 3, "metrics": {"accuracy": 0.5, "nll": float("inf")}}) == {"val/accuracy": 0.5}
