"""Jobs on folds: every training sample judged while it was held out, the test part left alone, one last run on all."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import transfuse
from transfuse.core.protocols import Silent
from transfuse.data import open_data
from transfuse.errors import RecipeError, TransfuseError
from transfuse.evaluate import metrics
from transfuse.jobs import check, folds, series
from transfuse.jobs.deliver import finish
from transfuse.jobs.runner import runner_of
from transfuse.recipe.load import from_text, from_values, load
from transfuse.report.series import shipped


@pytest.fixture(autouse=True)
def without_pages_of_runs(monkeypatch):
    """Drawing takes longer than these jobs; the parent's page is drawn."""
    monkeypatch.setattr(finish, "report", lambda context: None)


@pytest.fixture
def values(tmp_path):
    """A small distillation on three folds."""

    def make(**changes):
        return {
            "job": "distill",
            "data": {"source": "bundled:digits", "labels_per_class": 9},
            "student": {"source": "builtin:mlp", "options": {"widths": [8]}},
            "objectives": ["cross_entropy"],
            "train": {"steps": 8, "batch_size": 32, "optimizer": {"adamw": {"lr": 0.02}}, "precision": "fp32", "stop": {"patience": 3}},
            "control": "none",
            "validate": {"folds": 3},
            "samples": False,
            "cache": {"dir": str(tmp_path / "cache")},
            "out": str(tmp_path / "run"),
            **changes,
        }

    return make


def start(made, reporter=None):
    recipe = from_values(made)
    return runner_of(recipe).run(recipe, reporter)


def test_out_of_fold_answers_are_of_every_training_sample_once(values):
    run = start(values())
    summary = run.summary
    assert summary["series"] == "folds"
    assert [entry["name"] for entry in summary["runs"]] == ["fold_1", "fold_2", "fold_3", "refit"]
    data = open_data("bundled:digits", _request())
    kept = np.load(run.path / "out_of_fold/student.npz")
    assert sorted(kept["ids"].tolist()) == sorted(data.train.ids.tolist())
    assert np.bincount(kept["fold"]).tolist() == [0, 30, 30, 30]
    labels = dict(zip(data.train.ids.tolist(), data.train.labels.tolist(), strict=True))
    assert [labels[name] for name in kept["ids"].tolist()] == kept["labels"].tolist()
    accuracy = metrics.score("classification", "accuracy", kept["outputs"], kept["labels"])
    assert summary["out_of_fold"]["models"]["student"]["metrics"]["accuracy"] == pytest.approx(accuracy)
    each = [float((kept["outputs"].argmax(1) == kept["labels"])[kept["fold"] == number].mean()) for number in (1, 2, 3)]
    spread = summary["aggregate"]["models"]["student"]["metrics"]["accuracy"]
    assert (spread["n"], spread["mean"], spread["std"]) == (3, pytest.approx(np.mean(each)), pytest.approx(np.std(each, ddof=1)))
    page, card = run.report.read_text(), (run.path / "README.md").read_text()
    for text in (page, card):
        assert "each sample judged while it was held out" in text
        assert "which chose nothing" in text


def _request():
    from transfuse.core.types import DataRequest

    return DataRequest(labels_per_class=9)


def test_the_refit_is_the_plain_job_and_is_what_is_shipped(values, tmp_path):
    run = start(values())
    plain = start({**values(), "validate": None, "out": str(tmp_path / "plain")})
    weights = [load_file(folder / "student.safetensors") for folder in (run.path, run.path / "runs/refit", plain.path)]
    for key, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][key])
        assert torch.equal(tensor, weights[2][key])
    assert run.summary["models"]["student"]["metrics"] == plain.summary["models"]["student"]["metrics"]
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(transfuse.load(run.path)(inputs), plain.student.eval()(inputs))


