"""The distillation job, end to end on real data: what it leaves behind, what is reused, what each model is fed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import transfuse
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import DataError, ModelError, RecipeError, RunError
from transfuse.jobs.deliver import finish
from transfuse.models import open_model

from .conftest import lines


def weights(run, name="student"):
    return load_file(run.path / f"{name}.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_leaves_everything_that_the_folder_promises(job):
    run = job()
    for name in [
        "recipe.yaml",
        "recipe.resolved.yaml",
        "env.json",
        "metrics.jsonl",
        "summary.json",
        "student.safetensors",
        "student.json",
        "teacher.safetensors",
        "teacher.json",
        "control/student.safetensors",
        "control/metrics.jsonl",
        "predictions/student.npz",
        "predictions/teacher.npz",
        "predictions/control.npz",
        "samples/samples.npz",
        "report.html",
        "README.md",
    ]:
        assert (run.path / name).exists(), name
    assert {line["run"] for line in lines(run.path / "metrics.jsonl")} == {"teacher", "student"}
    summary = run.summary
    assert {"job", "task", "seed", "primary", "models", "teachers", "sources", "transfer", "teacher_forwards", "seconds"} <= summary.keys()
    for model in (summary["models"]["student"], summary["models"]["control"], summary["teachers"]["teacher"]):
        assert {"metrics", "intervals", "parameters", "macs", "bytes", "latency_ms"} <= model.keys()
    predictions = np.load(run.path / "predictions/student.npz")
    accuracy = (predictions["outputs"].argmax(1) == predictions["labels"]).mean()
    assert summary["models"]["student"]["metrics"]["accuracy"] == pytest.approx(accuracy)
    gain = summary["models"]["student"]["metrics"]["accuracy"] - summary["models"]["control"]["metrics"]["accuracy"]
    assert summary["transfer"]["gain"] == pytest.approx(gain)
    assert '"auto"' not in json.dumps(summary)


def test_the_student_opens_from_its_folder_and_predicts_what_was_recorded(job):
    run = job()
    model = open_model(f"run:{run.path}", ModelRequest())
    assert model.classes == [str(digit) for digit in range(10)]
    recorded = np.load(run.path / "predictions/student.npz")["outputs"]
    raw = torch.from_numpy(np.load(run.path / "samples/samples.npz")["inputs"])
    ids = np.load(run.path / "samples/samples.npz")["ids"].tolist()
    rows = [np.load(run.path / "predictions/student.npz")["ids"].tolist().index(name) for name in ids]
    with torch.no_grad():
        answers = model.network(model.preprocess(raw)).numpy()
    assert np.allclose(answers, recorded[rows], atol=1e-5)
    assert isinstance(transfuse.load(run.path), nn.Module)


def test_the_teacher_is_asked_once_per_sample_and_a_second_student_pays_nothing(job):
    first = job()
    teacher = f"run:{first.path}#teacher"
    pool = 1797 - 359  # all but the test part; validation and test are asked once each
    asked = first.summary["teacher_forwards"]
    assert asked == pool + 359
    second = job("seed=5", "train.batch_size=50", "student.options.widths=[12]", "objectives.kd.temperature=2", teacher=teacher)
    assert second.summary["teacher_forwards"] == 0
    third = job("augment.crop=1", teacher=teacher)  # other views: other questions
    assert third.summary["teacher_forwards"] > 0


def test_the_control_is_the_same_student_without_transfer_and_is_reused(job):
    first = job("objectives=[cross_entropy, kd]")
    reused = job("objectives=[{cross_entropy: {weight: 0.3}}, {kd: {temperature: 8}}]", teacher=f"run:{first.path}#teacher")
    assert same(weights(first, "control/student"), weights(reused, "control/student"))
    assert any("reused" in note for note in json.loads((reused.path / "reasons.json").read_text())["notes"])
    trained = job("control=train", teacher=f"run:{first.path}#teacher")
    assert same(weights(first, "control/student"), weights(trained, "control/student"))
    labels_only = job("objectives=[cross_entropy]", "control=none", teacher=f"run:{first.path}#teacher")
    assert same(weights(first, "control/student"), weights(labels_only))
    other = job("seed=1", teacher=f"run:{first.path}#teacher")
    assert not same(weights(first, "control/student"), weights(other, "control/student"))


def test_without_a_control_the_gain_is_null_with_a_reason(job):
    transfer = job("control=none").summary["transfer"]
    assert transfer["gain"] is None
    assert "control" in transfer["reasons"]["gain"]


def test_the_same_recipe_gives_the_same_bits(job):
    assert same(weights(job("train.ema=0.9")), weights(job("train.ema=0.9")))


def test_regression_distils_and_reports_in_the_targets_own_units(job):
    run = job(
        data="bundled:diabetes",
        teacher={"source": "builtin:mlp", "options": {"widths": [64]}, "train": {"steps": 200, "optimizer": {"adamw": {"lr": 0.003}}}},
        train={"steps": 300, "optimizer": {"adamw": {"lr": 0.01}}},
    )
    summary = run.summary
    assert summary["primary"] == {"name": "rmse", "higher_is_better": False}
    metrics = summary["models"]["student"]["metrics"]
    predictions = np.load(run.path / "predictions/student.npz")
    assert metrics["rmse"] == pytest.approx(np.sqrt(((predictions["outputs"] - predictions["labels"]) ** 2).mean()), rel=1e-6)
    assert 25 < predictions["outputs"].mean() < 346  # the range of the labels, not of standard deviations
    assert metrics["rmse"] < predictions["labels"].std()
    difference = summary["models"]["control"]["metrics"]["rmse"] - metrics["rmse"]
    assert summary["transfer"]["gain"] == pytest.approx(difference)


def test_multilabel_distils_with_a_bernoulli_kl(job, tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 6)).astype(np.float32)
    np.savez(tmp_path / "multi.npz", x=x, y=(x[:, :3] + 0.1 * generator.normal(size=(300, 3)) > 0).astype(np.int64))
    run = job("train.steps=150", data=f"arrays:{tmp_path / 'multi.npz'}")
    resolved = (run.path / "recipe.resolved.yaml").read_text()
    assert "bernoulli" in resolved
    assert "bce" in resolved
    assert run.summary["primary"]["name"] == "f1"
    assert run.summary["models"]["student"]["metrics"]["f1"] > 0.7
    with pytest.raises(RecipeError, match="softmax"):
        job("objectives.kd.distribution=softmax", data=f"arrays:{tmp_path / 'multi.npz'}")


def test_teacher_and_student_each_get_their_own_size_and_normalisation(job):
    seen = {}

    class Sized(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name, self.inner = name, nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.LazyLinear(10))
            self.inner(torch.zeros(1, 3 if name == "teacher" else 1, 8, 8))

        def forward(self, inputs):
            seen.setdefault(self.name, []).append((tuple(inputs.shape[1:]), inputs.min().item(), inputs.max().item()))
            return self.inner(inputs)

    live = transfuse.jobs.context.Live(student=Sized("student"), teachers={"teacher": Sized("teacher")})
    job(
        teacher={"source": "live:Sized", "preprocess": {"size": 16, "channels": 3, "scale": 1 / 255}},
        student={"source": "live:Sized", "preprocess": {"scale": 2 / 255, "mean": [1.0], "std": [1.0]}},
        live=live,
    )
    assert {shape for shape, _, _ in seen["teacher"]} == {(3, 16, 16)}
    assert {shape for shape, _, _ in seen["student"]} == {(1, 8, 8)}
    pictures = [low for _, low, high in seen["teacher"] if (low, high) != (-1.0, 1.0)]  # but for the probes that identify it
    assert pictures
    assert min(pictures) >= 0
    assert min(low for _, low, _ in seen["student"]) == pytest.approx(-1.0)


def test_a_table_of_predictions_teaches_the_samples_that_it_covers(job, tmp_path):
    first = job()
    digits = transfuse.data.open_data("bundled:digits", transfuse.core.types.DataRequest())
    half = digits.train.ids[::2]
    probabilities = np.full((len(half), 10), 0.01)
    probabilities[np.arange(len(half)), digits.train.labels.numpy()[::2]] = 0.91
    np.savez(tmp_path / "table.npz", ids=half, probabilities=probabilities)
    run = job("data.labels_per_class=null", teacher=f"predictions:{tmp_path / 'table.npz'}")
    assert run.summary["teacher_forwards"] == 0
    assert run.summary["teachers"]["teacher"]["parameters"] is None
    assert run.summary["models"]["student"]["metrics"]["accuracy"] > 0.3
    assert first.path != run.path


def test_a_table_with_gaps_is_refused_where_the_samples_of_a_batch_are_related(job, tmp_path):
    digits = transfuse.data.open_data("bundled:digits", transfuse.core.types.DataRequest())
    rows = digits.train.ids[1:]
    np.savez(tmp_path / "table.npz", ids=rows, probabilities=np.full((len(rows), 10), 0.1))
    pool = len(digits.train)
    with pytest.raises(RecipeError, match=f"has a prediction for only {pool - 1:,} of {pool:,} of them") as caught:
        job("data.labels_per_class=null", teacher=f"predictions:{tmp_path / 'table.npz'}", objectives=["cross_entropy", "dist"])
    assert caught.value.where == "objectives.dist"
    job("data.labels_per_class=null", teacher=f"predictions:{tmp_path / 'table.npz'}", objectives=["cross_entropy", "kd"])


def test_two_teachers_and_one_of_them_named(job):
    teachers = {
        name: {"source": "builtin:mlp", "options": {"widths": [width]}, "train": {"steps": 40}}
        for name, width in (("big", 64), ("wide", 96))
    }
    run = job("objectives=[cross_entropy, {kd: {teacher: big}}]", teachers=teachers)
    assert set(run.summary["teachers"]) == {"big", "wide"}
    assert (run.path / "teacher_big.safetensors").exists()


def test_the_budget_is_met_or_missed(job):
    budget = job("budget.bytes=100", "budget.latency_ms=1000").summary["budget"]
    assert budget["bytes"]["met"] is False
    assert budget["latency_ms"]["met"] is True


def test_ten_lines_of_python_distil_live_objects(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    y = (x @ torch.randn(5, 3, generator=generator)).argmax(1)
    teacher = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 3))
    student = nn.Linear(5, 3)
    before = student.weight.detach().clone()
    run = transfuse.distill(
        teacher=teacher,
        student=student,
        data=((x[:150], y[:150]), (x[150:], y[150:])),
        objectives=[transfuse.objectives.CrossEntropy(), (transfuse.objectives.KD(temperature=2.0), 0.5)],
        train={"steps": 20},
        out=tmp_path / "run",
        cache={"dir": str(tmp_path / "cache")},
    )
    assert type(run.student) is nn.Linear
    assert torch.equal(student.weight, before)
    assert not torch.equal(run.student.weight, before)
    assert "live:Linear" in (run.path / "recipe.resolved.yaml").read_text()
    assert run.report.exists()
    again = transfuse.distill(teacher=teacher, student=student, data=((x[:150], y[:150]), (x[150:], y[150:])), train={"steps": 20},
                              out=tmp_path / "again", cache={"dir": str(tmp_path / "cache")})  # fmt: skip
    assert again.summary["teacher_forwards"] == 0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"teacher": "builtin:mlp"}, ModelError, "no trained weights"),
        ({"teacher": "builtin:mpl"}, ModelError, "did you mean 'mlp'"),
        ({"student": {"source": "builtin:mlp", "options": {"width": 3}}}, ModelError, "width"),
        ({"data": "bundled:digit"}, DataError, "digits"),
        ({"data": "images:/nowhere/at/all"}, DataError, "nowhere"),
        ({"train": {"optimizer": {"adamw": {"lr": -1.0}}}}, RecipeError, "train.optimizer.adamw.lr"),
        ({"objectives": [{"kd": {"temperature": 0.0}}]}, RecipeError, "temperature"),
        ({"objectives": ["kdd"]}, RecipeError, "did you mean 'kd'"),
        ({"control": "/no/such/run"}, RecipeError, "control"),
    ],
)
def test_bad_input_is_refused_before_a_folder_is_made(job, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        job(**changes)
    assert not (tmp_path / "run0").exists()


def test_a_teacher_of_other_classes_is_refused_with_both_counts(job):
    first = job(data="bundled:wine")
    with pytest.raises(ModelError, match=r"(?s)3.*10|10.*3"):
        job(teacher=f"run:{first.path}")


def test_a_folder_that_holds_another_run_is_left_alone(job):
    run = job()
    before = (run.path / "summary.json").read_bytes()
    with pytest.raises(RunError, match="holds a finished run"):
        job(f"out={run.path}")
    assert (run.path / "summary.json").read_bytes() == before


def test_a_folder_without_permission_is_named(job, tmp_path, monkeypatch):
    import os

    (tmp_path / "closed").mkdir(mode=0o500)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(RunError, match="permission"):
        job(f"out={tmp_path / 'closed' / 'run'}")


def test_a_full_disk_is_one_message_and_older_files_stay(job, monkeypatch):
    import os

    run = job()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((RunError, ModelError), match=r"disk is full|No space left"):
        job(teacher=f"run:{run.path}#teacher")
    assert run.summary["job"] == "distill"


def test_an_objective_of_two_views_gets_them_or_is_refused(job):
    first = job()
    with pytest.raises(RecipeError, match="two views"):
        job("objectives=[cross_entropy, mlld]", teacher=f"run:{first.path}#teacher")
    run = job("objectives=[cross_entropy, mlld]", "augment.crop=1", teacher=f"run:{first.path}#teacher")
    terms = [line["terms"]["mlld"] for line in lines(run.path / "metrics.jsonl") if line["kind"] == "train" and line["run"] == "student"]
    assert terms[-1] < terms[0]


def test_several_teachers_answer_together(job):
    teachers = {
        name: {"source": "builtin:mlp", "options": {"widths": [64]}, "train": {"steps": steps}} for name, steps in (("a", 40), ("b", 60))
    }
    run = job("objectives=[{kd: {combine: logits}}, cross_entropy]", teachers=teachers)
    assert run.summary["transfer"]["teachers"].keys() == {"a", "b"}


def test_a_live_regression_teacher_predicts_in_the_targets_own_units(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=generator)
    y = 1000 + 50 * (x @ torch.randn(4, 1, generator=generator))
    teacher = nn.Linear(4, 1)
    solved = torch.linalg.lstsq(torch.cat([x, torch.ones(300, 1)], 1), y).solution
    with torch.no_grad():
        teacher.weight.copy_(solved[:4].T)
        teacher.bias.copy_(solved[4])
    run = transfuse.distill(
        data={"source": ((x[:200], y[:200]), (x[200:], y[200:])), "split": {"val": 0.2}},
        student=nn.Linear(4, 1), teacher=teacher, objectives=["logit_mse"], out=tmp_path / "run",
        train={"steps": 300, "optimizer": {"adamw": {"lr": 0.05}}}, cache={"dir": str(tmp_path / "cache")},
    )  # fmt: skip
    assert run.summary["teachers"]["teacher"]["metrics"]["rmse"] < 0.1
    assert run.summary["models"]["student"]["metrics"]["rmse"] < 5
    assert "val: 0.2" in (run.path / "recipe.resolved.yaml").read_text()


def test_a_trained_network_is_asked_on_the_device_of_the_process_and_comes_back(monkeypatch):
    class Travelling(nn.Linear):
        def to(self, device):
            travelled.append(str(device))
            return self

    travelled: list[str] = []
    monkeypatch.setattr("transfuse.engine.parallel.own_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(finish, "predict", lambda network, samples, preprocess, device: travelled.append(f"asked on {device}"))
    finish.asking(Model(Travelling(2, 2), "live:Travelling", preprocess=Preprocess()))(None)
    assert travelled == ["cuda:0", "asked on cuda:0", "cpu"]
