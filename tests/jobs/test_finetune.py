"""Fine-tuning on real data: each policy in a job, the control from scratch, kills in mid-schedule, choices, refusals, live objects."""

import copy
import importlib.util
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

import transfuse
from transfuse import policies
from transfuse.core import ranks
from transfuse.core.card import Card
from transfuse.core.protocols import Silent
from transfuse.errors import ModelError, RecipeError, RunError, TransfuseError
from transfuse.jobs import check, distill, finetune, resume, seeds
from transfuse.jobs.context import Context
from transfuse.jobs.deliver import finish
from transfuse.jobs.finetuning import phases, rate_finder
from transfuse.jobs.rundir import RunDir
from transfuse.jobs.train.training import Lesson
from transfuse.recipe.load import from_values, load
from transfuse.report import finetuning, series_page, words
from transfuse.report.collect import collect

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["transfuse.jobs.finetune", "transfuse.jobs.resume"])
ADAPTERS = ("lora", "loha", "lokr", "ia3")
TRAIN = {"steps": 12, "batch_size": 32, "precision": "fp32", "optimizer": {"adamw": {"lr": 0.003}}}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A small convolutional network that knows the digits 0 to 4."""
    folder = tmp_path_factory.mktemp("start")
    write(folder / "low.npz", range(5))
    values = {
        "job": "distill",
        "data": f"arrays:{folder / 'low.npz'}",
        "student": {"source": "builtin:convnet", "options": {"widths": [8, 16]}},
        "objectives": ["cross_entropy"],
        "train": {**TRAIN, "steps": 80},
        "control": "none",
        "samples": False,
        "cache": {"dir": str(folder / "cache")},
        "out": str(folder / "run"),
    }
    distill.run(from_values(values))
    return folder / "run"


def write(path, digits, test=200):
    """Some digits as a file, with a test part."""
    bunch = load_digits()
    kept = np.isin(bunch.target, list(digits))
    inputs, labels = np.round(bunch.images[kept] * 255 / 16).astype(np.uint8), bunch.target[kept] - min(digits)
    names = np.array([str(digit) for digit in digits])
    np.savez(path, x_train=inputs[test:], y_train=labels[test:], x_test=inputs[:test], y_test=labels[:test], classes=names)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The digits 5 to 9, eight labels of each."""
    path = tmp_path_factory.mktemp("data") / "high.npz"
    write(path, range(5, 10))
    return {"source": f"arrays:{path}", "labels_per_class": 8}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def values(start, data, cache, tmp_path):
    """A function from changes to the values of a small recipe."""
    count = iter(range(100))

    def make(**changes):
        return {
            "job": "finetune",
            "data": data,
            "model": f"run:{start}",
            "train": TRAIN,
            "cache": {"dir": cache},
            "samples": False,
            "control": "none",
            "out": str(tmp_path / f"run{next(count)}"),
            **changes,
        }

    return make


@pytest.fixture(autouse=True)
def without_page(request, monkeypatch):
    """Drawing takes longer than these jobs; some tests look at the page."""
    if "looks_at_the_page" not in request.fixturenames:
        monkeypatch.setattr(finish, "report", lambda context: None)


@pytest.fixture
def looks_at_the_page():
    """Asked for by tests of the page."""


def run(made):
    return finetune.run(from_values(made))


def weights(path, name="student"):
    return load_file(Path(path) / f"{name}.safetensors")


def same(one, other, names=None):
    return all(torch.equal(one[name], other[name]) for name in names or one)


def notes(path):
    return json.loads((path / "reasons.json").read_text())["notes"]


def rows(path, kind="train"):
    return [row for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if row["kind"] == kind]


@pytest.mark.parametrize("name", [name for name in policies.names() if name not in ADAPTERS or importlib.util.find_spec("peft")])
def test_every_policy_trains_in_a_job_and_ships_a_plain_network(values, start, name):
    if name == "stoch_norm":
        made = values(policy=name, model=f"run:{start}")
    else:
        made = values(policy=name)
    found = run(made)
    before, after = weights(start), weights(found.path)
    assert before.keys() == after.keys(), "a network of the same architecture"
    assert after["head.weight"].shape[0] == 5 if "head.weight" in after else True
    assert found.summary["finetune"]["policy"].keys() == {name}
    assert found.summary["finetune"]["groups"][-1] == "head"
    opened = transfuse.load(found.path)
    with np.load(found.path / "predictions/student.npz") as kept:
        assert kept["outputs"].shape == (200, 5)
    assert not any("lora" in key or "base_layer" in key for key in opened.state_dict())