def test_labels_of_the_test_part_change_nothing_but_the_refits_report(values, tmp_path):
    random = np.random.default_rng(0)
    pictures, labels, found = random.integers(0, 255, (90, 6, 6)).astype(np.uint8), np.arange(90) % 3, []
    for name, other in (("true", labels), ("wrong", (labels + 1) % 3)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "set.npz"
        np.savez(path, x_train=pictures[:60], y_train=labels[:60], x_test=pictures[60:], y_test=other[60:])
        run = start(values(data=f"arrays:{path}", out=str(tmp_path / name / "run"), cache={"dir": str(tmp_path / name / "cache")}))
        found.append((load_file(run.path / "student.safetensors"), run.summary["out_of_fold"]["models"]["student"]["metrics"]))
    assert all(torch.equal(found[0][0][key], found[1][0][key]) for key in found[0][0])
    assert found[0][1] == found[1][1]


def test_an_interrupted_series_goes_on_to_the_same_bits(values, tmp_path):
    class Impatient(Silent):
        def progress(self, progress):
            if progress.name == "fold_2 student" and progress.step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        start(values(), Impatient())
    assert not (tmp_path / "run/summary.json").exists()
    run = transfuse.resume(tmp_path / "run")
    whole = start(values(out=str(tmp_path / "whole")))
    for member in ("fold_1", "fold_2", "fold_3", "refit"):
        first, second = (load_file(folder / "runs" / member / "student.safetensors") for folder in (run.path, whole.path))
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert load(run.path / "recipe.resolved.yaml").validate.folds == 3
    assert load(run.path / "runs/refit/recipe.resolved.yaml").validate is None
    assert load(run.path / "runs/fold_2/recipe.resolved.yaml").data.split.fold.number == 2


def test_a_control_gives_a_gain_on_the_held_out_samples(values):
    teacher = {"source": "builtin:mlp", "options": {"widths": [32]}, "train": {"steps": 20, "batch_size": 32, "precision": "fp32"}}
    run = start(values(control="train", teacher=teacher, objectives=["cross_entropy", "kd"], validate={"folds": 2}))
    found = run.summary["out_of_fold"]
    kept = {name: np.load(run.path / f"out_of_fold/{name}.npz") for name in ("student", "control", "teacher")}
    accuracy = {name: float((one["outputs"].argmax(1) == one["labels"]).mean()) for name, one in kept.items()}
    assert found["transfer"]["gain"] == pytest.approx(accuracy["student"] - accuracy["control"])
    agreement = float((kept["student"]["outputs"].argmax(1) == kept["teacher"]["outputs"].argmax(1)).mean())
    assert found["transfer"]["agreement"] == pytest.approx(agreement)
    low, high = found["transfer"]["gain_interval"]
    assert low <= found["transfer"]["gain"] <= high


def test_seeds_and_folds_go_together(values):
    run = start(values(seeds=2, validate={"folds": 2}, train={"steps": 2, "batch_size": 32, "precision": "fp32"}))
    assert run.summary["series"] == "seeds"
    inner = json.loads((run.path / "runs/seed_1/summary.json").read_text())
    assert inner["series"] == "folds"
    assert run.summary["aggregate"]["models"]["student"]["metrics"]["accuracy"]["n"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"data": {"source": "bundled:digits", "labels_per_class": 1}},
            r"these classes have a single training sample: 0, 1.*nothing of its class",
        ),
        ({"validate": {"folds": 91}}, "90 samples can't be put into 91 folds"),
        ({"objectives": ["kd"]}, "needs a teacher"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_written(values, changes, words):
    with pytest.raises(TransfuseError, match=words):
        start(values(**changes))
    assert not Path(values()["out"]).exists()


@pytest.mark.parametrize("given", ["validate: {folds: 1}", "validate: 5"])
def test_what_is_no_number_of_folds_is_refused(given):
    with pytest.raises(RecipeError, match="validate"):
        from_text(f"job: distill\ndata: bundled:digits\nstudent: builtin:mlp\n{given}\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("job: fuse\ndata: bundled:digits\nsources: {a: run:a, b: run:b}\n", "sources are trained already"),
        ("job: eval\nmodels: {a: run:a}\n", "nothing is trained here"),
    ],
)
def test_jobs_of_which_folds_would_say_nothing_say_why(text, why):
    with pytest.raises(RecipeError, match=why):
        from_text(f"{text}validate: {{folds: 3}}\n")


TRAIN = {"steps": 2, "batch_size": 32, "precision": "fp32"}
TEACHER = {"source": "builtin:mlp", "options": {"widths": [16]}, "train": TRAIN}
KINDS = {
    "born_again": {"generations": 1},
    "assistants": {"teacher": TEACHER, "assistants": [{"source": "builtin:mlp", "options": {"widths": [12]}}], "plain": False},
    "sweep": {"teacher": TEACHER, "objectives": ["cross_entropy", "kd"], "space": {"objectives.kd.temperature": [1, 4]}},
}


