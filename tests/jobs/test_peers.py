"""Whole jobs in which networks learn from each other, and jobs whose terms give way to each other."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import transfuse
from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError, RecipeError, RunError, TransfuseError
from transfuse.jobs import distill, resume
from transfuse.models import open_model
from transfuse.recipe.load import from_values

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["transfuse.jobs.distill", "transfuse.jobs.resume"])


def recipe(folder: Path, **changes) -> dict:
    """A student with dropout and two peers, one of them of its own architecture and one that sees pictures in its own way."""
    train = {"steps": 30, "optimizer": {"adamw": {"lr": 0.02}}, "precision": "fp32", "batch_size": 64}
    values = {
        "job": "distill",
        "data": {"source": "bundled:digits", "labels_per_class": 60},
        "student": {"source": "builtin:mlp", "options": {"widths": [16], "dropout": 0.2}},
        "peers": {
            "twin": {"source": "builtin:mlp", "options": {"widths": [16], "dropout": 0.2}},
            "conv": {"source": "builtin:convnet", "preprocess": {"size": 12, "mean": [0.3], "std": [0.4]}},
        },
        "train": train,
        "cache": {"dir": str(folder / "cache")},
        "out": str(folder / "run"),
    }
    values.update({key: value for key, value in changes.items() if key != "train"})
    values["train"] = {**train, **changes.get("train", {})}
    return values


def run(values: dict):
    return distill.run(from_values(values))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(recipe(tmp_path_factory.mktemp("peers")))


def test_a_job_with_peers_and_no_teacher_evaluates_and_keeps_every_network(finished):
    summary = finished.summary
    assert list(summary["models"]) == ["student", "control", "peer twin", "peer conv"]
    assert summary["teachers"] == {}
    assert all(block["metrics"]["accuracy"] > 0.3 and block["parameters"] for block in summary["models"].values())
    for name, samples in (("peer twin", 359), ("peer conv", 359)):
        assert (finished.path / f"predictions/{name}.npz").exists()
        assert summary["models"][name]["samples"] == samples
    recipe_text = (finished.path / "recipe.resolved.yaml").read_text()
    assert "dml:" in recipe_text, "auto adds mutual learning where there are peers"
    assert "auto" not in recipe_text.replace("live", "")


def test_a_peer_of_the_run_is_a_model_source_and_can_teach(finished, tmp_path):
    model = open_model(f"run:{finished.path}#peer:conv", ModelRequest())
    assert model.preprocess.size == (12, 12)
    assert model.classes == [str(number) for number in range(10)]
    values = recipe(tmp_path, peers={}, teacher=f"run:{finished.path}#peer:conv", control="none", train={"steps": 2})
    taught = run(values).summary["teachers"]["teacher"]["metrics"]["accuracy"]
    assert taught == finished.summary["models"]["peer conv"]["metrics"]["accuracy"]


def test_the_shipped_student_is_a_plain_one(finished):
    student = open_model(f"run:{finished.path}", ModelRequest())
    assert sum(parameter.numel() for parameter in student.network.parameters()) == finished.summary["models"]["student"]["parameters"]
    assert not [name for name in weights(finished.path / "student.safetensors") if "peer" in name]


def test_a_peer_of_the_students_architecture_starts_from_a_seed_of_its_own_which_is_said(finished):
    notes = json.loads((finished.path / "reasons.json").read_text())["notes"]
    said = next(note for note in notes if note.startswith("peer 'twin'"))
    seed = json.loads((finished.path / "peers/twin.json").read_text())["seed"]
    assert str(seed) in said
    twin = open_model("builtin:mlp", ModelRequest(outputs=10, input_shape=(1, 8, 8), seed=seed, options={"widths": [16], "dropout": 0.2}))
    student = open_model("builtin:mlp", ModelRequest(outputs=10, input_shape=(1, 8, 8), options={"widths": [16], "dropout": 0.2}))
    assert not torch.equal(twin.network.linear.weight, student.network.linear.weight)


def test_the_control_is_the_one_of_a_job_without_peers(finished, tmp_path):
    values = recipe(tmp_path, peers={}, objectives=["cross_entropy"], control="train")
    alone = run(values)
    control = weights(finished.path / "control/student.safetensors")
    assert all(torch.equal(value, weights(alone.path / "control/student.safetensors")[name]) for name, value in control.items())


def test_report_and_card_name_the_peers(finished):
    page, card = finished.report.read_text(), (finished.path / "README.md").read_text()
    for text in (page, card):
        assert "learning from peers" in text or "beats its control" in text or "does worse than its control" in text
        assert "Of the networks that learnt beside it, peer twin reaches" in text
    assert "<h1>Mutual learning on bundled:digits</h1>" in page
    assert '<span class="dot peer"></span>peer conv' in page


def test_a_teacher_and_peers_teach_together(tmp_path):
    teacher = {"source": "builtin:mlp", "options": {"widths": [64]}, "train": {"steps": 30}}
    found = run(recipe(tmp_path, teacher=teacher, control="none")).summary
    assert list(found["models"]) == ["student", "peer twin", "peer conv"]
    assert found["transfer"]["agreement"] is not None
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    terms = next(line["terms"] for line in reversed(lines) if line["run"] == "student" and line["kind"] == "train")
    assert list(terms) == [
        "cross_entropy",
        "kd",
        "dml",
        "peer twin.cross_entropy",
        "peer twin.dml",
        "peer conv.cross_entropy",
        "peer conv.dml",
    ]


def test_live_peers_are_copied_and_asked_for_again(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = ((torch.randn(60, 4, generator=generator), torch.randint(0, 3, (60,), generator=generator)),) * 2
    student, peer = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    before = peer[0].weight.clone()
    common = {"train": {"steps": 5}, "cache": {"dir": str(tmp_path / "cache")}}
    done = transfuse.distill(data, student, peers={"mine": peer}, out=tmp_path / "run", **common)
    assert "peer mine" in done.summary["models"]
    assert torch.equal(peer[0].weight, before)
    with pytest.raises(ModelError, match="begins with the very weights of the student"):
        transfuse.distill(data, student, peers={"copy": student}, out=tmp_path / "copied", **common)
    (done.path / "summary.json").unlink()
    with pytest.raises(RunError, match=r"peers\.mine"):
        transfuse.resume(done.path, data=data, student=student)
    assert transfuse.resume(done.path, data=data, student=student, peers={"mine": peer}).summary["models"].keys() >= {"peer mine"}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"objectives": ["cross_entropy"]}, RecipeError, "peers: no objective learns from them; add dml"),
        ({"peers": {}, "objectives": ["cross_entropy", "dml"]}, RecipeError, r"objectives\.dml: learns from networks that train beside"),
        ({"peers": {"../a": "builtin:mlp"}}, RecipeError, "peers"),
        ({"peers": {"a": "builtin:mpl"}}, ModelError, r"peers\.a|did you mean"),
        ({"peers": {"a": {"source": "builtin:mlp", "preprocess": {"size": 0}}}}, TransfuseError, "size"),
        ({"objectives": ["cross_entropy", {"dml": {"teacher": "conv"}}]}, RecipeError, "asks no teacher"),
        ({"data": "bundled:diabetes", "peers": {"a": "builtin:mlp"}, "student": "builtin:mlp"}, RecipeError, "the task is regression"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_anything_is_written(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        run(recipe(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_a_missing_peer_is_told_when_a_run_goes_on(tmp_path):
    done = run(recipe(tmp_path, control="none", train={"steps": 2}))
    (done.path / "summary.json").unlink()
    (done.path / "peers/twin.safetensors").unlink()
    with pytest.raises(RunError, match="student and peers are then trained again"):
        resume.resume(done.path)
    (done.path / "student.safetensors").unlink()
    assert "peer twin" in resume.resume(done.path).summary["models"]


# killed and resumed


def alternating(folder: Path) -> dict:
    objectives = ["cross_entropy", {"dml": {"update": "alternate"}}]
    train = {"steps": 30, "ema": 0.9, "checkpoint_seconds": 0, "evaluate_every": 0.5, "gradients": "pcgrad", "clip": 1.0}
    peers = {"twin": {"source": "builtin:mlp", "options": {"widths": [16], "dropout": 0.2}}, "wide": "builtin:mlp"}
    return recipe(folder, objectives=objectives, peers=peers, augment={"crop": 1, "views": 3}, train=train, control="none")


def work(values: dict) -> None:
    """In a process of its own: start the run, or go on with it."""
    torch.set_num_threads(1)
    out = Path(values["out"])
    if not (out / "recipe.resolved.yaml").exists():
        run(values)
    elif not (out / "summary.json").exists():
        resume.resume(out)


def started(values: dict) -> multiprocessing.Process:
    process = PROCESSES.Process(target=work, args=(values,))
    process.start()
    checkpoints = Path(values["out"]) / "checkpoints/student"
    while process.is_alive() and not list(checkpoints.glob("step_*.pt")):
        time.sleep(0.01)
    return process


def test_peers_and_per_term_gradients_survive_kill_9_with_the_same_bits(tmp_path):
    whole, killed = alternating(tmp_path / "whole"), alternating(tmp_path / "killed")
    process = started(whole)
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    lasted, moments, kills = time.monotonic() - began, random.Random(0), 0
    while not (Path(killed["out"]) / "summary.json").exists():
        process = started(killed)
        process.join(moments.uniform(0.05, lasted / 3) if kills < 3 else None)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    assert kills == 3, "the run was over before it could be killed"
    for name in ("student", "peers/twin", "peers/wide"):
        one, two = (weights(Path(values["out"]) / f"{name}.safetensors") for values in (whole, killed))
        assert all(torch.equal(one[key], two[key]) for key in one), name
    logs = [(Path(values["out"]) / "metrics.jsonl").read_text() for values in (whole, killed)]
    assert logs[0] == logs[1]


# per-term gradients


def test_terms_that_give_way_train_otherwise_than_their_sum_and_reuse_its_control(finished, tmp_path):
    cache = {"dir": str(finished.path.parent / "cache")}
    apart = run(recipe(tmp_path, objectives=["cross_entropy", "dml"], train={"gradients": "pcgrad"}, cache=cache))
    one, two = (weights(done.path / "student.safetensors") for done in (finished, apart))
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert any("control: reused" in note for note in json.loads((apart.path / "reasons.json").read_text())["notes"])
    assert apart.summary["models"]["student"]["metrics"]["accuracy"] > 0.3
    assert "PCGrad" in apart.report.read_text()
