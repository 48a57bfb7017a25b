"""`export:` in the jobs that ship one network: what is written is the network that the job ships, and is verified."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import transfuse
from transfuse.cli.main import run as command
from transfuse.errors import DataError, MissingExtra, RunError
from transfuse.jobs import export as exporting
from transfuse.jobs.context import Live
from transfuse.jobs.deliver import export as delivery
from transfuse.jobs.deliver import finish
from transfuse.jobs.runner import runner_of
from transfuse.recipe.load import from_values

TRAIN = {"steps": 8, "batch_size": 32, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32"}
MLP = {"source": "builtin:mlp", "options": {"widths": [8]}}
DISTILLATION = {
    "data": "bundled:digits",
    "teacher": {"source": "builtin:mlp", "options": {"widths": [24]}, "train": TRAIN},
    "student": MLP,
    "objectives": [{"cross_entropy": {"weight": 0.1}}, {"kd": {"weight": 0.9}}],
}


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Digits moved by a pixel, as a file."""
    bunch, path = load_digits(), tmp_path_factory.mktemp("moved") / "moved.npz"
    pictures = np.roll(np.round(bunch.images * 160 / 16), 1, axis=2).astype(np.uint8)
    np.savez(path, x=pictures, y=bunch.target, classes=np.array([str(number) for number in range(10)]))
    return path


@pytest.fixture
def start(tmp_path):
    """A function from values of a recipe to the finished run."""

    def go(live=None, **values):
        recipe = from_values(
            {"train": TRAIN, "cache": {"dir": str(tmp_path / "cache")}, "samples": False, "out": str(tmp_path / "run"), **values}
        )
        return runner_of(recipe).run(recipe, live=live)

    return go


def agree(path: Path, target: str) -> dict:
    """The verdict on an export, whose answers are those of the run's own student."""
    verdict = json.loads((path / "exports" / target / "verify.json").read_text())
    assert verdict["passed"]
    assert verdict["samples"] > 100
    inputs = torch.rand(5, 1, 8, 8)
    assert torch.equal(transfuse.load(path / "exports" / target)(inputs), transfuse.load(path)(inputs))
    assert "Exported files" in (path / "report.html").read_text(encoding="utf-8")
    return verdict


def test_a_network_of_two_sets_is_exported_and_judged_on_the_target(start, moved):
    run = start(job="together", source=f"arrays:{moved}", target="bundled:digits", student=MLP, export=["safetensors"])
    assert agree(run.path, "safetensors")["samples"] == run.summary["models"]["student"]["samples"]
    assert set(transfuse.export(run, "bf16")) == {"bf16"}  # and later, from the folder alone


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two networks that learnt a little."""
    folder = tmp_path_factory.mktemp("sources")
    settings = {
        "objectives": ["cross_entropy"],
        "control": "none",
        "samples": False,
        "train": TRAIN,
        "cache": {"dir": str(folder / "cache")},
    }
    for seed, name in enumerate("ab"):
        transfuse.distill("bundled:digits", MLP, seed=seed, out=folder / name, **settings)
    return {name: f"run:{folder / name}" for name in "ab"}


def test_an_ensemble_is_exported_with_all_of_its_members(start, sources):
    run = start(job="fuse", data="bundled:digits", sources=sources, how="mean_probabilities", export=["safetensors"])
    agree(run.path, "safetensors")


def test_a_student_of_a_fusion_is_exported_once_by_the_fusion(start, sources):
    run = start(job="fuse", data="bundled:digits", sources=sources, how="distill", student=MLP, control="none", export=["safetensors"])
    agree(run.path, "safetensors")
    assert not (run.path / "runs" / "distill" / "exports").exists()


def test_a_fusion_with_a_table_refuses_to_export_before_it_asks_anybody(start, sources, tmp_path, capsys):
    with np.load(Path(sources["a"].removeprefix("run:")) / "predictions" / "student.npz") as kept:
        ids = np.concatenate([kept["ids"], kept["val_ids"]])
        logits = np.concatenate([kept["outputs"], kept["val_outputs"]])
    np.savez(
        tmp_path / "people.npz",
        ids=ids,
        logits=logits + np.random.default_rng(0).normal(size=logits.shape),
        classes=np.array([str(number) for number in range(10)]),
    )
    listed = f"sources={{a: '{sources['a']}', people: 'predictions:{tmp_path / 'people.npz'}'}}"
    code = command(["fuse", "data=bundled:digits", listed, "how=mean_probabilities", "export=[onnx]", f"out={tmp_path / 'table'}"])
    said = capsys.readouterr().err
    assert code == 2
    assert "export" in said
    assert "give a student" in said
    assert not (tmp_path / "table").exists()


def test_generations_export_the_last_one_and_no_other(start):
    limits = {"bytes": 1_000_000}
    run = start(job="born_again", generations=2, control="none", export=["safetensors"], data="bundled:digits", student=MLP, budget=limits)
    agree(run.path, "safetensors")
    assert not list(run.path.glob("runs/*/exports"))
    transfuse.export(run, "bf16")  # later, from the folder alone; the page stays that of all generations
    for name in ("report.html", "README.md"):
        text = (run.path / name).read_text(encoding="utf-8")
        assert "bf16" in text
        assert "Born-again networks on" in text
        assert "generation" in text
    assert run.summary["budget"]["bytes"]["met"]
    last, shipped = (transfuse.load(path) for path in (run.path / "runs" / "generation_2", run.path / "exports" / "safetensors"))
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.equal(last(inputs), shipped(inputs))


def test_a_chain_exports_the_student_at_its_end(start):
    assistants = [{"source": "builtin:mlp", "options": {"widths": [16]}}]
    run = start(job="assistants", assistants=assistants, plain=False, control="none", export=["safetensors"], **DISTILLATION)
    agree(run.path, "safetensors")
    assert not list(run.path.glob("runs/*/exports"))


def test_a_sweep_exports_the_trial_that_validation_chose(start):
    pytest.importorskip("optuna")
    run = start(job="sweep", space={"objectives.kd.temperature": [1, 4]}, control="none", export=["safetensors"], **DISTILLATION)
    agree(run.path, "safetensors")
    chosen, shipped = (
        transfuse.load(path) for path in (run.path / "runs" / run.summary["chosen"]["run"], run.path / "exports" / "safetensors")
    )
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.equal(chosen(inputs), shipped(inputs))


def test_a_series_whose_export_was_cut_off_ships_it_when_it_is_resumed(start, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def power_cut(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(delivery, "ship_all", power_cut)
    with pytest.raises(KeyboardInterrupt):
        start(job="born_again", generations=1, control="none", export=["safetensors"], data="bundled:digits", student=MLP, out="cut")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run = transfuse.resume("cut")
    agree(run.path, "safetensors")


@pytest.fixture
def without_pages_of_runs(monkeypatch):
    """Drawing takes longer than these jobs; the parent's page is drawn."""

    def empty(context):
        context.rundir.report.touch()
        context.rundir.card.touch()

    monkeypatch.setattr(finish, "report", empty)


