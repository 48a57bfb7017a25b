"""Jobs of several runs: seeds, born-again generations and chains of assistants, on small real data."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from torch import nn

import transfuse
from transfuse.cli.console import Console
from transfuse.cli.main import run as command
from transfuse.core.card import Card
from transfuse.errors import ModelError, RecipeError, RunError, TransfuseError
from transfuse.jobs import series
from transfuse.jobs.context import Context
from transfuse.jobs.rundir import RunDir
from transfuse.jobs.runner import runner_of
from transfuse.recipe.load import from_values, load

TRAIN = {"steps": 12, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32", "checkpoint_seconds": 0}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFUSE_CACHE", str(tmp_path / "cache"))


def small(job="distill", widths=(8,), **changes) -> dict:
    values = {
        "job": job,
        "data": {"source": "bundled:digits", "labels_per_class": 10},
        "student": {"source": "builtin:mlp", "options": {"widths": list(widths)}},
        "train": TRAIN,
        "samples": False,
        "out": "run",
        **changes,
    }
    if job != "born_again" and "teacher" not in changes:
        values["teacher"] = {"source": "builtin:mlp", "options": {"widths": [64]}, "train": {**TRAIN, "steps": 20}}
    return values


def start(values):
    recipe = from_values(values)
    return runner_of(recipe).run(recipe)


def same_bits(one: Path, two: Path) -> bool:
    first, second = load_file(one / "student.safetensors"), load_file(two / "student.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def accuracy(folder: Path, model: str) -> float:
    with np.load(folder / "predictions" / f"{model}.npz") as content:
        return float((content["outputs"].argmax(1) == content["labels"]).mean())


def stop_at(monkeypatch, name: str, step: int) -> None:
    """Sends Ctrl-C when a training of this name reaches a step."""
    shown = Console.progress

    def progress(self, progress):
        if progress.name == name and progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        shown(self, progress)

    monkeypatch.setattr(Console, "progress", progress)


def test_seeds_are_interrupted_and_go_on_to_the_bits_and_figures_of_single_runs(tmp_path, monkeypatch, capsys):
    Path("recipe.yaml").write_text(json.dumps(small(seeds=2, seed=1)))
    with monkeypatch.context() as patched:
        stop_at(patched, "seed_2 student", 6)
        assert command(["run", "recipe.yaml"]) == 130
    assert capsys.readouterr().err.rstrip().endswith("interrupted; resume with: transfuse resume run")
    assert not Path("run/summary.json").exists()
    finished = Path("run/runs/seed_1/summary.json").stat().st_mtime_ns
    assert command(["resume", "run"]) == 0
    captured = capsys.readouterr()
    assert "Over 2 seeds the student" in captured.out
    assert Path("run/runs/seed_1/summary.json").stat().st_mtime_ns == finished, "a finished run is not run again"

    single = start({**small(seed=2), "out": "single"})
    assert same_bits(single.path, Path("run/runs/seed_2"))

    summary = json.loads(Path("run/summary.json").read_text())
    folders = [Path("run") / entry["path"] for entry in summary["runs"]]
    assert [entry["differs"] for entry in summary["runs"]] == [{"seed": 1}, {"seed": 2}]
    student, control = ([accuracy(folder, model) for folder in folders] for model in ("student", "control"))
    found = summary["aggregate"]["models"]["student"]["metrics"]["accuracy"]
    assert found["mean"] == pytest.approx(np.mean(student))
    assert found["std"] == pytest.approx(np.std(student, ddof=1))
    assert (found["n"], found["min"], found["max"]) == (2, pytest.approx(min(student)), pytest.approx(max(student)))
    paired = stats.ttest_rel(student, control).confidence_interval(0.95)
    assert summary["aggregate"]["transfer"]["gain"]["interval"] == pytest.approx([paired.low, paired.high])
    assert summary["teacher_forwards"] == sum(entry["teacher_forwards"] for entry in summary["runs"]) == 2 * 1797
    with pytest.raises(RunError, match="finished"):
        transfuse.resume("run")
    with pytest.raises(ModelError, match="several runs") as refused:
        transfuse.load("run")
    assert "run:run/runs/seed_1" in str(refused.value)
    for name in ("README.md", "report.html", "env.json", "recipe.yaml", "recipe.resolved.yaml"):
        assert Path("run", name).exists(), name
    assert load("run/recipe.resolved.yaml").seed_list() == [1, 2]


class Offset(nn.Module):
    """An objective that learns a number of its own, and the student with it."""

    card = Card("offset", needs=("labels",))

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, step):
        return nn.functional.cross_entropy(step.student.logits * (1 + self.offset), step.batch.labels, reduction="none")


def test_each_seed_begins_with_the_live_objective_as_it_was_given(tmp_path):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(80, 4, generator=generator), torch.arange(80) % 3
    objective, student = Offset(), nn.Linear(4, 3)

    def learn(out, **seeds):
        data = ((inputs[:60], labels[:60]), (inputs[60:], labels[60:]))
        return transfuse.distill(data, student, objectives=[objective], train=TRAIN, control="none", samples=False, out=out, **seeds)

    both = learn("both", seeds=2, seed=1)
    assert objective.offset.item() == 0, "the caller's own object learns nothing"
    assert same_bits(both.path / "runs/seed_2", learn("single", seed=2).path)


def test_a_refused_series_leaves_nothing_behind():
    with pytest.raises(TransfuseError, match="no trained weights"):
        start(small(seeds=2, teacher="builtin:mlp"))
    with pytest.raises(RecipeError, match="needs a teacher"):
        start({key: value for key, value in small(seeds=[4], objectives=["kd"]).items() if key != "teacher"})
    assert not Path("run").exists()


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process"):
        start(small(seeds=2))
    assert not Path("run").exists()
    with pytest.raises(RecipeError, match="one process"):
        series.go_on(Context(RunDir("run")))


def test_a_run_that_was_killed_before_it_began_is_started_again(monkeypatch):
    torn = Path("run/runs/seed_1")

    def killed(self, text):
        if text.startswith("seed_1"):
            torn.mkdir(parents=True)
            (torn / "recipe.yaml").write_text("job: dist")
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("transfuse.core.protocols.Silent.say", killed)
        with pytest.raises(KeyboardInterrupt):
            start(small(seeds=2, control="none"))
    run = transfuse.resume("run")
    assert [entry["state"] for entry in run.summary["runs"]] == ["finished", "finished"]
    assert run.summary["aggregate"]["transfer"].keys() == {"agreement", "kl"}, "without a control there is no gain"


def test_each_generation_is_taught_by_the_one_before_it():
    run = start(small("born_again", generations=2, seed=5))
    summary = run.summary
    entries = {entry["name"]: entry["differs"] for entry in summary["runs"]}
    assert entries == {
        "generation_0": {"seed": 5},
        "generation_1": {"seed": 6, "teacher": "generation_0"},
        "generation_2": {"seed": 7, "teacher": "generation_1"},
    }
    folders = {name: run.path / "runs" / name for name in entries}
    second = load(folders["generation_2"] / "recipe.resolved.yaml")
    assert second.teachers["teacher"].source == f"run:{folders['generation_1']}"  # type: ignore[attr-defined]
    weights = {block.method: (block.weight, block.parameters.get("temperature")) for block in second.objectives}  # type: ignore[attr-defined]
    assert weights == {"cross_entropy": (0.5, None), "kd": (0.5, 1.0)}
    assert same_bits(run.path, folders["generation_2"]), "the last generation is what is shipped"
    assert accuracy(folders["generation_2"], "teacher") == pytest.approx(accuracy(folders["generation_1"], "student"))

    answers = [np.load(folders[name] / "predictions" / "student.npz") for name in ("generation_1", "generation_2")]
    probabilities = [np.exp(one["outputs"]) / np.exp(one["outputs"]).sum(1, keepdims=True) for one in answers]
    together = (np.mean(probabilities, 0).argmax(1) == answers[0]["labels"]).mean()
    assert summary["models"]["ensemble"]["metrics"]["accuracy"] == pytest.approx(together)
    assert summary["models"]["ensemble"]["parameters"] == 2 * summary["models"]["student"]["parameters"]
    theirs = summary["models"]["control_ensemble"]["metrics"]["accuracy"]
    assert summary["transfer"]["ensemble_gain"] == pytest.approx(together - theirs)
    assert summary["aggregate"]["n"] == 2, "generation 0 has no teacher, so no gain"
    single = start(small(seed=5, control="train", out="single"))
    control, first = (load_file(place / "student.safetensors") for place in (single.path / "control", folders["generation_0"]))
    assert all(torch.equal(control[key], first[key]) for key in control), "generation 0 is the control of a run with its seed"


def test_a_live_module_is_born_again():
    generator = torch.Generator().manual_seed(0)
    data = ((torch.randn(120, 4, generator=generator), torch.randint(0, 3, (120,), generator=generator)),) * 2
    student = torch.nn.Linear(4, 3)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    run = transfuse.born_again(data, student, train={"steps": 5}, out="live", generations=1, cache={"dir": "cache"})
    assert [entry["name"] for entry in run.summary["runs"]] == ["generation_0", "generation_1"]
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items()), "the caller's own stays as it was"
    assert accuracy(Path("live/runs/generation_1"), "teacher") == pytest.approx(accuracy(Path("live/runs/generation_0"), "student"))


def chain(**more) -> dict:
    block = {"source": "builtin:mlp"}
    assistants = [{**block, "options": {"widths": [32]}}, {**block, "options": {"widths": [16]}}]
    return small("assistants", assistants=assistants, **more)


def test_a_chain_passes_from_teacher_to_student_and_is_compared_with_the_teacher_alone():
    run = start(chain())
    summary, folder = run.summary, run.path / "runs"
    assert [entry["name"] for entry in summary["runs"]] == ["assistant_1", "assistant_2", "student", "without_assistants"]
    taught_by = {name: load(folder / name / "recipe.resolved.yaml").teachers for name in ("assistant_2", "student", "without_assistants")}  # type: ignore[attr-defined]
    assert {name: teachers["teacher"].source for name, teachers in taught_by.items()} == {
        "assistant_2": f"run:{folder / 'assistant_1'}",
        "student": f"run:{folder / 'assistant_2'}",
        "without_assistants": f"run:{folder / 'assistant_1'}#teacher",
    }
    assert summary["runs"][3]["teacher_forwards"] == 0, "the teacher was asked for the first link already"
    with_them, without = accuracy(folder / "student", "student"), accuracy(folder / "without_assistants", "student")
    assert summary["transfer"]["over_plain"] == pytest.approx(with_them - without)
    assert summary["models"]["without_assistants"]["metrics"]["accuracy"] == pytest.approx(without)
    assert accuracy(folder / "without_assistants", "control") == accuracy(folder / "student", "control")
    assert summary["aggregate"] is None
    assert "aggregate" in summary["reasons"]
    assert same_bits(run.path, folder / "student")
    single = start(small(out="single"))
    assert same_bits(single.path, folder / "without_assistants"), "the plain distillation beside a chain is the distillation itself"


def test_a_dense_chain_is_taught_by_all_before_it_with_the_weight_divided_among_them():
    run = start(chain(dense=True, plain=False, control="none", objectives=["cross_entropy", {"kd": {"weight": 0.9}}]))
    last = load(run.path / "runs/student/recipe.resolved.yaml")
    assert list(last.teachers) == ["teacher", "assistant_1", "assistant_2"]  # type: ignore[attr-defined]
    guides = [(block.teacher, block.weight) for block in last.objectives if block.method == "kd"]  # type: ignore[attr-defined]
    assert guides == [(name, pytest.approx(0.3)) for name in ("teacher", "assistant_1", "assistant_2")]
    assert "without_assistants" not in run.summary["models"]


def test_every_network_of_a_chain_is_opened_before_the_first_is_trained():
    with pytest.raises(TransfuseError, match="resnet21"):
        start({**chain(), "assistants": ["builtin:mlp", "builtin:resnet21"]})
    with pytest.raises(RecipeError, match="there is no teacher"):
        start({**chain(), "objectives": [{"kd": {"teacher": "somebody"}}]})
    assert not Path("run").exists()


def test_any_job_can_be_repeated_with_seeds():
    run = start(small("born_again", generations=1, seeds=[3, 8], control="none", train={**TRAIN, "steps": 3}))
    inner = json.loads((run.path / "runs/seed_8/summary.json").read_text())
    assert inner["series"] == "generations"
    values = [
        json.loads((run.path / f"runs/seed_{seed}/summary.json").read_text())["models"]["student"]["metrics"]["accuracy"] for seed in (3, 8)
    ]
    assert run.summary["aggregate"]["models"]["student"]["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(values))
