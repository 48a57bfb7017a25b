"""A run that ships more than its student: bridge and teacher's head are trained, validated, saved, resumed and opened with it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import transfuse
from transfuse.core.protocols import Silent
from transfuse.engine.checkpoint import Checkpoints
from transfuse.errors import TransfuseError
from transfuse.jobs import distill, resume
from transfuse.jobs.context import Live
from transfuse.jobs.deliver import finish
from transfuse.recipe.load import from_values


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder with a run whose teacher is a CNN, and its last layer."""
    folder = tmp_path_factory.mktemp("teacher")
    block = {"source": "builtin:convnet", "train": {"steps": 40, "batch_size": 64}}
    run = distill.run(from_values(recipe(folder, "first", teacher=block, objectives=["cross_entropy", "kd"], train={"steps": 2})))
    state = load_file(run.path / "teacher.safetensors")
    return folder, run, (state["linear.weight"], state["linear.bias"])


@pytest.fixture(autouse=True)
def no_pages(monkeypatch):
    monkeypatch.setattr(finish, "report", lambda *arguments: None)


def recipe(folder, name, **changes):
    train = {"steps": 8, "precision": "fp32", "batch_size": 64, "optimizer": {"adamw": {"lr": 0.01}}, **changes.pop("train", {})}
    return {
        "job": "distill",
        "data": "bundled:digits",
        "student": {"source": "builtin:resnet8", "options": {"widths": [4, 4, 8, 16]}},
        "train": train,
        "cache": {"dir": str(folder / "cache")},
        "samples": False,
        "out": str(folder / name),
        **changes,
    }


def simkd(first, folder, name, **changes):
    changes = {"objectives": ["simkd"], "teacher": f"run:{first[1].path}#teacher", "control": "none", **changes}
    return from_values(recipe(folder, name, **changes))


def test_what_is_shipped_is_what_was_validated_and_opens_again(teacher, tmp_path):
    run = distill.run(simkd(teacher, tmp_path, "run", control="train", train={"ema": 0.5, "evaluate_every": 0.1}))
    state, control = load_file(run.path / "student.safetensors"), load_file(run.path / "control/student.safetensors")
    assert state["linear.0.weight"].equal(teacher[2][0])
    assert state["linear.0.bias"].equal(teacher[2][1])
    assert "linear.0.weight" not in control  # the control is the plain student
    opened = transfuse.load(run.path)
    inputs = torch.randn(5, 1, 8, 8)
    assert torch.equal(opened(inputs), run.student(inputs))
    assert run.summary["models"]["student"]["parameters"] == sum(value.numel() for value in opened.parameters())
    assert run.summary["models"]["student"]["parameters"] > run.summary["models"]["control"]["parameters"]
    kept = np.load(run.path / "predictions/student.npz")
    accuracy = float((kept["val_outputs"].argmax(1) == kept["val_labels"]).mean())
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    best = max(row["metrics"]["accuracy"] for row in rows if row["kind"] == "val" and row["run"] == "student")
    assert best == pytest.approx(accuracy)


class StopsAt(Silent):
    def __init__(self, step):
        self.step = step

    def progress(self, progress):
        if progress.name == "student" and progress.step >= self.step:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_bits_and_holds_the_head_once(teacher, tmp_path):
    train = {"checkpoint_seconds": 0, "ema": 0.5}
    whole = distill.run(simkd(teacher, tmp_path, "whole", objectives=["cross_entropy", "simkd"], train=train))
    with pytest.raises(KeyboardInterrupt):
        distill.run(simkd(teacher, tmp_path, "halved", objectives=["cross_entropy", "simkd"], train=train), StopsAt(4))
    content, _ = Checkpoints(tmp_path / "halved/checkpoints/student").load()
    assert content is not None
    held = [name for name, value in content["trained"].items() if value.shape == teacher[2][0].shape and value.equal(teacher[2][0])]
    assert held == ["student.linear.0.weight"]
    trained = [len(group["params"]) for group in content["optimizer"]["param_groups"]]
    assert sum(trained) == sum(1 for name, _ in whole.student.named_parameters() if not name.startswith("linear"))
    halved = resume.resume(tmp_path / "halved")
    one, other = (load_file(run.path / "student.safetensors") for run in (whole, halved))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_a_finished_training_is_opened_and_not_repeated(teacher, tmp_path):
    run = distill.run(simkd(teacher, tmp_path, "run"))
    before = load_file(run.path / "student.safetensors")
    (run.path / "summary.json").unlink()
    again = resume.resume(run.path)
    assert all(before[name].equal(value) for name, value in again.student.state_dict().items())