def body(state):
    """Names of all but the head and counters."""
    return [name for name in state if not name.startswith(("head", "linear", "classifier")) and "num_batches" not in name]


def test_a_probe_leaves_the_body_as_it_was_pretrained(values, start):
    found = run(values(policy="probe"))
    before, after = weights(start), weights(found.path)
    assert same(before, after, body(before))
    assert found.summary["finetune"]["phases"][0]["features"] is True


def test_a_probe_on_remembered_features_is_the_probe_of_the_whole_network(values, monkeypatch):
    remembered = run(values(policy="probe", augment={"crop": 1, "views": 2}))
    monkeypatch.setattr(phases, "head_on_features", lambda *arguments: None)
    live = run(values(policy="probe", augment={"crop": 1, "views": 2}))
    assert live.summary["finetune"]["phases"][0]["features"] is False
    one, other = weights(remembered.path), weights(live.path)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


class Impatient(Silent):
    """A reporter that stops a training at its sixth step."""

    def progress(self, progress):
        if progress.name == "student" and progress.step == 6:
            raise KeyboardInterrupt


@pytest.mark.parametrize("began", ["features", "network"])
def test_a_probe_goes_on_as_it_began_however_many_processes_there_are(values, monkeypatch, began):
    made = values(policy="probe", train={**TRAIN, "checkpoint_seconds": 0})
    with monkeypatch.context() as patched:
        if began == "network":
            patched.setattr(phases, "head_on_features", lambda *arguments: None)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(from_values(made), Impatient())
    if began == "features":
        with monkeypatch.context() as patched:
            patched.setattr(phases, "head_on_features", lambda *arguments: None)
            with pytest.raises(RunError, match=r"(?s)began with the head alone, on features .*as one process"):
                resume.resume(made["out"])
    found = resume.resume(made["out"])
    assert found.summary["finetune"]["phases"][0]["features"] is (began == "features")


def test_lp_ft_begins_its_second_phase_with_the_probes_head(values):
    probed = run(values(policy="probe", train={**TRAIN, "steps": 6, "select": "last"}))
    both = run(values(policy={"lp_ft": {"share": 0.5}}, train={**TRAIN, "select": "last"}))
    assert [(phase["name"], phase["steps"]) for phase in both.summary["finetune"]["phases"]] == [("probe", 6), ("all", 6)]
    assert same(weights(both.path, "student.probe"), weights(probed.path))
    assert not same(weights(both.path), weights(probed.path))
    stages = [row.get("stage", "") for row in rows(both.path)]
    assert stages == ["probe"] * 6 + [""] * 6
    assert [row["step"] for row in rows(both.path)] == list(range(1, 13))


