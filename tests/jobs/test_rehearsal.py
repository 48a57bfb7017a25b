"""Combinations that can't work are refused with exit code 2, at the objective's key, before a run folder is made."""

import re
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import transfuse
from transfuse.core.card import Card
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import ModelRequest
from transfuse.errors import RecipeError, TransfuseError
from transfuse.jobs import distill
from transfuse.jobs.context import Live
from transfuse.jobs.prepare import rehearsal
from transfuse.jobs.runner import runner_of
from transfuse.models import open_model, save_model
from transfuse.recipe.load import from_values

pytestmark = pytest.mark.usefixtures("without_runtime_types")

MLP = {"source": "builtin:mlp", "options": {"widths": [8, 8]}}
UNTRAINED = {"train": {"steps": 1}}  # by the run itself, which none of these gets to
VECTORS = {"data": "bundled:wine", "teacher": {**MLP, **UNTRAINED}, "student": MLP}
TWO = {**VECTORS, "data": "bundled:breast_cancer"}
MAPS = {"data": "bundled:digits", "teacher": {"source": "builtin:resnet8", **UNTRAINED}, "student": "builtin:resnet8"}
TOO_MANY = {"bss": {"k": 9, "student_tap": "layers.0"}}


def recipe_of(tmp_path, values, terms, train):
    return {
        "job": "distill",
        **values,
        "objectives": ["cross_entropy", *terms],
        "train": {"steps": 2, "precision": "fp32", **train},
        "cache": {"dir": str(tmp_path / "cache")},
        "out": str(tmp_path / "run"),
    }


def refused(tmp_path, values, terms, **train):
    recipe = from_values(recipe_of(tmp_path, values, terms, train))
    with pytest.raises(TransfuseError) as found:
        runner_of(recipe).run(recipe)
    assert not (tmp_path / "run").exists()
    assert found.value.exit_code == 2
    assert found.value.fix
    return found.value


def taps(student, teacher=None):
    return {"student_tap": student, "teacher_tap": teacher or student}


@pytest.mark.parametrize(
    ("values", "name", "settings", "train", "words"),
    [
        (TWO, "logit_standard", {}, {}, "two classes"),
        (TWO, "dist", {}, {}, "two classes"),
        (MAPS, "fsp", taps("layer1"), {}, "at least two of each"),
        (MAPS, "fsp", taps(["layer1", "layer2"], ["layer2", "layer3"]), {}, "same numbers of channels"),
        (VECTORS, "cwd", taps("layers.0"), {}, "no positions"),
        (VECTORS, "nst", taps("layers.0"), {}, "no positions|spatial"),
        (VECTORS, "attention_transfer", taps("layers.0"), {}, "no positions|spatial"),
        (VECTORS, "mgd", taps("layers.0"), {}, "no positions|spatial"),
        (MAPS, "ickd", {"form": "paper", **taps("layer1", "layer2")}, {}, "differ in size"),
        (VECTORS, "rkd", taps("layers.0"), {"batch_size": 2}, "batches of 3 or more"),
        (VECTORS, "pkt", {"form": "paper", **taps("layers.0")}, {"batch_size": 2}, "batches of 3 or more"),
        (VECTORS, "sp", taps("layers.0"), {"batch_size": 1}, "batches of 2 or more"),
        (VECTORS, "dist", {}, {"batch_size": 1}, "larger batch"),
        (VECTORS, "bss", {"k": 7, "student_tap": "layers.0"}, {"batch_size": 6}, "6 singular values"),
        (VECTORS, "rkd", taps("layers.0"), {"batch_size": 16, "accumulate": 8, "allow_batch_split": True}, "has 2 samples"),
    ],
)
def test_a_combination_that_cannot_work_leaves_no_folder(tmp_path, values, name, settings, train, words):
    error = refused(tmp_path, values, [{name: settings}], **train)
    assert error.where == f"objectives.{name}"
    assert re.search(words, error.what), error.what


def test_a_batch_that_is_too_small_is_told_from_a_method_that_cannot_work(tmp_path):
    small = refused(tmp_path, VECTORS, [{"sp": taps("layers.0")}], batch_size=1)
    assert "raise train.batch_size" in small.fix
    assert "raise train.batch_size" not in refused(tmp_path, TWO, ["dist"], batch_size=4).fix


def test_a_split_of_related_samples_leaves_no_folder(tmp_path):
    error = refused(tmp_path, VECTORS, [{"rkd": taps("layers.0")}], accumulate=2)
    assert "rkd relates all samples of a batch" in error.what
    assert "allow_batch_split" in error.fix


@pytest.fixture
def trained(tmp_path):
    """The files of two networks that count as trained, and a second data set of the same kind."""
    classes, found = ["class_0", "class_1", "class_2"], {}
    for seed, name in enumerate(["FILE", "OTHER"]):
        model = open_model("builtin:mlp", ModelRequest(outputs=3, input_shape=(13,), options={"widths": [8, 8]}, seed=seed))
        model.preprocess, model.classes, model.pretrained = Preprocess(), classes, True
        save_model(model, tmp_path / f"{name}.safetensors", {})
        found[name] = f"file:{tmp_path / name}.safetensors"
    inputs = np.random.default_rng(0).normal(size=(60, 13)).astype(np.float32)
    np.savez(tmp_path / "target.npz", x=inputs, y=np.arange(60) % 3, classes=np.array(classes))
    return {**found, "TARGET": f"arrays:{tmp_path / 'target.npz'}"}


