"""Teachers whose answers have another form than the student's: one logit or two, other units, another normalisation."""

import numpy as np
import pytest
import torch
from torch import nn

import transfuse
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import DataRequest, Model, ModelRequest
from transfuse.jobs.parts.networks import as_binary, preprocess_of
from transfuse.jobs.prepare.refusals import one_answer
from transfuse.models import open_model, save_model
from transfuse.objectives import cross_entropy_loss, kd_loss
from transfuse.recipe.blocks import ModelBlock


def halves(count=300):
    """Two classes that a line parts, as (train, test)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 5, generator=generator)
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).long()
    return (x[: 2 * count // 3], y[: 2 * count // 3]), (x[2 * count // 3 :], y[2 * count // 3 :])


def knowing(outputs: int) -> nn.Linear:
    """A teacher that knows the line."""
    teacher = nn.Linear(5, outputs)
    with torch.no_grad():
        teacher.weight.zero_()
        teacher.bias.zero_()
        teacher.weight[-1, :2] = torch.tensor([4.0, 2.0])
    return teacher


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_one_logit_and_two_say_the_same_at_every_temperature(temperature):
    one, two = torch.randn(7, 1) * 5, torch.randn(7, 2) * 5
    assert torch.allclose((as_binary(one, 2) / temperature).softmax(-1)[:, 1:], (one / temperature).sigmoid(), atol=1e-6)
    assert torch.allclose((as_binary(two, 1) / temperature).sigmoid(), (two / temperature).softmax(-1)[:, 1:], atol=1e-6)
    bernoulli = kd_loss(one, as_binary(two, 1), temperature, "bernoulli")
    assert torch.allclose(kd_loss(as_binary(one, 2), two, temperature, "softmax"), bernoulli, rtol=1e-4, atol=1e-6)


def test_cross_entropy_of_one_logit_is_binary_cross_entropy():
    logits, labels = torch.randn(9, 1), torch.tensor([0, 1, -1, 1, 0, 1, 0, 0, 1])
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.clamp(min=0).float(), reduction="none")
    assert torch.allclose(cross_entropy_loss(logits, labels), torch.where(labels >= 0, expected, 0.0), atol=1e-6)


@pytest.mark.parametrize(("teacher_outputs", "student_outputs"), [(1, 1), (2, 1), (1, 2)])
def test_heads_of_one_logit_distil_from_end_to_end(tmp_path, teacher_outputs, student_outputs):
    torch.manual_seed(0)
    run = transfuse.distill(
        teacher=knowing(teacher_outputs),
        student=nn.Linear(5, student_outputs),
        data=halves(),
        train={"steps": 300, "optimizer": {"adamw": {"lr": 0.05}}, "select": "last"},
        out=tmp_path / "run",
        cache={"dir": str(tmp_path / "cache")},
    )
    assert run.student.out_features == student_outputs
    assert run.summary["teachers"]["teacher"]["metrics"]["accuracy"] > 0.95
    assert run.summary["models"]["student"]["metrics"]["accuracy"] > 0.9
    assert run.summary["models"]["control"]["metrics"]["accuracy"] > 0.85
    assert run.summary["transfer"]["agreement"] > 0.9
    resolved = (run.path / "recipe.resolved.yaml").read_text()
    assert ("bernoulli" if student_outputs == 1 else "softmax") in resolved


def test_a_table_of_regression_predictions_teaches_in_the_targets_own_units(job, tmp_path):
    data = transfuse.data.open_data("bundled:diabetes", DataRequest())
    parts = (data.train, data.val, data.test)
    shifted = torch.cat([part.labels for part in parts]).numpy() + 100  # a teacher that is always 100 too high
    np.savez(tmp_path / "table.npz", ids=np.concatenate([part.ids for part in parts]), outputs=shifted)
    run = job(
        "objectives=[logit_mse]",
        "control=none",
        data="bundled:diabetes",
        teacher=f"predictions:{tmp_path / 'table.npz'}",
        train={"steps": 300, "optimizer": {"adamw": {"lr": 0.01}}, "select": "last"},
    )
    assert run.summary["teachers"]["teacher"]["metrics"]["rmse"] == pytest.approx(100, rel=1e-4)
    with np.load(run.path / "predictions/student.npz") as said:
        assert (said["outputs"] - said["labels"]).mean() == pytest.approx(100, abs=20)


def test_a_live_teacher_with_a_normalisation_of_its_own_stays_as_it_was(tmp_path):
    seen = []

    class Watching(nn.Linear):
        def forward(self, input):
            seen.append(input.mean().item())
            return super().forward(input)

    teacher = Watching(5, 2).train()
    transfuse.distill(
        teacher={"source": teacher, "preprocess": {"mean": [1000.0]}},
        student={"source": nn.Linear(5, 2)},
        data=halves(60),
        train={"steps": 3},
        control="none",
        out=tmp_path / "run",
        cache={"dir": str(tmp_path / "cache")},
    )
    asked = [mean for mean in seen if abs(mean) > 1e-3]  # but for the probes that identify it, whose mean is 0
    assert asked
    assert all(mean == pytest.approx(-1000, rel=0.01) for mean in asked)
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_two_live_objectives_of_one_class_are_each_judged_by_their_card(tmp_path):
    run = transfuse.distill(
        student=nn.Linear(5, 2),
        data=halves(60),
        objectives=[transfuse.objectives.CrossEntropy(), (transfuse.objectives.CrossEntropy(smoothing=0.1), 0.5)],
        train={"steps": 3},
        control="none",
        out=tmp_path / "run",
        cache={"dir": str(tmp_path / "cache")},
    )
    assert run.summary["teachers"] == {}


def test_live_students_that_differ_in_what_has_no_weights_have_controls_of_their_own(tmp_path):
    def control(activation, dropout):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(5, 8), activation, nn.Dropout(dropout), nn.Linear(8, 2))
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        run = transfuse.distill(
            teacher=knowing(2), student=student, data=halves(60), train={"steps": 5}, out=out, cache={"dir": str(tmp_path / "cache")}
        )
        notes = (run.path / "reasons.json").read_text()
        return "control: reused" in notes

    assert not control(nn.ReLU(), 0.1)
    assert control(nn.ReLU(), 0.1)
    assert not control(nn.Tanh(), 0.1)
    assert not control(nn.ReLU(), 0.5)


def test_a_preprocess_without_a_scale_keeps_that_of_the_pictures():
    data = transfuse.data.open_data("bundled:digits", DataRequest())
    block = ModelBlock(source="live:Linear", preprocess={"mean": [0.5], "std": [0.5]})
    unscaled = preprocess_of(block, Model(nn.Linear(1, 1), "live:Linear"), data)
    assert unscaled.scale == data.preprocess.scale != 1
    own = preprocess_of(block, Model(nn.Linear(1, 1), "live:Linear", preprocess=Preprocess(scale=1 / 7)), data)
    assert own.scale == 1 / 7
    written = preprocess_of(ModelBlock(source="live:Linear", preprocess={"scale": 1.0}), Model(nn.Linear(1, 1), "live:Linear"), data)
    assert written.scale == 1.0


@pytest.mark.parametrize("constant", [True, False])
def test_a_teacher_with_one_answer_to_everything_is_said_before_training(constant):
    data = transfuse.data.open_data("bundled:digits", DataRequest())
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        teacher[1].bias[3] += 1e4 * constant
        teacher[1].weight.mul_(1 if constant else 100)
    said = one_answer("teacher", Model(teacher, "live:Sequential", preprocess=data.preprocess), data)
    assert (said is not None) == constant
    assert said is None or ("says '3' about all of 32 validation samples" in said and "preprocess" in said)


def test_a_single_logit_is_read_by_the_names_of_its_classes_in_every_verb(tmp_path):
    model = open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(5,), options={"widths": []}))
    with torch.no_grad():
        model.network.linear.weight.copy_(knowing(1).weight)
        model.network.linear.bias.zero_()
    model.preprocess = Preprocess()
    for name, classes in (("data", ["0", "1"]), ("other", ["1", "0"])):
        model.classes = classes
        save_model(model, tmp_path / f"{name}.safetensors", {})
    sources = {name: f"file:{tmp_path / name}.safetensors" for name in ("data", "other")}
    found = transfuse.eval(sources, {"source": halves()}, out=tmp_path / "eval").summary["models"]
    right = found["data"]["metrics"]["accuracy"]
    assert right > 0.95
    assert found["other"]["metrics"]["accuracy"] == pytest.approx(1 - right)
    run = transfuse.distill(
        halves(60),
        nn.Linear(5, 2),
        sources["other"],
        train={"steps": 2},
        control="none",
        out=tmp_path / "run",
        cache={"dir": str(tmp_path)},
    )
    assert run.summary["teachers"]["teacher"]["metrics"]["accuracy"] < 0.05
