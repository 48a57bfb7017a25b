"""Extraction on real data: features computed once, heads chosen on folds, one network that opens again, refusals, kills."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_diabetes
from torch import nn

import transfuse
from transfuse.cli.main import run as command
from transfuse.core.protocols import Silent
from transfuse.core.types import ModelRequest
from transfuse.errors import RecipeError, TransfuseError
from transfuse.jobs import check, distill, extract
from transfuse.jobs.context import Context
from transfuse.jobs.deliver import finish
from transfuse.jobs.parts import features
from transfuse.jobs.rundir import RunDir
from transfuse.models import open_model
from transfuse.recipe.load import dump, from_text, from_values

HEADS = {
    "linear_svm": {"penalty": 10.0},
    "ridge": {"penalty": [100.0, 1.0]},
    "linear": {"penalty": 1.0},
    "mlp": {"steps": 60, "hidden": [32], "weight_decay": 0.1, "lr": 0.01},
    "knn": {"neighbours": [5, 1]},
    "rbf_svm": {"penalty": 0.1, "gamma": 1.0},
    "random_forest": {"trees": 10, "least_in_leaf": 1},
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A network that has learnt a little about digits, as a run."""
    folder = tmp_path_factory.mktemp("pretrained")
    values = {
        "data": {"source": "bundled:digits", "split": {"seed": 7}},
        "student": "builtin:convnet",
        "objectives": ["cross_entropy"],
        "train": {"steps": 25, "batch_size": 64, "precision": "fp32", "optimizer": {"adamw": {"lr": 0.01}}},
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(finish, "report", lambda context: None)
        rest = {"job": "distill", "control": "none", "samples": False, "cache": {"dir": str(folder / "c")}, "out": str(folder / "run")}
        distill.run(from_values({**values, **rest}))
    return folder / "run"


@pytest.fixture
def values(pretrained, tmp_path):
    """A function from changes to the values of a small recipe; all runs of one test share a cache."""
    count = iter(range(100))

    def make(**changes):
        return {
            "job": "extract",
            "data": {"source": "bundled:digits", "labels_per_class": 8},
            "model": f"run:{pretrained}",
            "head": {"logistic": {"penalty": [100.0, 1.0]}},
            "control": "none",
            "map": "none",
            "cache": {"dir": str(tmp_path / "cache")},
            "samples": False,
            "out": str(tmp_path / f"run{next(count)}"),
            **changes,
        }

    return make


@pytest.fixture(autouse=True)
def without_page(request, monkeypatch):
    """Drawing takes longer than these jobs; one test looks at the page."""
    if "looks_at_the_page" not in request.fixturenames:
        monkeypatch.setattr(finish, "report", lambda context: None)


@pytest.fixture
def looks_at_the_page():
    """Asked for by the test of the page."""


def same_bits(one: Path, two: Path) -> bool:
    first, second = (load_file(folder / "student.safetensors") for folder in (one, two))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_second_run_computes_no_feature_and_has_the_same_bits(values, monkeypatch):
    first = extract.run(from_values(values(augment={"crop": 1, "views": 2})))
    assert first.summary["extract"]["computed"] == first.summary["teacher_forwards"] == 80 * 3
    assert first.summary["extract"]["rows"] == 80 * 3

    class Refusing(features.LiveTeacher):
        def asked(self, raw, counted):
            raise AssertionError("the network was asked again")

    monkeypatch.setattr(features, "LiveTeacher", Refusing)
    second = extract.run(from_values(values(augment={"crop": 1, "views": 2})))
    assert second.summary["extract"]["computed"] == second.summary["teacher_forwards"] == 0
    assert same_bits(first.path, second.path)
    other_head = extract.run(from_values(values(augment={"crop": 1, "views": 2}, head="knn")))
    assert other_head.summary["extract"]["computed"] == 0
    with pytest.raises(AssertionError, match="asked again"):
        extract.run(from_values(values(augment={"crop": 1, "views": 2, "seed": 1})))


def test_features_are_those_of_the_network_and_nothing_in_it_changes(values, pretrained):
    run = extract.run(from_values(values(head={"ridge": {"penalty": 1.0}})))
    before, after = load_file(pretrained / "student.safetensors"), load_file(run.path / "student.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"linear.weight", "linear.bias"}, "the backbone stays as it was, and the head stands where the last layer was"


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_shipped_as_one_network_that_opens_again(values, head):
    run = extract.run(from_values(values(head={head: HEADS[head]})))
    again = open_model(f"run:{run.path}", ModelRequest())
    inputs = torch.randn(4, 1, 8, 8)
    assert torch.allclose(again.network.eval()(inputs), run.student.eval()(inputs), atol=1e-5)
    assert again.classes == [str(digit) for digit in range(10)]
    kept = np.load(run.path / "predictions/student.npz")
    accuracy = float((kept["outputs"].argmax(1) == kept["labels"]).mean())
    assert accuracy == pytest.approx(run.summary["models"]["student"]["metrics"]["accuracy"])
    assert accuracy > 0.5
    assert run.summary["models"]["student"]["metrics"]["nll"] < 1.9, "margins and votes are made probabilities"
    notes = json.loads((run.path / "reasons.json").read_text())["notes"]
    assert any("no layer that exporters know" in note for note in notes) == (head in ("knn", "rbf_svm", "random_forest"))


@pytest.mark.parametrize("taps", ["stages.1", ["stages.0", "stages.2.norm", "linear@input"]])
@pytest.mark.parametrize("head", ["logistic", "mlp", "knn"])
def test_inner_features_and_components_are_shipped_as_one_network(values, taps, head):
    settings = {"mlp": {"steps": 2, "weight_decay": 0.1}}.get(head, {})
    run = extract.run(from_values(values(taps=taps, head={head: settings}, components=0.9)))
    about = run.summary["extract"]
    assert about["width"] == (32 if isinstance(taps, str) else 16 + 64 + 64)
    assert about["used"] < about["width"]
    assert about["explained"] >= 0.9
    again = open_model(f"run:{run.path}", ModelRequest())
    inputs = torch.randn(3, 1, 8, 8)
    assert torch.allclose(again.network.eval()(inputs), run.student.eval()(inputs), atol=1e-5)


def test_regression_is_reported_in_its_own_units_and_beats_the_mean(values, tmp_path):
    columns, target = load_diabetes(return_X_y=True)
    network = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 2))
    run = transfuse.extract(
        ((columns[:300], target[:300]), (columns[300:], target[300:])),
        network,
        head="ridge",
        out=tmp_path / "live",
        cache={"dir": str(tmp_path / "cache")},
        control="none",
        map="none",
        samples=False,
    )
    metrics = run.summary["models"]["student"]["metrics"]
    assert 40 < metrics["rmse"] < float(np.std(target[300:]))
    outputs = np.load(run.path / "predictions/student.npz")["outputs"]
    assert abs(outputs.mean() - target.mean()) < 20
    assert run.summary["extract"]["metric"] == "rmse"
    best = min(run.summary["extract"]["candidates"], key=lambda one: one["mean"])
    assert run.summary["extract"]["setting"] == best["setting"]


