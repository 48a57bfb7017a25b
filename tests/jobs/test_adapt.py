"""Adaptation on real data: every objective on domains in a job, what the target's labels are used for, kills, refusals, processes."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import transfuse
from transfuse import objectives
from transfuse.core.protocols import Silent
from transfuse.errors import DataError, RecipeError, RunError, TransfuseError
from transfuse.jobs import adapt, check, resume
from transfuse.jobs.context import Live
from transfuse.jobs.deliver import finish
from transfuse.recipe.load import dump, from_text, from_values, load

from .conftest import NO_GPU

DOMAINS = [name for name in objectives.names() if "domains" in objectives.card(name).needs]
CLASSES = np.array([str(number) for number in range(10)])
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["transfuse.jobs.adapt", "transfuse.jobs.resume"])


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """Digits moved by a pixel, some of them dimmed: the same classes from elsewhere."""
    bunch = load_digits()
    pictures = np.roll(np.round(bunch.images * 160 / 16), 1, axis=2).astype(np.uint8)[:700]
    path = tmp_path_factory.mktemp("target") / "target.npz"
    np.savez(path, x=pictures, y=bunch.target[:700], classes=CLASSES)
    return path


@pytest.fixture
def values(target, tmp_path):
    """A function from changes to the values of a small recipe."""
    count = iter(range(100))

    def make(**changes):
        return {
            "job": "adapt",
            "source": "bundled:digits",
            "target": f"arrays:{target}",
            "student": {"source": "builtin:mlp", "options": {"widths": [16], "dropout": 0.2}},
            "train": {"steps": 6, "batch_size": 32, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32"},
            "cache": {"dir": str(tmp_path / "cache")},
            "samples": False,
            "out": str(tmp_path / f"run{next(count)}"),
            **changes,
        }

    return make


@pytest.fixture(autouse=True)
def without_page(request, monkeypatch):
    """Drawing takes longer than these jobs; two tests look at the page."""
    if "looks_at_the_page" not in request.fixturenames:
        monkeypatch.setattr(finish, "report", lambda context: None)


@pytest.fixture
def looks_at_the_page():
    """Asked for by tests of the page."""


def lines(path, kind="train"):
    return [row for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if row["kind"] == kind]


def notes(path):
    return json.loads((path / "reasons.json").read_text())["notes"]


@pytest.mark.parametrize("name", DOMAINS)
def test_every_objective_on_domains_trains_in_a_job(values, name):
    run = adapt.run(from_values(values(objectives=["cross_entropy", name], control="none", train={"steps": 3, "batch_size": 32})))
    rows = lines(run.path)
    assert len(rows) == 3
    for row in rows:
        assert math.isfinite(row["terms"][name])
        assert math.isfinite(row["terms"]["cross_entropy"])


def test_the_report_is_on_the_targets_test_part_with_the_sources_beside_it(values, looks_at_the_page):
    run = adapt.run(from_values(values(train={"steps": 40, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.01}}}, samples=True)))
    summary = run.summary
    assert summary["job"] == "adapt"
    assert summary["models"].keys() == summary["source_test"].keys() == {"student", "control"}
    assert summary["models"]["student"]["samples"] == 140
    assert summary["source_test"]["student"]["samples"] == 359
    kept = {name: np.load(run.path / f"predictions/{name}.npz") for name in ("student", "control")}
    accuracy = {name: float((one["outputs"].argmax(1) == one["labels"]).mean()) for name, one in kept.items()}
    assert accuracy["student"] == pytest.approx(summary["models"]["student"]["metrics"]["accuracy"])
    assert summary["transfer"]["gain"] == pytest.approx(accuracy["student"] - accuracy["control"])
    page, card = run.report.read_text(), (run.path / "README.md").read_text()
    for text in (page, card):
        assert "On the source&#39;s own test part" in text or "On the source's own test part" in text
        assert "trained on the source alone" in text
    assert "Adaptation from bundled:digits to arrays:" in page
    assert any("weights are chosen on the source" in note for note in notes(run.path))


def test_the_targets_training_labels_change_nothing(values, target, tmp_path):
    """Not a bit: not in training, not in selection."""
    content = dict(np.load(target))
    other = (content["y"] + 3) % 10
    for name, labels in (("true", content["y"]), ("wrong", other), ("none", np.full_like(other, -1))):
        arrays = {"x_train": content["x"][:500], "y_train": labels[:500], "x_test": content["x"][500:], "y_test": content["y"][500:]}
        folder = tmp_path / name
        folder.mkdir()
        # one file name, so that only the labels differ; validation labels are true, since selection may not see them either
        np.savez(folder / "target.npz", **arrays, x_val=content["x"][:40], y_val=labels[:40].clip(0), classes=CLASSES)
    found = {}
    for name in ("true", "wrong", "none"):
        block = {"source": f"arrays:{tmp_path / name / 'target.npz'}"}
        train = {"steps": 30, "batch_size": 32, "evaluate_every": 0.3, "optimizer": {"adamw": {"lr": 0.01}}}
        found[name] = adapt.run(from_values(values(target=block, control="none", train=train)))
    weights = {name: load_file(run.path / "student.safetensors") for name, run in found.items()}
    for name in ("wrong", "none"):
        assert all(torch.equal(weights["true"][key], weights[name][key]) for key in weights["true"])
        assert lines(found[name].path, "val") == lines(found["true"].path, "val")


def test_selecting_on_the_target_looks_at_its_validation_labels_and_says_so(values, looks_at_the_page):
    run = adapt.run(from_values(values(select_on="target", control="none")))
    kept = np.load(run.path / "predictions/student.npz")
    assert len(kept["val_labels"]) == 56  # a tenth of the target's training part; the source's has 144
    accuracy = float((kept["val_outputs"].argmax(1) == kept["val_labels"]).mean())
    assert max(row["metrics"]["accuracy"] for row in lines(run.path, "val")) == pytest.approx(accuracy, abs=1e-6)
    assert any("not unsupervised" in note for note in notes(run.path))
    assert "so not unsupervised" in run.report.read_text()


def test_the_control_learns_the_source_alone_with_the_same_steps_and_is_reused(values):
    first = adapt.run(from_values(values(objectives=["cross_entropy", "mcc"])))
    second = adapt.run(from_values(values(objectives=["cross_entropy", "coral"])))
    assert any("control: reused" in note for note in notes(second.path))
    control = [json.loads(line) for line in (first.path / "control/metrics.jsonl").read_text().splitlines()]
    steps = [(row["step"], row["epoch"]) for row in control if row["kind"] == "train"]
    assert steps == [(row["step"], row["epoch"]) for row in lines(first.path)]
    assert set(control[0]["terms"]) == {"cross_entropy"}
    # the same source samples in the same order: where the target has no say, student and control are one
    student = {"source": "builtin:mlp", "options": {"widths": [16]}}
    alone = adapt.run(from_values(values(objectives=["cross_entropy", {"mcc": {"weight": 1e-30}}], student=student)))
    weights = [load_file(alone.path / f"{name}student.safetensors") for name in ("", "control/")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-5) for key in weights[0])


def test_a_few_labels_of_the_target_are_learnt_from_where_the_recipe_says_so(values, target):
    block = {"source": f"arrays:{target}", "labels_per_class": 3}
    train = {"steps": 60, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.01}}}
    seen = {}
    for use in ("ignore", "use"):
        run = adapt.run(from_values(values(target=block, target_labels=use, train=train)))
        seen[use] = run.summary["models"]["student"]["metrics"]["accuracy"]
        said = any("30 labels of the target are learnt from" in note for note in notes(run.path))
        assert said == (use == "use")
    assert seen["use"] > seen["ignore"]


def test_labels_of_both_domains_train_together_without_a_domain_term(values):
    run = adapt.run(from_values(values(objectives=["cross_entropy"], target_labels="use", control="none")))
    assert set(lines(run.path)[0]["terms"]) == {"cross_entropy"}


def test_pictures_of_other_sizes_and_colours_are_brought_together_and_resumed(values, tmp_path):
    bunch = load_digits()
    coloured = np.repeat(np.repeat(np.round(bunch.images[:300] * 255 / 16).astype(np.uint8), 2, 1), 2, 2)[..., None].repeat(3, 3)
    np.savez(tmp_path / "large.npz", x=coloured, y=bunch.target[:300], classes=CLASSES)
    run = adapt.run(from_values(values(target=f"arrays:{tmp_path / 'large.npz'}", student="builtin:resnet8")))
    assert any("8x8 are held at 16x16" in note for note in notes(run.path))
    assert any("3 equal channels" in note for note in notes(run.path))
    resolved = load(run.path / "recipe.resolved.yaml")
    assert (resolved.source.size, resolved.target.size) == (16, 16)
    (run.path / "summary.json").unlink()
    before = load_file(run.path / "student.safetensors")
    for name in ("student.safetensors", "student.json"):
        (run.path / name).unlink()
    for checkpoint in (run.path / "checkpoints/student").iterdir():
        checkpoint.unlink()
    resume.resume(run.path)
    after = load_file(run.path / "student.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_pictures_that_are_not_square_stay_so_and_are_resumed(values, tmp_path):
    random = np.random.default_rng(0)
    for name in ("here", "there"):
        inputs = random.integers(0, 256, (90, 8, 12), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", x=inputs, y=np.arange(90) % 3)
    data = {"source": f"arrays:{tmp_path / 'here.npz'}", "target": f"arrays:{tmp_path / 'there.npz'}"}
    run = adapt.run(from_values(values(**data, control="none")))
    assert load(run.path / "recipe.resolved.yaml").source.size is None
    (run.path / "summary.json").unlink()
    assert resume.resume(run.path).summary["models"].keys() == {"student"}


def test_regression_learns_from_two_domains_in_the_targets_units(values, tmp_path):
    random = np.random.default_rng(0)
    for name, shift in (("here", 0.0), ("there", 0.5)):
        inputs = random.normal(shift, 1, (300, 5)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=inputs, y=100 + 20 * inputs[:, :1] + random.normal(0, 1, (300, 1)))
    train = {"steps": 150, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.02}}}
    run = adapt.run(from_values(values(source=f"arrays:{tmp_path / 'here.npz'}", target=f"arrays:{tmp_path / 'there.npz'}", train=train)))
    assert set(lines(run.path)[0]["terms"]) == {"mse", "coral"}
    assert run.summary["models"]["student"]["metrics"]["rmse"] < 12
    assert run.summary["source_test"]["student"]["metrics"]["rmse"] < 12


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": {"source": "bundled:wine"}}, "inputs are image, the target's columns"),
        ({"target": "bundled:digits"}, "one domain only"),
        ({"objectives": ["cross_entropy"]}, "one domain only"),
        ({"objectives": ["mcd"]}, "no term learns from the source's labels"),
        ({"objectives": ["cross_entropy", "kd"]}, "needs a teacher"),
        ({"objectives": ["cross_entropy", {"coral": {"student_tap": "nowhere"}}]}, "nowhere"),
        ({"objectives": ["cross_entropy", {"mcd": {"student_tap": "linear"}}]}, "name the head instead"),
        ({"objectives": ["cross_entropy", {"mcd": {"head": "layers"}}]}, "no head|no tensor|doesn't reach|not reached"),
        ({"train": {"steps": 2, "batch_size": 3}}, "1 of the source and 2 of the target; 2 of each"),
        ({"target_share": 0.01}, "target_share nearer"),
        ({"target_share": 1.0}, "target_share"),
        ({"augment": {"crop": 8}}, "crop"),
        ({"augment": {"mixup": 0.2}}, "the other"),
        ({"source": {"source": "bundled:digits", "size": 16}, "target": {"source": "arrays:TARGET", "size": 8}}, "one network takes both"),
        ({"train": {"steps": 2, "stop": {"metric": "rmse"}}}, "rmse"),
        ({"source": "bundled:digitz"}, "digitz"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_written(values, target, changes, words):
    made = values(**changes)
    if isinstance(made["target"], dict):
        made["target"]["source"] = made["target"]["source"].replace("TARGET", str(target))
    with pytest.raises(TransfuseError, match=words):
        adapt.run(from_values(made))
    assert not Path(made["out"]).exists()


def test_clashing_class_names_are_shown(values, target, tmp_path):
    content = dict(np.load(target))
    np.savez(tmp_path / "named.npz", x=content["x"], y=content["y"], classes=np.array([*CLASSES[:8], "eight", "nine"]))
    with pytest.raises(DataError, match="only in the source: 8, 9; only in the target: eight, nine"):
        adapt.run(from_values(values(target=f"arrays:{tmp_path / 'named.npz'}")))


@pytest.mark.parametrize(("key", "words"), [("source", "no sample has a label"), ("target", "no sample of any part has a label")])
def test_data_without_labels_are_refused_with_their_place(values, target, tmp_path, key, words):
    np.savez(tmp_path / "bare.npz", x=np.load(target)["x"], y=np.full(700, -1))
    with pytest.raises(DataError, match=words) as caught:
        adapt.run(from_values(values(**{key: f"arrays:{tmp_path / 'bare.npz'}"})))
    assert key in str(caught.value)


@pytest.mark.parametrize("key", ["source", "target"])
def test_data_without_samples_are_refused(values, tmp_path, key):
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 8, 8), np.uint8), y=np.zeros(0, int))
    with pytest.raises(DataError) as caught:
        adapt.run(from_values(values(**{key: f"arrays:{tmp_path / 'empty.npz'}"})))
    assert key in str(caught.value)


def test_a_recipe_with_one_domain_is_refused_by_its_keys():
    with pytest.raises(RecipeError, match="target: is missing"):
        from_text("job: adapt\nsource: bundled:digits\nstudent: builtin:mlp\n")


def test_labels_that_are_not_there_can_not_be_used(values, target, tmp_path):
    content = dict(np.load(target))
    arrays = {"x_train": content["x"][:500], "y_train": np.full(500, -1), "x_test": content["x"][500:], "y_test": content["y"][500:]}
    np.savez(tmp_path / "t.npz", **arrays, classes=CLASSES)
    with pytest.raises(DataError, match="no training sample of the target has a label"):
        adapt.run(from_values(values(target=f"arrays:{tmp_path / 't.npz'}", target_labels="use")))


def test_checking_writes_nothing_and_gives_a_recipe_that_runs(values):
    made = values()
    recipe, reasons = check.run(from_values(made))
    assert not Path(made["out"]).exists()
    assert [block.name for block in recipe.objectives] == ["cross_entropy", "mcc"]
    assert "target.size" in reasons


def work(made: dict, out: str) -> None:
    """In a process of its own: start the run, or go on with it."""
    torch.set_num_threads(1)
    finish.report = lambda context: None
    if not (Path(out) / "recipe.resolved.yaml").exists():
        adapt.run(from_values(made))
    elif not (Path(out) / "summary.json").exists():
        resume.resume(out)


def newest(out: Path) -> int:
    """The step of the student's newest checkpoint."""
    return max((int(path.stem.split("_")[1]) for path in (out / "checkpoints/student").glob("step_*.pt")), default=0)