def test_the_control_is_the_same_network_from_scratch_and_stands_for_all_policies(values, start, looks_at_the_page):
    first = run(values(control="reuse", samples=True))
    second = run(values(control="reuse", policy="lp_ft", batchnorm="frozen"))
    assert any("control: reused" in note for note in notes(second.path))
    control = weights(first.path / "control")
    before = weights(start)
    assert control.keys() == before.keys()
    assert not any(torch.equal(control[name], before[name]) for name in body(before) if control[name].ndim > 1)
    logged = [json.loads(line) for line in (first.path / "control/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged if row["kind"] == "train"] == [row["step"] for row in rows(first.path)]
    page = first.report.read_text()
    for text in ("Fine-tuning on arrays:", "from scratch", "full (backbone 1.0)"):
        assert text in page
    summary = first.summary
    answers = {name: np.load(first.path / f"predictions/{name}.npz") for name in ("student", "control")}
    accuracy = {name: float((one["outputs"].argmax(1) == one["labels"]).mean()) for name, one in answers.items()}
    assert summary["transfer"]["gain"] == pytest.approx(accuracy["student"] - accuracy["control"])
    low, high = summary["transfer"]["gain_interval"]
    assert low <= summary["transfer"]["gain"] <= high


def test_a_start_that_does_harm_is_called_negative_transfer(values, data, tmp_path):
    """Weights that say nothing, of which a probe can't learn, against the same network from scratch."""
    scrambled = transfuse.load(Path(values()["model"].removeprefix("run:")))
    with torch.no_grad():
        for parameter in scrambled.parameters():
            if parameter.ndim > 1:
                parameter.fill_(1e-3)
    train = {**TRAIN, "steps": 60}
    full = {"source": data["source"]}
    found = transfuse.finetune(
        full, scrambled, "probe", train=train, out=tmp_path / "harm", cache={"dir": str(tmp_path / "own")}, samples=False
    )
    assert found.summary["transfer"]["gain_interval"][1] < 0
    assert words.verdict(found.summary).sentence.startswith("Negative transfer: the student does worse than its control")


def test_seeds_repeat_the_whole_job_and_pair_student_with_control(values, monkeypatch):
    monkeypatch.setattr(series_page, "write", lambda path: None)
    found = seeds.run(from_values(values(control="reuse", seeds=2, policy="probe")))
    summary = found.summary
    gains = [entry["transfer"]["gain"] for entry in summary["runs"]]
    assert summary["aggregate"]["transfer"]["gain"]["mean"] == pytest.approx(np.mean(gains))
    assert len(gains) == 2


def work(made: dict) -> None:
    """In a process of its own: start the run, or go on with it."""
    torch.set_num_threads(1)
    finish.report = lambda context: None
    out = Path(made["out"])
    if not (out / "recipe.resolved.yaml").exists():
        finetune.run(from_values(made))
    elif not (out / "summary.json").exists():
        resume.resume(out)


def newest(out: Path) -> int:
    return max((int(path.stem.split("_")[1]) for path in (out / "checkpoints").glob("student*/step_*.pt")), default=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {"gradual": {"until": 0.6}}, "average": "greedy_soup"},
        {"policy": {"lp_ft": {"share": 0.4}}, "average": "wise_ft", "objectives": ["cross_entropy", "co_tuning"]},
    ],
    ids=["gradual", "lp_ft"],
)
def test_a_run_that_is_killed_in_the_middle_of_its_schedule_ends_with_the_same_bits(values, changes):
    train = {**TRAIN, "steps": 12, "checkpoint_seconds": 0, "ema": 0.9, "evaluate_every": 1.0}
    whole, killed = (values(train=train, augment={"crop": 1, "views": 3}, **changes) for _ in range(2))
    run(whole)
    out, kills = Path(killed["out"]), 0
    for goal in (3, 8, 1000):
        process = PROCESSES.Process(target=work, args=(killed,))
        process.start()
        while process.is_alive() and newest(out) < goal:
            time.sleep(0.002)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    assert kills == 2, "the run was over before it could be killed"
    assert same(weights(whole["out"]), weights(out))
    assert (out / "metrics.jsonl").read_text() == (Path(whole["out"]) / "metrics.jsonl").read_text()


def test_the_learning_rate_is_found_on_training_samples_and_leaves_no_trace_in_the_weights(values):
    found = run(values(lr="auto", policy="lp_ft", control="train"))
    known = json.loads((found.path / "lr_finder/student.json").read_text())
    assert found.summary["finetune"]["lr"] == known["lr"]
    assert 1e-5 < known["lr"] < 1
    assert (found.path / "lr_finder/control.json").exists()
    captions = [caption for caption, drawn in finetuning.figures(collect(found.path)) if drawn]
    assert "Learning-rate range test of the student" in captions
    assert not list((found.path / "checkpoints").glob("*range*/*.pt"))
    given = run(values(lr=known["lr"], policy="lp_ft"))
    assert same(weights(found.path), weights(given.path))


def test_a_range_test_takes_the_rate_of_the_steepest_fall():
    rates = np.array([rate_finder.rate_at(step) for step in range(rate_finder.STEPS)])
    assert rates[0] == pytest.approx(1e-6, rel=0.1)
    assert rates[-1] == pytest.approx(1.0, rel=0.1)
    assert np.allclose(np.diff(np.log(rates)), np.log(rates[1] / rates[0]))
    losses = 2 - 1.9 / (1 + (3e-3 / rates) ** 2) + np.where(rates > 0.1, 50 * rates, 0)  # falls most steeply at 3e-3, diverges from 0.1 on
    known = rate_finder.judged(list(losses))
    assert 2e-3 < known["lr"] < 1.2e-2, "a running mean comes a little late"
    assert known["curve"][-1][0] < 0.5
    assert rate_finder.judged([1.0 + 0.01 * step for step in range(100)])["lr"] is None
    assert len(rate_finder.judged([2.0, 1.9, float("nan"), 1.0])["curve"]) == 2


