"""Students that begin with another network's weights: what is said, kept, repeated, compared with and refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.protocols import Silent
from transfuse.core.types import DataRequest, Model, ModelRequest, Target
from transfuse.data import open_data
from transfuse.errors import ModelError, RecipeError
from transfuse.jobs import check, distill, resume
from transfuse.jobs.context import Context, Live
from transfuse.jobs.parts.initialisation import bare, initialise
from transfuse.jobs.parts.networks import open_student, rescaling
from transfuse.jobs.rundir import RunDir
from transfuse.models import load_weights, open_model, save_model
from transfuse.models.classes import Rescaled
from transfuse.recipe.load import from_values

from .test_distill import same, weights


class Recorder(Silent):
    """Keeps what is said; interrupts a training at a step where asked."""

    def __init__(self, stop_at=None):
        self.said, self.stop_at = [], stop_at

    def say(self, text):
        self.said.append(text)

    def progress(self, progress):
        if self.stop_at is not None and progress.name == "student" and progress.step >= self.stop_at:
            raise KeyboardInterrupt


def values(tmp_path, out, init, **changes):
    teacher = {"source": "builtin:mlp", "options": {"widths": [48]}, "train": {"steps": 120, "batch_size": 64}}
    return {
        "job": "distill",
        "data": {"source": "bundled:digits", "labels_per_class": 20},
        "teacher": teacher,
        "student": {"source": "builtin:mlp", "options": {"widths": [12]}, "init": init},
        "train": {"steps": 20, "precision": "fp32", "checkpoint_seconds": 0},
        "cache": {"dir": str(tmp_path / "cache")},
        "out": str(tmp_path / out),
        **changes,
    }


def test_the_student_begins_with_the_teachers_neurons_and_the_control_does_not(tmp_path):
    recorder = Recorder()
    run = distill.run(from_values(values(tmp_path, "a", "select")), recorder)
    told = json.loads((run.path / "initialisation.json").read_text())
    assert told["how"] == "select"
    assert {row["kind"] for row in told["rows"]} == {"selected", "copied"}
    [line] = [text for text in recorder.said if "begins with weights of builtin:mlp (select)" in text]
    assert "linear.weight" in line
    assert "10x12 of 10x48" in line
    assert run.summary["transfer"]["gain"] > 0.1
    again = Recorder()
    plain = distill.run(from_values(values(tmp_path, "b", None)), again)
    assert same(weights(run, "control/student"), weights(plain, "control/student"))
    assert any(text.startswith("control: reused") for text in again.said)  # the same network from a random start


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    whole = distill.run(from_values(values(tmp_path, "whole", {"project": {"by": "random"}})))
    recipe = from_values(values(tmp_path, "stopped", {"project": {"by": "random"}}))
    with pytest.raises(KeyboardInterrupt):
        distill.run(recipe, Recorder(stop_at=8))
    resume.resume(tmp_path / "stopped")
    assert same(weights(whole), load_file(tmp_path / "stopped" / "student.safetensors"))


def test_a_check_prints_the_table_and_writes_nothing(tmp_path):
    recorder = Recorder()
    check.run(from_values(values(tmp_path, "a", {"select": {"by": "uniform"}})), recorder)
    assert any("begins with weights" in text and "selected" in text for text in recorder.said)
    assert not (tmp_path / "a").exists()


def test_another_networks_weights_bring_its_way_with_inputs_to_the_student_and_the_control(tmp_path):
    source = open_model("builtin:mlp", ModelRequest(outputs=10, input_shape=(1, 8, 8), options={"widths": [12]}))
    source.preprocess = Preprocess(scale=0.05, mean=(1.0,), std=(2.0,))
    save_model(source, tmp_path / "m.safetensors", {})
    recipe = from_values(values(tmp_path, "a", {"copy": {"source": f"file:{tmp_path}/m.safetensors"}}))
    data = open_data("bundled:digits", DataRequest())
    student = open_student(recipe.student, data, 0, None)
    assert student.preprocess == source.preprocess
    assert not torch.equal(student.network.linear.weight, source.network.linear.weight)  # the control is this network, as it is
    moved = initialise(Context(RunDir(tmp_path / "a")), recipe.student, data, student, 0)
    assert moved.share == 1.0
    assert torch.equal(student.network.linear.weight, source.network.linear.weight)
    assert student.pretrained


def test_rows_of_the_last_layer_are_in_the_order_of_the_datas_classes(tmp_path):
    source = open_model("builtin:mlp", ModelRequest(outputs=10, input_shape=(1, 8, 8), options={"widths": [12]}))
    source.classes = [str(digit) for digit in reversed(range(10))]
    save_model(source, tmp_path / "m.safetensors", {})
    recipe = from_values(values(tmp_path, "a", {"copy": {"source": f"file:{tmp_path}/m.safetensors"}}))
    data = open_data("bundled:digits", DataRequest())
    student = open_student(recipe.student, data, 0, None)
    initialise(Context(RunDir(tmp_path / "a")), recipe.student, data, student, 0)
    assert torch.equal(student.network.linear.weight, source.network.linear.weight.flip(0))
    assert torch.equal(student.network.linear.bias, source.network.linear.bias.flip(0))


def test_targets_in_another_scaling_become_part_of_the_last_layer():
    inner = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)).eval()
    given, wanted = Target(["y"], [3.0], [2.0]), Target(["y"], [-1.0], [5.0])
    around = Rescaled(inner, *rescaling(given, wanted)).eval()
    part = (torch.randn(30, 4), torch.randn(30))
    data = open_data((part, part), DataRequest())
    network = bare(Model(around, "x", preprocess=data.preprocess), data)
    shown = torch.randn(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(network(shown), around(shown))


@pytest.mark.parametrize(
    ("init", "error", "words"),
    [
        (
            {"copy": {"source": "builtin:convnet"}},
            ModelError,
            ["too little of builtin:convnet fits builtin:mlp", "the source has no", "left"],
        ),
        ({"copy": {"source": "teachr"}}, ModelError, ["teachr"]),
        ({"copy": {"source": {"sauce": "x"}}}, RecipeError, ["is no model"]),
        ({"copy": {"source": "run:/nowhere"}}, ModelError, ["no such run folder"]),
    ],
)
def test_what_cannot_be_a_source_is_said_before_training(tmp_path, init, error, words):
    with pytest.raises(error) as caught:
        distill.run(from_values(values(tmp_path, "a", init)))
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_of_several_teachers_one_has_to_be_named(tmp_path):
    teacher = {"source": "builtin:mlp", "options": {"widths": [24]}, "train": {"steps": 10}}
    several = values(tmp_path, "a", "select", teachers={"one": teacher, "two": teacher})
    several.pop("teacher")
    with pytest.raises(RecipeError, match="whose weights") as caught:
        distill.run(from_values(several))
    assert "one, two" in str(caught.value)


@pytest.mark.parametrize(("init", "word"), [("selct", "did you mean 'select'"), ({"select": {"by": "size"}}, "uniform")])
def test_an_unknown_way_is_refused_with_those_that_are_known(tmp_path, init, word):
    with pytest.raises(RecipeError, match=word):
        from_values(values(tmp_path, "a", init))


@pytest.mark.parametrize(
    ("student", "head", "inside"),
    [
        ({"source": "builtin:mlp", "options": {"widths": [12]}}, {"mlp": {"widths": [9]}}, "linear.2.weight"),
        ({"source": "builtin:convnet", "options": {"widths": [4, 6]}}, {"conv": {"channels": 5}}, "stages.1.1.0.weight"),
        ({"source": "builtin:convnet", "options": {"widths": [4, 6]}}, {"fusion": {"taps": ["stages.0"]}}, "linear.2.weight"),
        ({"source": "builtin:mlp", "options": {"widths": [12]}}, "linear", "linear.weight"),
    ],
    ids=["mlp", "conv", "fusion", "linear"],
)
def test_a_student_with_a_head_of_another_form_is_saved_and_opened_again(tmp_path, student, head, inside):
    recipe = from_values(values(tmp_path, "a", None, student={**student, "head": head}))
    model = open_student(recipe.student, open_data("bundled:digits", DataRequest()), 0, None)
    shown = torch.randn(32, 1, 8, 8)
    model.network.train()(shown)  # statistics of its own
    save_model(model, tmp_path / "m.safetensors", {})
    assert inside in model.network.state_dict()
    again = open_model(f"file:{tmp_path}/m.safetensors").network
    with torch.no_grad():
        assert torch.equal(again(shown), model.network.eval()(shown))
    wider = open_model(f"file:{tmp_path}/m.safetensors", ModelRequest(outputs=4))  # whose head is replaced once more
    save_model(wider, tmp_path / "wider.safetensors", {})
    with torch.no_grad():
        assert torch.equal(open_model(f"file:{tmp_path}/wider.safetensors").network(shown), wider.network(shown))
        assert wider.network(shown).shape == (32, 4)


def test_a_student_is_trained_with_a_head_over_several_stages(tmp_path):
    student = {"source": "builtin:convnet", "options": {"widths": [4, 6]}, "head": {"fusion": {"taps": ["stages.0"]}}}
    run = distill.run(from_values(values(tmp_path, "a", None, student=student, control="none")))
    shown = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(open_model(f"run:{run.path}").network(shown), run.student(shown))


class Unfindable(nn.Module):
    """Its classes are made by a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.body, self.prototypes = nn.Linear(64, 8), nn.Parameter(torch.rand(8, 10))

    def forward(self, inputs):
        return self.body(inputs.flatten(1)) @ self.prototypes


class Pair(nn.Module):
    """Answers with logits and features."""

    def __init__(self):
        super().__init__()
        self.body, self.classify = nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, inputs):
        hidden = torch.relu(self.body(inputs.flatten(1)))
        return {"features": hidden, "logits": self.classify(hidden)}


def test_a_head_that_is_not_found_is_said_with_the_candidates(tmp_path):
    recipe = from_values(values(tmp_path, "a", None, student={"source": "live:Unfindable", "head": "linear"}))
    with pytest.raises(ModelError, match="can't find the last layer") as caught:
        distill.run(recipe, live=Live(student=Unfindable()))
    assert "body (Linear 64 -> 8)" in str(caught.value)
    assert caught.value.where == "student.head"
    assert not (tmp_path / "a").exists()


def test_a_network_that_answers_with_several_things_learns_by_its_logits(tmp_path):
    recipe = from_values(values(tmp_path, "a", None, student={"source": "live:Pair", "head": "linear"}, control="none"))
    run = distill.run(recipe, live=Live(student=Pair()))
    assert run.student(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    again = Pair().eval()
    load_weights(again, run.path / "student.safetensors")
    shown = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(shown)["logits"], run.student(shown))