def test_a_run_that_is_killed_twice_ends_with_the_same_bits(values):
    train = {"steps": 12, "batch_size": 32, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32", "checkpoint_seconds": 0, "ema": 0.9}
    terms = ["cross_entropy", {"cdan": {"hidden": 32}}, {"mcd": {"updates": 2}}]
    changes = {"objectives": terms, "train": train, "augment": {"crop": 1, "views": 3}, "control": "none"}
    whole, killed = values(**changes), values(**changes)
    adapt.run(from_values(whole))
    out, kills = Path(killed["out"]), 0
    for goal in (3, 8, 1000):
        process = PROCESSES.Process(target=work, args=(killed, str(out)))
        process.start()
        while process.is_alive() and newest(out) < goal:
            time.sleep(0.002)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    assert kills == 2, "the run was over before it could be killed"
    one, two = (load_file(Path(made["out"]) / "student.safetensors") for made in (whole, killed))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert (out / "metrics.jsonl").read_text() == (Path(whole["out"]) / "metrics.jsonl").read_text()


def test_two_processes_hold_both_domains_and_train_as_one(values, tmp_path):
    train = {"steps": 8, "batch_size": 32, "optimizer": {"sgd": {"lr": 0.05}}, "precision": "fp32"}
    student = {"source": "builtin:mlp", "options": {"widths": [16]}}
    made = values(objectives=["cross_entropy", "dann", "mcd"], train=train, student=student, control="none")
    one = adapt.run(from_values(made))
    (tmp_path / "recipe.yaml").write_text(dump(from_values(made)))
    program = Path(sys.executable).with_name("transfuse")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    arguments = ["adapt", "recipe.yaml", f"out={tmp_path / 'two'}"]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, env=NO_GPU, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    weights = [load_file(path / "student.safetensors") for path in (one.path, tmp_path / "two")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-5) for key in weights[0])
    terms = [[row["terms"] for row in lines(path)] for path in (one.path, tmp_path / "two")]
    for first, second in zip(*terms, strict=True):
        assert first == pytest.approx(second, abs=1e-4)