@pytest.mark.parametrize(("control", "named"), [("untrained", "random weights"), ("train", "from scratch")])
def test_the_control_has_none_of_the_weights(values, pretrained, control, named, looks_at_the_page):
    train = {"steps": 10, "batch_size": 32, "precision": "fp32"}
    run = extract.run(from_values(values(control=control, train=train, map="pca", data={"source": "bundled:digits"})))
    summary = run.summary
    assert summary["transfer"]["gain"] > 0
    before, after = load_file(pretrained / "student.safetensors"), load_file(run.path / "control/student.safetensors")
    assert not torch.equal(before["stages.0.conv.weight"], after["stages.0.conv.weight"])
    page, card = run.report.read_text(), (run.path / "README.md").read_text()
    for text in (page, card):
        assert "The control is the same" in text
        assert named in text
    assert "Feature extraction on bundled:digits" in page
    assert "first two principal components" in page
    assert "on held-out folds of the training part" in page
    assert "Features of 1,294 samples and views took" in page


def test_only_training_samples_choose_the_head(values, tmp_path):
    """Labels of validation and test part may be anything: the shipped bits are the same."""
    pictures = np.random.default_rng(0).integers(0, 255, (120, 8, 8)).astype(np.uint8)
    labels, runs = np.arange(120) % 3, []
    for number, other in enumerate((labels, (labels + 1) % 3)):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "set.npz"
        parts = {"x_train": pictures[:60], "y_train": labels[:60], "x_val": pictures[60:90], "x_test": pictures[90:]}
        np.savez(path, **parts, y_val=other[60:90], y_test=other[90:])
        runs.append(extract.run(from_values(values(data=f"arrays:{path}", head={"linear_svm": {}}))))
    assert same_bits(runs[0].path, runs[1].path)