def test_what_was_shipped_teaches_the_next_one(teacher, tmp_path):
    run = distill.run(simkd(teacher, tmp_path, "first"))
    block = {"source": f"run:{run.path}"}
    second = distill.run(simkd(teacher, tmp_path, "second", teacher=block, train={"steps": 2}))
    assert load_file(second.path / "student.safetensors")["linear.0.weight"].equal(teacher[2][0])


def test_other_objectives_see_the_logits_that_are_shipped_and_the_features_of_before(teacher, tmp_path):
    objectives = ["cross_entropy", "simkd", "fitnet", "l2_sp"]
    first = distill.run(simkd(teacher, tmp_path, "first", objectives=["cross_entropy"], train={"steps": 1}))
    trained = {"source": f"run:{first.path}"}
    run = distill.run(simkd(teacher, tmp_path, "run", objectives=objectives, student=trained, train={"steps": 2}))
    rows = [json.loads(line)["terms"] for line in (run.path / "metrics.jsonl").read_text().splitlines() if '"terms"' in line]
    assert rows[0].keys() == {"cross_entropy", "simkd", "fitnet", "l2_sp"}


def test_networks_of_columns_ship_their_teachers_head_too(tmp_path):
    student, mentor = ({"source": "builtin:mlp", "options": {"widths": [width]}} for width in (8, 32))
    taps = {"student_tap": "linear@input", "teacher_tap": "linear@input"}
    changes = {"data": "bundled:breast_cancer", "student": student, "teacher": {**mentor, "train": {"steps": 20, "batch_size": 64}}}
    run = distill.run(from_values(recipe(tmp_path, "run", objectives=[{"simkd": taps}], control="none", **changes)))
    head, shipped = load_file(run.path / "teacher.safetensors"), transfuse.load(run.path).state_dict()
    assert shipped["linear.1.0.weight"].equal(head["linear.weight"])


class Headless(nn.Module):
    """Logits that no last layer makes."""

    def __init__(self):
        super().__init__()
        self.body, self.last = nn.Conv2d(1, 6, 3), nn.Linear(6, 10)

    def forward(self, inputs):
        return self.last(self.body(inputs).mean((2, 3))).log_softmax(-1)


@pytest.mark.parametrize("name", ["simkd", "cat_kd"])
def test_a_teacher_without_a_head_is_refused_before_training(teacher, tmp_path, name):
    objectives = ["cross_entropy", {name: {"teacher_tap": "body", "student_tap": "layer3"}}]
    values = recipe(tmp_path, "run", teacher="live:Headless", objectives=objectives)
    with pytest.raises(TransfuseError, match=rf"(?s)objectives\.{name}.*not linear"):
        distill.run(from_values(values), live=Live(teachers={"teacher": Headless()}))
    kept = np.load(teacher[1].path / "predictions/teacher.npz")
    np.savez(tmp_path / "table.npz", ids=kept["ids"], logits=kept["outputs"])
    with pytest.raises(TransfuseError, match=rf"(?s){name}.*the last layer of teacher 'teacher', which is a table"):
        distill.run(simkd(teacher, tmp_path, "run", teacher=f"predictions:{tmp_path / 'table.npz'}", objectives=["cross_entropy", name]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("objectives", "words"),
    [
        (["simkd", "simkd"], "each ship a network of their own"),
        ([{"simkd": {"student_tap": "layer2"}}], "student's 'layer2', averaged over positions, is not what"),
    ],
)
def test_what_cannot_be_shipped_is_refused_before_training(teacher, tmp_path, objectives, words):
    with pytest.raises(TransfuseError, match=words):
        distill.run(simkd(teacher, tmp_path, "run", objectives=objectives))
    assert not (tmp_path / "run").exists()


def test_an_objective_that_learns_the_last_layer_is_refused_beside_one_that_replaces_it(teacher, tmp_path):
    with pytest.raises(TransfuseError, match=r"cat_kd learns the weights of the student's last layer, in whose place simkd puts"):
        distill.run(simkd(teacher, tmp_path, "run", objectives=["simkd", "cat_kd"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["l2_sp", "ewc"])
def test_a_random_start_is_nothing_to_hold_on_to(teacher, tmp_path, name):
    with pytest.raises(TransfuseError, match=rf"objectives\.{name}.*near the weights it starts from, and those of .* are random"):
        distill.run(simkd(teacher, tmp_path, "run", objectives=["cross_entropy", name]))
    assert not (tmp_path / "run").exists()
