"""Sweeps on small real data: grids and searches, pruning, killing and resuming, the choice by validation, the Pareto front."""

import importlib.util
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import transfuse
from transfuse.cli.main import run as command
from transfuse.errors import MissingExtra, RecipeError, RunError, TransfuseError
from transfuse.jobs import resume, series, sweep, trials
from transfuse.jobs.runner import runner_of
from transfuse.jobs.trials import front
from transfuse.recipe.load import from_values, load
from transfuse.recipe.sweep import SweepRecipe

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["transfuse.jobs.sweep", "transfuse.jobs.resume"])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFUSE_CACHE", str(tmp_path / "cache"))


def small(space, **changes) -> dict:
    train = {"epochs": 2, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32", "checkpoint_seconds": 0}
    return {
        "job": "sweep",
        "data": {"source": "bundled:digits", "labels_per_class": 10},
        "teacher": {"source": "builtin:mlp", "options": {"widths": [64]}, "train": {"steps": 20, "batch_size": 64, "precision": "fp32"}},
        "student": {"source": "builtin:mlp", "options": {"widths": [8]}},
        "objectives": [{"cross_entropy": {"weight": 0.1}}, {"kd": {"weight": 0.9}}],
        "train": train,
        "control": "none",
        "samples": False,
        "out": "run",
        "space": space,
        **changes,
    }


def start(values):
    recipe = from_values(values)
    assert isinstance(recipe, SweepRecipe)
    return sweep.run(recipe)


def accuracy(folder: Path, part: str = "") -> float:
    with np.load(folder / "predictions" / "student.npz") as content:
        return float((content[f"{part}outputs"].argmax(1) == content[f"{part}labels"]).mean())


def test_a_grid_asks_the_teacher_once_and_chooses_by_validation_over_seeds():
    run = start(small({"student.options.widths": [[4], [16]], "seed": [0, 1]}, prune=None))
    summary = run.summary
    entries = summary["runs"]
    assert [entry["differs"] for entry in entries] == [
        {"student.options.widths": widths, "seed": seed} for widths in ([4], [16]) for seed in (0, 1)
    ]
    assert [entry["teacher_forwards"] for entry in entries] == [1797, 0, 0, 0]
    assert summary["teacher_forwards"] == 1797
    resolved = load(run.path / "recipe.resolved.yaml")
    assert (resolved.sampler, resolved.trials) == ("grid", 4)  # type: ignore[attr-defined]
    folders = {entry["name"]: run.path / entry["path"] for entry in entries}
    val = {name: accuracy(folder, "val_") for name, folder in folders.items()}
    assert {entry["name"]: entry["validation"]["accuracy"] for entry in entries} == pytest.approx(val)

    means = {"small": (val["trial_0"] + val["trial_1"]) / 2, "large": (val["trial_2"] + val["trial_3"]) / 2}
    chosen = ["trial_2", "trial_3"] if means["large"] > means["small"] else ["trial_0", "trial_1"]
    best = max(chosen, key=lambda name: val[name])
    assert (summary["chosen"]["runs"], summary["chosen"]["run"]) == (chosen, best)
    assert summary["models"]["student"]["metrics"]["accuracy"] == pytest.approx(accuracy(folders[best]))
    test = [accuracy(folders[name]) for name in chosen]
    found = summary["aggregate"]["models"]["student"]["metrics"]["accuracy"]
    assert (found["mean"], found["std"]) == (pytest.approx(np.mean(test)), pytest.approx(np.std(test, ddof=1)))

    shown = {name for point in summary["front"] for name in point["runs"]} | set(chosen)
    for entry in entries:
        assert (entry["models"] is not None) == (entry["name"] in shown), "test figures are for the front and the chosen one only"
    latencies = [
        json.loads((folders[name] / "summary.json").read_text())["models"]["student"]["latency_ms"]["batch_1"]["p50"] for name in chosen
    ]
    assert summary["chosen"]["cost"]["latency_ms"]["batch_1"]["p50"] == pytest.approx(np.median(latencies))
    assert transfuse.load("run")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert (
        load(folders["trial_3"] / "recipe.resolved.yaml").teachers["teacher"].source == f"file:{folders['trial_0'] / 'teacher.safetensors'}"
    )  # type: ignore[attr-defined]


def test_of_a_teacher_kept_as_its_top_all_temperatures_are_kept_and_it_is_asked_once():
    train = {"steps": 2, "precision": "fp32"}
    run = start(small({"objectives.kd.temperature": [1, 3]}, cache={"top_k": 3}, prune=None, train=train))
    first, second = (entry["teacher_forwards"] for entry in run.summary["runs"])
    assert first > second == 0
    for folder in (run.path, run.path / "runs/trial_0", run.path / "runs/trial_1"):
        cache = load(folder / "recipe.resolved.yaml").cache  # type: ignore[attr-defined]
        assert (cache.top_k, cache.temperatures) == (3, [1.0, 3.0, 4.0])  # 4: kd's own, which a run of the recipe asks for


@pytest.mark.parametrize(
    ("space", "temperatures", "words"),
    [
        ({"objectives.kd.temperature": {"low": 1, "high": 8}}, None, "space.objectives.kd.temperature: is a range"),
        ({"objectives.kd.temperature": [1, 2]}, [1, 4], "cache.temperatures: trials soften the teacher at 2 too"),
    ],
)
def test_temperatures_that_a_cache_of_the_top_cannot_have_are_refused(space, temperatures, words):
    values = small(space, cache={"top_k": 3, "temperatures": temperatures})
    with pytest.raises(RecipeError) as caught:
        start(values)
    assert str(caught.value).startswith(words)
    assert not Path("run").exists()


def test_each_trial_decides_its_own_auto():
    run = start(small({"augment.crop": [0, 1]}, train={"steps": 2, "batch_size": 64, "precision": "fp32"}))
    views = [load(run.path / f"runs/trial_{number}/recipe.resolved.yaml").augment.views for number in (0, 1)]  # type: ignore[attr-defined]
    assert views == [1, 8], "one view without augmentation, eight with"


@pytest.mark.parametrize("repeated", [{"seeds": [0]}, {"validate": {"folds": 2}}])
def test_each_trial_decides_its_own_auto_on_a_fold_and_with_a_seed_too(repeated, monkeypatch):
    def one_is_enough(context, members):
        series.obtain(context, members[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(series, "run_all", one_is_enough)
    train = {"steps": 2, "batch_size": 64, "precision": "fp32"}
    recipe = from_values(small({"augment.crop": [0, 1]}, train=train, **repeated))
    with pytest.raises(KeyboardInterrupt):
        runner_of(recipe).run(recipe)
    trials_of = sorted(Path("run").glob("runs/*/runs/trial_*/recipe.resolved.yaml"))
    assert [load(path).augment.views for path in trials_of] == [1, 8]  # type: ignore[attr-defined]


class ByRate:
    """Stands in for training in a test of the search: a trial's validation is a function of its learning rate."""

    def __init__(self, curve):
        self.curve = curve

    def __call__(self, recipe, reporter, text, live):
        from transfuse.core.types import Progress

        rate = recipe.train.optimizer["adamw"]["lr"]
        folder = Path(recipe.out)
        folder.mkdir(parents=True)
        for epoch in range(1, 11):
            reporter.progress(Progress("student", 10 * epoch, 100, float(epoch), {"accuracy": self.curve(rate, epoch)}))
        right = round(100 * self.curve(rate, 10))
        outputs = np.eye(2)[np.array([0] * right + [1] * (100 - right))]
        (folder / "predictions").mkdir()
        answers = {"val_outputs": outputs, "val_labels": np.zeros(100, dtype=int), "outputs": outputs, "labels": np.zeros(100, dtype=int)}
        np.savez(folder / "predictions/student.npz", **answers)
        cost = {"parameters": 10, "macs": 10, "bytes": 40, "latency_ms": {"batch_1": {"p50": 1.0, "p95": 1.0}}}
        model = {"metrics": {"accuracy": right / 100}, "intervals": {}, "samples": 100, **cost}
        summary = {"task": "classification", "primary": {"name": "accuracy", "higher_is_better": True}, "models": {"student": model}}
        summary |= {"teachers": {}, "transfer": {}, "teacher_forwards": 0, "seconds": {"train": 1.0, "total": 2.0}, "seed": 0}
        for name, text in (
            ("summary.json", json.dumps(summary)),
            ("recipe.resolved.yaml", ""),
            ("student.json", "{}"),
            ("student.safetensors", ""),
        ):
            (folder / name).write_text(text)


@pytest.fixture
def untrained(monkeypatch):
    """A function that replaces the training of trials by a curve (learning rate, epoch) -> validation accuracy."""
    return lambda curve: monkeypatch.setattr("transfuse.jobs.distill.run", ByRate(curve))


RATES = {"train.optimizer.adamw.lr": {"low": 1e-4, "high": 1e-1, "log": True}}


def test_pruning_stops_trials_below_the_median_and_says_when(untrained):
    untrained(lambda rate, epoch: 0.09 * epoch * (0.5 if rate < 0.003 else 1.0))
    values = [0.1, 0.05, 0.002, 0.001, 0.02]
    run = start(small({"train.optimizer.adamw.lr": values}, prune={"startup": 2, "warmup": 0.35}))
    states = {entry["differs"]["train.optimizer.adamw.lr"]: (entry["state"], entry.get("stopped_at")) for entry in run.summary["runs"]}
    assert states == {
        0.1: ("finished", None),
        0.05: ("finished", None),
        0.002: ("pruned", 4.0),
        0.001: ("pruned", 4.0),
        0.02: ("finished", None),
    }, "two run to the end first; the first validation after 35% of the training is that of epoch 4"
    assert (run.path / "runs/trial_2").is_dir(), "a stopped trial's folder is kept"
    assert "stopped at epoch 4.0" in (run.path / "report.html").read_text()
    whole = start(small({"train.optimizer.adamw.lr": values}, prune=None, out="whole"))
    assert {entry["state"] for entry in whole.summary["runs"]} == {"finished"}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_is_the_same_whether_it_was_interrupted_or_not(untrained, monkeypatch, sampler):
    untrained(lambda rate, epoch: 0.09 * epoch * np.exp(-((np.log10(rate) + 2) ** 2)))
    whole = start(small(RATES, sampler=sampler, trials=14, prune=None, out="whole", seed=3))
    tried = [entry["differs"]["train.optimizer.adamw.lr"] for entry in whole.summary["runs"]]
    assert len(set(tried)) == 14
    assert all(1e-4 <= rate <= 1e-1 for rate in tried)

    obtain = sweep.series.obtain
    for stop in (3, 9, 12):

        def interrupted(context, member, reporter, stop=stop):
            if member.name == f"trial_{stop}":
                raise KeyboardInterrupt
            return obtain(context, member, reporter)

        with monkeypatch.context() as patched:
            patched.setattr(sweep.series, "obtain", interrupted)
            with pytest.raises(KeyboardInterrupt):
                resume.resume("run") if Path("run").exists() else start(small(RATES, sampler=sampler, trials=14, prune=None, seed=3))
    again = resume.resume("run")
    assert [entry["differs"]["train.optimizer.adamw.lr"] for entry in again.summary["runs"]] == tried
    assert again.summary["chosen"]["validation"] == max(entry["validation"]["accuracy"] for entry in again.summary["runs"])


def test_a_grid_that_is_stopped_before_it_begins_a_trial_goes_on_with_that_one(untrained, monkeypatch):
    untrained(lambda rate, epoch: rate)
    rates = [0.1, 0.2, 0.3]
    ask = optuna.Study.ask

    def stopped(study):
        if len(study.get_trials(deepcopy=False)) == 2:
            raise KeyboardInterrupt
        return ask(study)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "ask", stopped)
        with pytest.raises(KeyboardInterrupt):
            start(small({"train.optimizer.adamw.lr": rates}))
    entries = resume.resume("run").summary["runs"]
    assert [(entry["name"], entry["differs"]["train.optimizer.adamw.lr"]) for entry in entries] == [
        (f"trial_{number}", rate) for number, rate in enumerate(rates)
    ]
    assert [entry["validation"]["accuracy"] for entry in entries] == rates


def test_a_trial_that_fails_is_named_and_the_others_go_on(untrained):
    def curve(rate, epoch):
        if rate > 0.05:
            raise transfuse.errors.NumericsError("the loss became nan", where="training student")
        return 0.5

    untrained(curve)
    run = start(small({"train.optimizer.adamw.lr": [0.1, 0.01]}))
    failed, finished = run.summary["runs"]
    assert (failed["state"], failed["reason"]) == ("failed", "training student: the loss became nan")
    assert finished["state"] == "finished"
    assert "the loss became nan" in (run.path / "report.html").read_text()
    with pytest.raises(RunError, match="no trial ran to its end: training student"):
        start(small({"train.optimizer.adamw.lr": [0.1, 0.2]}, out="none"))


def work(values: dict) -> None:
    """In a process of its own: start the sweep, or go on with it."""
    torch.set_num_threads(1)
    if (Path(values["out"]) / "recipe.resolved.yaml").exists():
        resume.resume(values["out"])
    else:
        start(values)


def test_a_sweep_that_is_killed_twice_ends_with_the_same_trials_and_bits(tmp_path):
    space = {"objectives.kd.temperature": {"low": 1, "high": 8}, "student.options.widths": [[8], [12]]}
    whole, killed = (small(space, trials=3, sampler="tpe", out=str(tmp_path / name), prune=None) for name in ("whole", "killed"))
    start(whole)
    for number, part in ((0, "teacher.safetensors"), (1, "recipe.resolved.yaml")):
        process = PROCESSES.Process(target=work, args=(killed,))
        process.start()
        while not (tmp_path / f"killed/runs/trial_{number}" / part).exists() and process.is_alive():
            time.sleep(0.005)
        assert process.is_alive(), "the sweep was over before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    work(killed)
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "killed"))
    assert [entry["differs"] for entry in one["runs"]] == [entry["differs"] for entry in two["runs"]]
    assert all(not float(entry["differs"]["objectives.kd.temperature"]).is_integer() for entry in one["runs"]), (
        "drawn from a range of floats"
    )
    for number in range(3):
        first, second = (tmp_path / name / f"runs/trial_{number}" for name in ("whole", "killed"))
        assert (first / "student.safetensors").read_bytes() == (second / "student.safetensors").read_bytes()
        assert (first / "metrics.jsonl").read_text() == (second / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"trian.epochs": [1]}, "space.trian.epochs: the recipe has no key"),
        ({"objectives.fitnet.weight": [1]}, "the recipe has no objective 'fitnet'"),
        ({"objectives.kd.temperature": [4, -1]}, "space.objectives.kd.temperature"),
        ({"student.source": ["builtin:mlp", "builtin:resnet21"]}, "space.student.source: builtin:resnet21"),
        ({"augment.crop": [0, 9]}, "space.augment.crop: 9"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_anything_runs(space, words, capsys):
    Path("sweep.yaml").write_text(json.dumps(small(space)))
    assert command(["run", "sweep.yaml"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert not Path("run").exists()
    assert command(["check", "sweep.yaml"]) == 2


def test_without_optuna_one_line_names_the_extra(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(trials.importlib.util, "find_spec", lambda name, *more: None if name == "optuna" else find(name, *more))
    Path("sweep.yaml").write_text(json.dumps(small({"seed": [0, 1]})))
    assert command(["run", "sweep.yaml"]) == 2
    held = torch.__version__.partition("+")[0]  # an extra alone may bring another torch
    assert capsys.readouterr().err == f'a sweep needs the package optuna\n  pip install "transfuse[sweep]" "torch=={held}"\n'
    with pytest.raises(MissingExtra):
        start(small({"seed": [0]}))
    assert not Path("run").exists()


def test_the_front_holds_what_no_other_point_beats():
    random = np.random.default_rng(0)
    points = {str(number): tuple(map(float, random.integers(0, 5, 3))) for number in range(60)}
    slow = []
    for name, own in points.items():
        beaten = False
        for other in points.values():
            as_good = other[0] >= own[0] and other[1] >= own[1] and other[2] >= own[2]
            better = other[0] > own[0] or other[1] > own[1] or other[2] > own[2]
            beaten = beaten or (as_good and better)
        if not beaten:
            slow.append(name)
    assert front(points) == slow
    assert front({"a": (1.0, None), "b": (0.5, 2.0), "c": (float("nan"), 3.0)}) == ["b"]


def test_a_damaged_trial_is_named(untrained):
    untrained(lambda rate, epoch: 0.5)
    start(small({"train.optimizer.adamw.lr": [0.01]}))
    Path("run/summary.json").unlink()
    Path("run/runs/trial_0/predictions/student.npz").write_bytes(b"torn")
    with pytest.raises(TransfuseError, match=r"trial_0.*student\.npz"):
        resume.resume("run")