def test_a_run_that_is_interrupted_while_it_chooses_goes_on_to_the_same_bits(values):
    class Impatient(Silent):
        def progress(self, progress):
            if progress.name == "head" and progress.step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    made = values(head={"ridge": {"penalty": [100.0, 1.0]}})
    before = signal.signal(signal.SIGINT, interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            extract.run(from_values(made), Impatient())
    finally:
        signal.signal(signal.SIGINT, before)
    scores = json.loads((Path(made["out"]) / "choice.json").read_text())["scores"]
    assert {len(folds) for folds in scores.values()} == {2}
    run = transfuse.resume(made["out"])
    whole = extract.run(from_values(values(head={"ridge": {"penalty": [100.0, 1.0]}})))
    assert same_bits(run.path, whole.path)
    assert run.summary["extract"]["candidates"] == whole.summary["extract"]["candidates"]


def test_damaged_features_are_computed_again(values, tmp_path):
    first = extract.run(from_values(values()))
    for path in (tmp_path / "cache/answers").rglob("*.rows"):
        content = bytearray(path.read_bytes())
        content[40] ^= 255
        path.write_bytes(bytes(content))
    again = extract.run(from_values(values()))
    assert 0 < again.summary["extract"]["computed"] <= 80
    assert same_bits(first.path, again.path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "builtin:convnet"}, "no trained weights"),
        ({"taps": "stages.9"}, "no module 'stages.9'"),
        ({"taps": ["stages.0", "stages.0"]}, "each once"),
        ({"head": "logstic"}, "did you mean 'logistic'"),
        ({"head": {"ridge": {"penalty": -1.0}}}, "penalty"),
        ({"choose": {"metric": "rmse"}}, "no metric 'rmse'"),
        ({"choose": {"folds": 1}}, "folds"),
        ({"data": {"source": "bundled:digits", "labels_per_class": 1}}, "single training sample"),
        ({"components": 0.0}, "components"),
        ({"augment": {"mixup": 0.2}}, "one label each"),
        ({"augment": {"crop": 1, "views": "fresh"}}, "once per view"),
        ({"augment": {"crop": 8}}, "crop"),
        ({"data": "bundled:diabetes"}, "the task is regression"),
        ({"data": "bundled:wine"}, "can't take inputs of shape|takes pictures"),
        ({"control": "nowhere"}, "not the folder of a finished run"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_written(values, changes, words):
    made = values(**changes)
    with pytest.raises(TransfuseError, match=words):
        extract.run(from_values(made))
    assert not Path(made["out"]).exists()


def test_several_processes_are_refused_at_the_beginning_and_later(values, monkeypatch):
    recipe = from_values(values())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="by one process"):
        extract.run(recipe)
    with pytest.raises(RecipeError, match="by one process"):
        extract.resume(Context(RunDir(recipe.out)), recipe)


def test_a_head_for_other_labels_is_refused_with_those_that_fit(tmp_path):
    columns, target = load_diabetes(return_X_y=True)
    with pytest.raises(TransfuseError, match="logistic is fitted to classification and multilabel, and the task is regression") as caught:
        transfuse.extract(((columns, target), (columns, target)), nn.Sequential(nn.Linear(10, 3)), out=tmp_path / "x")
    assert "ridge" in str(caught.value)


def test_more_components_than_columns_are_refused_in_words(values):
    with pytest.raises(TransfuseError, match="100 components of"):
        extract.run(from_values(values(components=100)))


def test_checking_writes_nothing_and_the_recipe_can_be_written_and_read(values, tmp_path):
    made = values()
    resolved, _ = check.run(from_values(made))
    assert not Path(made["out"]).exists()
    assert from_text(dump(resolved)) == resolved


def test_the_command_extracts_and_says_where(values, tmp_path, monkeypatch, capsys, looks_at_the_page):
    monkeypatch.chdir(tmp_path)
    made = values()
    arguments = ["data=bundled:digits", "data.labels_per_class=8", f"model={made['model']}", "head.knn.neighbours=[3,1]", "control=none"]
    assert command(["extract", *arguments, f"cache.dir={tmp_path / 'cache'}", "out=run"]) == 0
    captured = capsys.readouterr()
    assert "run folder: run" in captured.out
    assert "head: knn with neighbours" in captured.err
    assert command(["extract", *arguments, "taps=stages.9", "out=other"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