@pytest.fixture
def without_pages_of_series(monkeypatch):
    """A series on each fold has a page, too."""
    monkeypatch.setattr(series.series_page, "write", lambda path: None)
    monkeypatch.setattr(series.series_card, "write", lambda path: None)


@pytest.mark.parametrize("job", list(KINDS))
def test_a_job_of_several_runs_is_run_whole_on_each_fold(job, values, without_pages_of_series):
    changes = {"job": job, "train": TRAIN, "validate": {"folds": 2}, "data": {"source": "bundled:digits", "labels_per_class": 4}}
    run = start({key: value for key, value in values(**changes, **KINDS[job]).items() if job == "sweep" or key != "objectives"})
    kept = np.load(run.path / "out_of_fold/student.npz")
    assert len(set(kept["ids"].tolist())) == len(kept["ids"]) == 40
    inner = json.loads((run.path / "runs/fold_1/summary.json").read_text())
    assert inner["series"] == {"born_again": "generations", "assistants": "chain", "sweep": "sweep"}[job]
    answering = run.path / "runs/fold_1" / shipped(inner) / "predictions/student.npz"
    assert np.array_equal(np.load(answering)["outputs"], kept["outputs"][kept["fold"] == 1])
    assert run.summary["out_of_fold"]["models"]["student"]["samples"] == 40
    weights = [load_file(run.path / place / "student.safetensors") for place in (".", "runs/refit")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.fixture
def adaptation(values, tmp_path):
    """A function from the target's training labels to a small adaptation on two folds."""
    random = np.random.default_rng(0)

    def make(labels):
        pictures = random.integers(0, 255, (90, 8, 8)).astype(np.uint8)
        parts = {"x_train": pictures[:60], "y_train": labels, "x_test": pictures[60:], "y_test": np.arange(30) % 10}
        np.savez(tmp_path / "target.npz", **parts, classes=np.array([str(number) for number in range(10)]))
        made = values(job="adapt", train=TRAIN, validate={"folds": 2})
        kept = {key: value for key, value in made.items() if key not in ("data", "objectives")}
        return {**kept, "source": "bundled:digits", "target": f"arrays:{tmp_path / 'target.npz'}"}

    return make


def test_an_adaptation_has_folds_of_its_target(adaptation):
    run = start(adaptation(np.arange(60) % 10))
    kept = np.load(run.path / "out_of_fold/student.npz")
    assert len(set(kept["ids"].tolist())) == 54, "the target's training part without its validation samples"
    recipe = load(run.path / "runs/fold_2/recipe.resolved.yaml")
    assert recipe.target.split.fold.number == 2
    assert recipe.source.split.fold is None


def test_a_target_without_labels_has_nothing_to_judge_a_fold_by(adaptation):
    made = adaptation(np.full(60, -1))
    with pytest.raises(TransfuseError, match="nothing to judge a fold by"):
        start(made)
    assert not Path(made["out"]).exists()


def test_heads_of_other_tasks_are_shipped_with_the_refit(values, tmp_path):
    random = np.random.default_rng(0)
    source = tmp_path / "letters.npz"
    np.savez(source, x=random.integers(0, 255, (90, 8, 8)).astype(np.uint8), y=np.arange(90) % 3, classes=np.array(["a", "b", "c"]))
    made = values(job="together", train=TRAIN, validate={"folds": 2}, target=values()["data"], sources={"letters": f"arrays:{source}"})
    run = start({key: value for key, value in made.items() if key not in ("data", "objectives")})
    inputs = torch.randn(2, 1, 8, 8)
    parent, refit = (transfuse.load(f"run:{path}#head:letters") for path in (run.path, run.path / "runs/refit"))
    assert parent(inputs).shape == (2, 3)
    assert torch.equal(parent(inputs), refit(inputs))


def test_checking_writes_nothing_and_decides_the_whole_recipe(values, tmp_path):
    recipe, reasons = check.run(from_values(values()))
    assert not (tmp_path / "run").exists()
    assert recipe.validate.folds == 3
    assert recipe.data.split.fold is None
    assert recipe.data.size == 8
    assert "data.size" in reasons
    assert len(folds.members(recipe)) == 4