def test_python_takes_live_objects_and_resuming_asks_for_them_again(tmp_path):
    generator = torch.Generator().manual_seed(0)

    def samples(shift):
        inputs = torch.randn(120, 4, generator=generator) + shift
        return inputs, (inputs[:, 0] > shift).long()

    source, target, student = (samples(0.0), samples(0.0)), (samples(1.0), samples(1.0)), torch.nn.Sequential(torch.nn.Linear(4, 2))

    class Impatient(Silent):
        def progress(self, progress):
            if progress.name == "student" and progress.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

    arguments = {
        "train": {"steps": 12, "batch_size": 16},
        "cache": {"dir": str(tmp_path / "cache")},
        "objectives": ["cross_entropy", "mcc"],
    }
    with pytest.raises(KeyboardInterrupt):
        transfuse.adapt(source, {"source": target}, student, out=tmp_path / "run", reporter=Impatient(), **arguments)
    with pytest.raises(RunError, match="data, student"):
        transfuse.resume(tmp_path / "run")
    with pytest.raises(RunError, match="data"):
        transfuse.resume(tmp_path / "run", data={"source": source}, student=student)
    run = transfuse.resume(tmp_path / "run", data={"source": source, "target": target}, student=student)
    fresh = transfuse.adapt(source, target, student, out=tmp_path / "fresh", **{**arguments, "cache": {"dir": str(tmp_path / "other")}})
    weights = [load_file(one.path / "student.safetensors") for one in (run, fresh)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert Live().data is None
