"""Two labelled sets in one training: the forms of the source's weight, heads, refusals, kills, negative transfer by its name."""

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import transfuse
from transfuse.cli.main import run as command
from transfuse.core.protocols import Silent
from transfuse.errors import DataError, RecipeError, TransfuseError
from transfuse.jobs import check, together
from transfuse.jobs.deliver import finish
from transfuse.jobs.runner import runner_of
from transfuse.recipe.load import from_values
from transfuse.report import words

CLASSES = np.array([str(number) for number in range(10)])


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Digits moved by a pixel, and the first five of them under other names."""
    folder, bunch = tmp_path_factory.mktemp("sources"), load_digits()
    pictures, labels = np.roll(np.round(bunch.images * 160 / 16), 1, axis=2).astype(np.uint8)[:500], bunch.target[:500]
    np.savez(folder / "moved.npz", x=pictures, y=labels, classes=CLASSES)
    np.savez(folder / "letters.npz", x=pictures[labels < 5], y=labels[labels < 5], classes=np.array(["a", "b", "c", "d", "e"]))
    np.savez(folder / "wrong.npz", x=pictures, y=(labels + 3) % 10, classes=CLASSES)
    return folder


@pytest.fixture
def values(sources, tmp_path):
    """A function from changes to the values of a small recipe."""
    count = iter(range(100))

    def make(**changes):
        return {
            "job": "together",
            "source": f"arrays:{sources / 'moved.npz'}",
            "target": {"source": "bundled:digits", "labels_per_class": 4},
            "student": {"source": "builtin:mlp", "options": {"widths": [16], "dropout": 0.1}},
            "train": {"steps": 6, "batch_size": 32, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32"},
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


def lines(path, kind="train"):
    return [row for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if row["kind"] == kind]


def weights(path):
    return load_file(path / "student.safetensors")


def same_bits(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_source_of_weight_zero_is_the_control_to_the_bit(values):
    run = together.run(from_values(values(source_weight=0.0)))
    assert same_bits(weights(run.path), weights(run.path / "control"))
    other = together.run(from_values(values(source_weight=1.0)))
    assert not same_bits(weights(other.path), weights(other.path / "control"))
    assert same_bits(weights(run.path / "control"), weights(other.path / "control")), "the weight is no part of the control"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source_weight": 0.5}, lambda row: row["terms"]["target"] + 0.5 * row["terms"]["source"]),
        ({"source_weight": 0.5, "heads": "own"}, lambda row: row["terms"]["target"] + 0.5 * row["terms"]["source"]),
        (
            {"source_weight": {"linear": {"start": 1.0, "end": 0.0}}},
            lambda row: row["terms"]["target"] + (1 - (row["step"] - 1) / 6) * row["terms"]["source"],
        ),
        ({"source_weight": "uncertainty", "heads": "own"}, lambda row: row["terms"]["target"] + row["terms"]["source"]),
    ],
)
def test_the_loss_is_the_targets_plus_lambda_times_the_sources(values, changes, expected):
    run = together.run(from_values(values(control="none", **changes)))
    rows = lines(run.path)
    assert len(rows) == 6
    for row in rows:
        assert row["loss"] == pytest.approx(expected(row), rel=1e-4)
        assert math.isfinite(row["loss"])


def test_learnt_weights_move_and_are_told(values):
    run = together.run(from_values(values(control="none", source_weight="uncertainty", train={"steps": 20, "batch_size": 32})))
    learnt = run.summary["together"]["learnt_weights"]
    assert set(learnt) == {"target", "source"}
    assert all(weight > 0 and weight != 1 for weight in learnt.values())


def test_terms_may_give_way_to_each_other(values):
    train = {"steps": 4, "batch_size": 32, "gradients": "pcgrad", "precision": "fp32"}
    made = values(control="none", heads="own", train=train)
    plain = values(control="none", heads="own", train={**train, "gradients": "sum"})
    runs = [together.run(from_values(one)) for one in (made, plain)]
    assert not same_bits(weights(runs[0].path), weights(runs[1].path))


def test_validation_chooses_the_weight_and_the_chosen_student_is_shipped(values, looks_at_the_page):
    run = together.run(from_values(values(source_weight=[0.0, 0.3, 1.0], train={"steps": 12, "batch_size": 32, "precision": "fp32"})))
    about = run.summary["together"]
    scores = {one["source_weight"]: one["validation"]["accuracy"] for one in about["candidates"]}
    assert list(scores) == [0.0, 0.3, 1.0]
    assert about["source_weight"] == min(scores, key=lambda value: (-scores[value], value))
    kept = np.load(run.path / "predictions/student.npz")
    accuracy = float((kept["val_outputs"].argmax(1) == kept["val_labels"]).mean())
    assert accuracy == pytest.approx(scores[about["source_weight"]])
    chosen = load_file(run.path / "candidates" / f"source_weight_{about['source_weight']:g}.safetensors")
    assert same_bits(chosen, weights(run.path))
    page, card = run.report.read_text(), (run.path / "README.md").read_text()
    for text in (page, card):
        assert "trained on the target alone" in text
    assert "Source and target together" in page
    assert "against the source" in page


def test_sets_of_other_classes_and_sizes_have_heads_of_their_own(values, sources):
    made = values(source=f"arrays:{sources / 'letters.npz'}", control="none")
    run = together.run(from_values(made))
    notes = json.loads((run.path / "reasons.json").read_text())["notes"]
    assert any("one for each" in note and "only in the source: a, b, c" in note for note in notes)
    assert run.summary["together"]["heads"] == "own"
    assert "source_test" not in run.summary
    assert run.student(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert transfuse.load(run.path)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_several_labels_of_other_widths_are_learnt_from(tmp_path):
    generator = torch.Generator().manual_seed(0)

    def samples(columns):
        inputs = torch.randn(60, 5, generator=generator)
        return inputs, (inputs[:, :columns] > 0).float()

    def both(columns):
        return samples(columns), samples(columns)

    train = {"steps": 5, "batch_size": 16}
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    arguments = {"train": train, "control": "none", "cache": {"dir": str(tmp_path / "cache")}, "samples": False}
    run = transfuse.together(both(3), both(2), network, out=tmp_path / "run", **arguments)
    assert run.summary["task"] == "multilabel"
    assert run.student(torch.randn(2, 5)).shape == (2, 2)


def test_batches_hold_both_sets_by_share_or_by_size(values):
    shares = {}
    for share in (0.25, "size"):
        run = together.run(from_values(values(target_share=share, control="none", train={"steps": 1, "batch_size": 40})))
        shares[share] = next(note for note in json.loads((run.path / "reasons.json").read_text())["notes"] if note.startswith("each batch"))
    assert shares[0.25] == "each batch holds 30 source and 10 target samples; 1 steps"
    assert shares["size"] == "each batch holds 36 source and 4 target samples; 1 steps"


def test_harm_is_called_negative_transfer():
    block = {"metrics": {"accuracy": 0.5}, "samples": 100, "parameters": 5, "intervals": {}}
    summary = {
        "job": "together",
        "task": "classification",
        "primary": {"name": "accuracy", "higher_is_better": True},
        "models": {"student": block, "control": {**block, "metrics": {"accuracy": 0.8}}},
        "transfer": {"gain": -0.3, "gain_interval": [-0.4, -0.2]},
    }
    assert words.verdict(summary).sentence.startswith("Negative transfer: the student does worse than its control by 30.00 points")


def test_a_run_that_is_interrupted_goes_on_to_the_same_bits(values):
    class Impatient(Silent):
        def progress(self, progress):
            if progress.name == "source_weight_1" and progress.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    changes = {"source_weight": [0.0, 1.0], "train": {"steps": 6, "batch_size": 32, "precision": "fp32", "checkpoint_seconds": 0}}
    made = values(**changes)
    with pytest.raises(KeyboardInterrupt):
        together.run(from_values(made), Impatient())
    run = transfuse.resume(made["out"])
    whole = together.run(from_values(values(**changes)))
    assert same_bits(weights(run.path), weights(whole.path))
    assert run.summary["together"] == whole.summary["together"]
    assert (run.path / "metrics.jsonl").read_text() == (whole.path / "metrics.jsonl").read_text()


def test_the_targets_training_part_can_be_folded(values):
    recipe = from_values(values(validate={"folds": 2}, control="none", train={"steps": 2, "batch_size": 16, "precision": "fp32"}))
    run = runner_of(recipe).run(recipe)
    assert len(np.load(run.path / "out_of_fold/student.npz")["ids"]) == 40


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_weight": -0.5}, "-0.5 is negative"),
        ({"source_weight": [0.1, -1.0]}, "-1 is negative"),
        ({"source_weight": [0.1, 0.1]}, "twice"),
        ({"source_weight": []}, "source_weight"),
        ({"source_weight": "much"}, "source_weight"),
        ({"target_share": 1.5}, "target_share"),
        ({"target": "bundled:diabetes"}, "regression|columns"),
        ({"augment": {"mixup": 0.2}}, "the other"),
        ({"train": {"steps": 2, "batch_size": 1}}, "a batch of 1"),
        ({"target": "bundled:digitz"}, "digitz"),
        ({"control": "nowhere"}, "not the folder of a finished run"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_written(values, changes, words):
    made = values(**changes)
    with pytest.raises(TransfuseError, match=words):
        together.run(from_values(made))
    assert not Path(made["out"]).exists()


def test_clashing_class_names_are_shown_and_heads_of_their_own_offered(values, sources):
    with pytest.raises(DataError, match=r"only in the source: a, b, c, d, e.*a shared head needs the same ones") as caught:
        together.run(from_values(values(source=f"arrays:{sources / 'letters.npz'}", heads="shared")))
    assert "heads=own" in str(caught.value)


def test_classes_in_another_order_are_matched_by_name(values, sources, tmp_path):
    content, runs = dict(np.load(sources / "moved.npz")), []
    for name, labels, classes in (("same", content["y"], CLASSES), ("turned", 9 - content["y"], CLASSES[::-1])):
        cuts = {"train": slice(0, 300), "val": slice(300, 400), "test": slice(400, 500)}
        parts = {f"x_{part}": content["x"][cut] for part, cut in cuts.items()} | {f"y_{part}": labels[cut] for part, cut in cuts.items()}
        np.savez(tmp_path / f"{name}.npz", **parts, classes=classes)
        runs.append(together.run(from_values(values(control="none", source=f"arrays:{tmp_path / name}.npz"))))
    assert same_bits(weights(runs[0].path), weights(runs[1].path))


def test_checking_writes_nothing_and_decides_about_the_heads(values):
    made = values()
    recipe, _ = check.run(from_values(made))
    assert not Path(made["out"]).exists()
    assert recipe.heads == "shared"


def test_teachers_of_several_sources_become_one_network_that_then_learns_the_target(values, sources, tmp_path):
    """Three jobs, each of which opens the run of the one before."""
    shared = {"train": values()["train"], "cache": values()["cache"], "samples": False, "control": "none"}
    student = values()["student"]
    for name in ("moved", "wrong"):
        changes = {"job": "distill", "data": f"arrays:{sources / name}.npz", "objectives": ["cross_entropy"]}
        start({**shared, **changes, "student": student, "out": str(tmp_path / name)})
    teachers = {name: f"run:{tmp_path / name}" for name in ("moved", "wrong")}
    terms = [{"cross_entropy": {"weight": 0.2}}, {"kd": {"weight": 0.8, "teacher": ["moved", "wrong"]}}]
    changes = {"job": "distill", "data": {"source": "bundled:digits", "labels_per_class": 4}, "objectives": terms, "teachers": teachers}
    both = start({**shared, **changes, "student": student, "out": str(tmp_path / "both")})
    run = start(values(student=f"run:{both.path}", control="none"))
    assert run.summary["job"] == "together"
    before, after = weights(both.path), weights(run.path)
    apart = sum((before[key] - after[key]).norm() for key in before)
    assert 0 < apart < sum(before[key].norm() for key in before), "it went on from the network that both had taught"


def start(made):
    recipe = from_values(made)
    return runner_of(recipe).run(recipe)


def test_the_command_takes_a_list_of_weights(values, tmp_path, monkeypatch, capsys, sources):
    monkeypatch.chdir(tmp_path)
    arguments = [f"source=arrays:{sources / 'moved.npz'}", "target=bundled:digits", "student=builtin:mlp", "train.steps=2", "control=none"]
    assert command(["together", *arguments, "source_weight=[0,1]", "out=run", "samples=false"]) == 0
    assert "on the target's validation part" in capsys.readouterr().err
    assert command(["together", *arguments, "source_weight=-1", "out=other"]) == 2
    assert "-1 is negative" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="heads"):
        from_values(values(heads="both"))