LABELS_ALONE = {"data": "bundled:digits", "student": MLP, "objectives": ["cross_entropy"], "control": "none", "export": ["safetensors"]}


def test_folds_export_the_refit_and_no_fold(start, without_pages_of_runs):
    run = start(job="distill", validate={"folds": 2}, **LABELS_ALONE)
    agree(run.path, "safetensors")
    assert not list(run.path.glob("runs/*/exports"))
    with pytest.raises(RunError, match="the run is finished"):
        transfuse.resume(run.path)
    shutil.rmtree(run.path / "exports")
    agree(transfuse.resume(run.path).path, "safetensors")


def test_folds_refuse_an_export_that_can_not_work_before_the_first_fold(start, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MissingExtra, match="onnx"):
        start(job="distill", validate={"folds": 2}, **{**LABELS_ALONE, "export": ["onnx"]})
    assert not (tmp_path / "run").exists()


def test_folds_of_two_sets_given_as_objects_export_what_is_judged_on_the_target(start, without_pages_of_runs):
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(320) % 2
    pictures = torch.randint(0, 255, (320, 1, 8, 8), generator=random, dtype=torch.uint8)
    target = {"train": (pictures[:200], labels[:200]), "test": (pictures[200:], labels[200:])}
    source = {part: (inputs.flip(-1), truth) for part, (inputs, truth) in target.items()}
    live = Live(data={"source": source, "target": target})
    values = {"source": "live", "target": "live", "student": MLP, "control": "none", "export": ["safetensors"]}
    run = start(live, job="together", validate={"folds": 2}, **values)
    assert agree(run.path, "safetensors")["samples"] == 120


def test_with_seeds_every_run_exports_its_own_and_only_what_is_missing_is_left_to_do(start, without_pages_of_runs):
    run = start(job="distill", seeds=2, **LABELS_ALONE)
    exports = [run.path / "runs" / f"seed_{seed}" / "exports" for seed in (0, 1)]
    assert all((folder / "safetensors/verify.json").exists() for folder in exports)
    assert not (run.path / "exports").exists()
    with pytest.raises(RunError, match="the run is finished"):
        transfuse.resume(run.path)
    shutil.rmtree(exports[1])
    transfuse.resume(run.path)
    assert (exports[1] / "safetensors/verify.json").exists()


def test_data_that_have_moved_cost_a_series_its_export_and_nothing_else(start, monkeypatch, tmp_path, without_pages_of_runs):
    def moved_away(*arguments):
        raise DataError("no such file", where="data")

    values = {key: value for key, value in LABELS_ALONE.items() if key != "objectives"}
    with monkeypatch.context() as patched:
        patched.setattr(exporting, "of_run", moved_away)
        with pytest.raises(DataError, match="no such file"):
            start(job="born_again", generations=1, **values)
    for name in ("summary.json", "report.html", "README.md", "student.safetensors"):
        assert (tmp_path / "run" / name).exists(), name
    agree(transfuse.resume(tmp_path / "run").path, "safetensors")  # once they are back