JOBS = {
    "finetune": {"data": "bundled:wine", "model": "FILE"},
    "adapt": {"source": "bundled:wine", "target": "TARGET", "student": MLP, "objectives": ["mcc"]},
    "fuse": {"data": "bundled:wine", "sources": {"one": "FILE", "two": "OTHER"}, "how": ["distill"], "student": MLP},
    "born_again": {"data": "bundled:wine", "student": MLP},
    "assistants": {**VECTORS, "assistants": [MLP]},
    "sweep": {**VECTORS, "space": {"seed": [0, 1]}},
}


@pytest.mark.parametrize("job", JOBS)
def test_every_job_with_objectives_tries_them_first(tmp_path, trained, job):
    values = {key: trained.get(value, value) if isinstance(value, str) else value for key, value in JOBS[job].items()}
    if job == "fuse":
        values["sources"] = {name: trained[value] for name, value in values["sources"].items()}
    error = refused(tmp_path, {"job": job, **values}, [*values.get("objectives", []), TOO_MANY], batch_size=32)
    assert error.where == "objectives.bss"
    assert "singular values" in error.what


def test_the_student_of_a_fusion_is_tried_with_a_stand_in_for_what_is_fused(tmp_path, trained):
    values = {"job": "fuse", "data": "bundled:wine", "sources": {"one": trained["FILE"], "two": trained["OTHER"]}, "student": MLP}
    assert refused(tmp_path, {**values, "how": ["mean_probabilities"]}, ["dist"], batch_size=1).where == "objectives.dist"


class Counting(nn.Module):
    """An objective that draws random numbers, keeps count and notes how it was shown the step."""

    seen: ClassVar[list[tuple[float, int]]] = []

    def __init__(self):
        super().__init__()
        self.calls = nn.Parameter(torch.zeros(()))

    def forward(self, step):
        torch.rand(3)
        self.calls.data += 1
        self.seen.append((self.calls.item(), len(step.student.logits)))
        return (step.student.logits - step.teacher.logits).square().mean(1)


def test_trying_an_objective_changes_neither_it_nor_random_state(tmp_path, monkeypatch):
    objective = Counting()
    monkeypatch.setattr(objective, "card", Card("counting", needs=("teacher.logits",)), raising=False)
    before = []
    tried = rehearsal.refuse_impossible

    def noting(*arguments):
        before.append(torch.get_rng_state())
        tried(*arguments)
        before.append(torch.get_rng_state())
        raise RecipeError("enough")

    monkeypatch.setattr("transfuse.jobs.prepare.refusals.refuse_impossible", noting)
    values = recipe_of(tmp_path, VECTORS, ["live:Counting"], {})
    with pytest.raises(RecipeError, match="enough"):
        distill.run(from_values(values), live=Live(objectives={"live:Counting": objective}))
    assert torch.equal(*before)
    assert objective.calls.item() == 0
    assert Counting.seen == [(1.0, 2)]


class Attending(nn.Module):
    """One head over three tokens; gives what `weights` makes of the scores."""

    def __init__(self, weights):
        super().__init__()
        self.linear, self.inside, self.weights = nn.Linear(4, 3), nn.Identity(), weights

    def forward(self, inputs):
        tokens = inputs[:, :3, None]
        maps = self.inside(self.weights(tokens @ tokens.mT)[:, None])
        return self.linear(inputs) + maps.mean((1, 2, 3))[:, None]


def attending(tmp_path, weights, **settings):
    generator = torch.Generator().manual_seed(0)
    part = (torch.randn(30, 4, generator=generator), torch.arange(30) % 3)
    student, teacher = Attending(weights), Attending(weights)
    objectives = ["cross_entropy", {"attention_maps": settings}]
    return transfuse.distill(
        (part, part),
        student,
        teacher,
        objectives,
        train={"steps": 2},
        out=tmp_path / "run",
        cache={"dir": str(tmp_path / "c")},
        control="none",
    )


def test_attention_maps_learn_from_probabilities_alone(tmp_path):
    with pytest.raises(TransfuseError, match="gives no attention probabilities") as found:
        attending(tmp_path, torch.relu, **taps("inside"))
    assert found.value.where == "objectives.attention_maps"
    with pytest.raises(TransfuseError, match="can't be found by themselves"):
        attending(tmp_path, lambda scores: scores.softmax(-1))
    assert not (tmp_path / "run").exists()
    assert attending(tmp_path, lambda scores: scores.softmax(-1), **taps("inside")).summary["models"]["student"]


class OfGradients(nn.Module):
    """A loss that is made of gradients, as those that match Jacobians are."""

    card = Card("gradients", needs=())

    def forward(self, step):
        return torch.autograd.grad(step.student.logits.logsumexp(1).sum(), step.student.logits, create_graph=True)[0].square().sum(1)


def test_a_loss_made_of_gradients_is_left_to_the_training(tmp_path):
    inputs, labels = torch.rand(60, 4), torch.randint(0, 3, (60,))
    run = transfuse.distill(
        ((inputs[:40], labels[:40]), (inputs[40:], labels[40:])),
        nn.Linear(4, 3),
        objectives=["cross_entropy", OfGradients()],
        train={"steps": 2, "precision": "fp32"},
        control="none",
        cache={"dir": str(tmp_path / "cache")},
        out=tmp_path / "run",
    )
    assert run.summary["models"]["student"]["samples"] == 20