def test_of_several_processes_the_first_alone_handles_the_files_of_a_range_test(tmp_path, monkeypatch):
    folder, lines = tmp_path / "lr_finder", '{"kind": "train", "loss": 1.0}\n'
    checkpoint, log, place = (
        tmp_path / "checkpoints/student.range test/step_000000001.pt",
        folder / "student.jsonl",
        folder / "student.json",
    )

    def taught(context, model, data, lesson, views):
        for path in (checkpoint, log):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(lines)

    def waited():
        if log.exists():
            place.write_text('{"lr": 0.25, "curve": []}')  # by the first process, while this one waits

    folder.mkdir()
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    monkeypatch.setattr(ranks, "barrier", waited)
    monkeypatch.setattr(rate_finder, "teach", taught)
    recipe = from_values({"job": "finetune", "data": "bundled:digits", "model": "builtin:mlp", "train": TRAIN, "lr": "find"})
    lesson = Lesson("student", [], [], recipe.train, 0, tmp_path / "metrics.jsonl")
    assert rate_finder.obtain(Context(RunDir(tmp_path)), recipe, None, None, None, lesson, None) == 0.25
    assert checkpoint.read_text() == log.read_text() == lines


def test_depth_tries_policies_on_folds_and_says_what_it_took_and_why(values):
    made = values(depth="auto", train={**TRAIN, "steps": 30})
    found = run(made)
    known = json.loads((found.path / "depth.json").read_text())
    assert [len(one["scores"]) for one in known["rounds"]] == [3, 2]
    assert all(len(folds) == 3 for one in known["rounds"] for folds in one["scores"].values())
    (chosen,) = known["chosen"]
    last = {name: np.mean(folds) for name, folds in known["rounds"][-1]["scores"].items()}
    assert last[chosen] == max(last.values())
    assert found.summary["finetune"]["policy"] == known["chosen"]
    assert len(list(found.path.glob("depth/*/trial.json"))) == 15
    assert not list(found.path.glob("depth/*/checkpoints")), "nobody goes on with a trial that is over"
    assert any(f"depth: {chosen} is taken" in note for note in notes(found.path))
    captions = [caption for caption, drawn in finetuning.figures(collect(found.path)) if drawn]
    assert [caption.split(":")[0] for caption in captions] == ["Policies tried, round 1", "Policies tried, round 2"]
    (found.path / "summary.json").unlink()
    before = weights(found.path)
    (found.path / "student.safetensors").unlink()
    resume.resume(found.path)
    assert same(before, weights(found.path))
    assert load(found.path / "recipe.resolved.yaml").depth is not None


class Offset(nn.Module):
    """An objective that learns a number of its own, and tells with which value each copy of it begins."""

    card = Card("offset", needs=("labels",))
    began: ClassVar[list[float]] = []

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))
        self.new = True

    def forward(self, step):
        if self.new:
            self.began.append(self.offset.item())
        self.new = False
        return nn.functional.cross_entropy(step.student.logits * (1 + self.offset), step.batch.labels, reduction="none")


def test_trials_of_depth_begin_with_the_live_objective_as_it_was_given(tmp_path):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(80, 4, generator=generator), torch.arange(80) % 3
    data = ((inputs[:60], labels[:60]), (inputs[60:], labels[60:]))
    objective, depth = Offset(), {"candidates": ["full", "discriminative"], "folds": 2}
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    shared = {"control": "none", "cache": {"dir": str(tmp_path / "cache")}, "out": tmp_path / "run"}
    transfuse.finetune(data, model, objectives=[objective], train=TRAIN, depth=depth, **shared)
    assert objective.offset.item() == 0, "the caller's own object learns nothing"
    assert len(Offset.began) >= 5
    assert set(Offset.began) == {0.0}


def test_a_soup_is_the_mean_of_the_checkpoints_that_validation_keeps(values):
    made = values(average="greedy_soup", train={**TRAIN, "steps": 20, "evaluate_every": 1.0, "optimizer": {"adamw": {"lr": 0.02}}})
    about = run(made).summary["finetune"]["average"]
    assert about["validation"] >= max(about["alone"]) - 1e-9
    assert set(about["kept"]) <= set(about["steps"])
    assert len(about["steps"]) == 5


def test_wise_ft_ships_the_best_point_between_probe_and_end(values):
    found = run(values(policy="lp_ft", average={"how": "wise_ft", "points": 5}))
    about = found.summary["finetune"]["average"]
    assert list(about["validation"]) == ["0", "0.25", "0.5", "0.75", "1"]
    assert about["validation"][f"{about['alpha']:g}"] == max(about["validation"].values())
    if about["alpha"] == 0:
        assert same(weights(found.path), weights(found.path, "student.probe"), body(weights(found.path)))


@pytest.mark.parametrize("term", ["l2_sp", "delta", "bss", "co_tuning", "bi_tuning", "ewc"])
def test_objectives_that_use_the_start_train_in_a_job(values, term):
    augment = {"crop": 1, "views": 2} if term == "bi_tuning" else {}
    found = run(values(objectives=["cross_entropy", term], train={**TRAIN, "steps": 3}, augment=augment, control="reuse"))
    logged = [row["terms"][term] for row in rows(found.path)]
    assert len(logged) == 3
    assert np.isfinite(logged).all()
    control = [json.loads(line) for line in (found.path / "control/metrics.jsonl").read_text().splitlines()]
    assert "cross_entropy" in control[0]["terms"]
    assert not {"l2_sp", "delta", "co_tuning", "ewc"} & set(control[0]["terms"]), "nothing of the start is in the control"


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs):
        return self.head(self.body(inputs).relu())


def columns(seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(120, 4, generator=generator)
    return inputs, (inputs[:, :3]).argmax(1)


def test_python_takes_live_objects_and_leaves_them_alone(tmp_path):
    model = Tiny()
    before = copy.deepcopy(model.state_dict())
    arguments = {"train": {"steps": 4, "batch_size": 16}, "cache": {"dir": str(tmp_path / "cache")}, "samples": False}
    found = transfuse.finetune((columns(), columns(1)), model, {"last_n": {"n": 1}}, out=tmp_path / "run", **arguments)
    assert same(before, model.state_dict())
    assert found.summary["models"].keys() == {"student", "control"}
    (tmp_path / "run/summary.json").unlink()
    with pytest.raises(RunError, match="data, student"):
        transfuse.resume(tmp_path / "run")
    transfuse.resume(tmp_path / "run", data=(columns(), columns(1)), student=model)


def test_what_is_frozen_when_it_comes_stays_frozen(tmp_path):
    model = Tiny()
    model.body.requires_grad_(False)
    found = transfuse.finetune((columns(), columns(1)), model, train={"steps": 4}, control="none", out=tmp_path / "run", samples=False)
    after = weights(found.path)
    assert torch.equal(after["body.weight"], model.body.weight)
    assert not torch.equal(after["head.weight"], model.head.weight)


def test_a_frozen_model_with_nothing_to_train_is_refused_before_training(tmp_path):
    model = Tiny().requires_grad_(False)
    with pytest.raises(RecipeError, match=r"every parameter of live:Tiny is frozen .* nothing to train"):
        transfuse.finetune((columns(), columns(1)), model, train={"steps": 4}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    model.body.requires_grad_(True)
    with pytest.raises(RecipeError, match="nothing to train"):
        transfuse.finetune((columns(), columns(1)), model.requires_grad_(False), "probe", train={"steps": 4}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": {"last_n": {"n": 9}}}, "groups before its head"),
        ({"model": {"source": "builtin:convnet"}}, "no trained weights, so there is nothing to fine-tune"),
        ({"average": "wise_ft"}, "whose head is new and knows nothing"),
        ({"depth": {"folds": 9}, "data": None}, "can't be dealt into 9 folds"),
        ({"depth": {"budget": 0.1}}, "the first round would have"),
        ({"objectives": ["cross_entropy", "mcc"]}, "a source and a target domain"),
        ({"objectives": ["cross_entropy", {"delta": {"teacher_tap": "nowhere"}}]}, "nowhere"),
        ({"objectives": ["cross_entropy", "bi_tuning"]}, "compares two views"),
        ({"policy": "lp_ft", "train": {"steps": 1}}, "can't be shared by 2 phases"),
        ({"policy": "bitfit", "batchnorm": "frozen", "train": {"stop": {"metric": "accurracy"}}}, "did you mean 'accuracy'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_mistakes_are_refused_before_training_and_leave_nothing(values, data, changes, words):
    if changes.get("data", 0) is None:
        changes = {**changes, "data": {**data, "labels_per_class": 3}}
    made = values(**changes)
    with pytest.raises(TransfuseError) as caught:
        run(made)
    assert words in str(caught.value)
    assert not Path(made["out"]).exists()


def test_a_head_that_cannot_be_found_is_refused(tmp_path):
    class Headless(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

        def forward(self, inputs):
            return inputs @ self.weight

    with pytest.raises(ModelError, match="head"):
        transfuse.finetune((columns(), columns(1)), Headless(), train={"steps": 4}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_checking_writes_nothing_and_gives_a_recipe_that_runs(values):
    made = values(depth="auto", lr="auto", train={**TRAIN, "steps": 30})
    recipe, reasons = check.run(from_values(made))
    assert not Path(made["out"]).exists()
    assert [block.name for block in recipe.objectives] == ["cross_entropy"]
    assert "train.batch_size" in reasons or recipe.train.batch_size == 32
