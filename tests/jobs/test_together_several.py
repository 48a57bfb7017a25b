"""Several tasks on one backbone: heads, weights and shares by name, kills, the network of each task, what is refused."""

import json
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
from transfuse.core.types import ModelRequest
from transfuse.errors import DataError, TransfuseError
from transfuse.evaluate.predict import predict
from transfuse.jobs import together
from transfuse.jobs.deliver import finish
from transfuse.jobs.prepare import opening, tasks
from transfuse.models import open_model
from transfuse.recipe.load import from_values, load
from transfuse.report import together as report

DIGITS = np.array([str(number) for number in range(10)])
TRAIN = {"steps": 6, "batch_size": 40, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Digits moved by a pixel, turned ones under five other names, and whether moved ones are odd."""
    folder, bunch = tmp_path_factory.mktemp("sources"), load_digits()
    pictures, labels = np.round(bunch.images * 160 / 16).astype(np.uint8)[:400], bunch.target[:400]
    moved, turned = np.roll(pictures, 1, axis=2), np.rot90(pictures, axes=(1, 2)).copy()
    np.savez(folder / "moved.npz", x=moved, y=labels, classes=DIGITS)
    np.savez(folder / "letters.npz", x=turned[labels < 5], y=labels[labels < 5], classes=np.array(list("abcde")))
    np.savez(folder / "parity.npz", x=moved, y=labels % 2, classes=np.array(["even", "odd"]))
    np.savez(folder / "coloured.npz", x=np.stack([turned] * 3, axis=-1), y=labels % 3, classes=np.array(["x", "y", "z"]))
    return folder


@pytest.fixture
def values(sources, tmp_path):
    """A function from changes to the values of a small recipe of three sources."""
    count = iter(range(100))

    def make(names=("moved", "letters", "parity"), **changes):
        return {
            "job": "together",
            "sources": {name: f"arrays:{sources / name}.npz" for name in names},
            "target": {"source": "bundled:digits", "labels_per_class": 4},
            "student": {"source": "builtin:mlp", "options": {"widths": [16], "dropout": 0.1}},
            "train": TRAIN,
            "control": "none",
            "cache": {"dir": str(tmp_path / "cache")},
            "samples": False,
            "out": str(tmp_path / f"run{next(count)}"),
            **changes,
        }

    return make


@pytest.fixture(autouse=True)
def without_page(monkeypatch):
    """Drawing takes longer than these jobs."""
    monkeypatch.setattr(finish, "report", lambda context: None)


def go(made, reporter=None):
    return together.run(from_values(made), reporter)


def student_of(run):
    return run.path / "student.safetensors"


def lines(path):
    return [row for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if row["kind"] == "train"]


def notes(path):
    return json.loads((path / "reasons.json").read_text())["notes"]


def same_bits(one, two):
    one, two = load_file(one), load_file(two)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_every_task_has_its_network_and_its_figures(values):
    run = go(values(control="train", train={**TRAIN, "steps": 40}))
    assert run.summary["together"]["heads"] == {"moved": "shared", "letters": "own", "parity": "own"}
    found = run.summary["tasks"]
    assert {name: sorted(block["models"]) for name, block in found.items()} == {
        "moved": ["control", "student"],
        "letters": ["student"],
        "parity": ["student"],
    }
    assert found["letters"]["models"]["student"]["metrics"]["accuracy"] > 0.4, "five classes"
    student = load_file(run.path / "student.safetensors")
    for name, classes in (("letters", list("abcde")), ("parity", ["even", "odd"])):
        model = open_model(f"run:{run.path}#head:{name}", ModelRequest())
        assert model.classes == classes
        head = load_file(run.path / f"heads/{name}.safetensors")
        backbone = [key for key in student if not key.startswith("linear")]
        assert backbone
        assert all(torch.equal(head[key], student[key]) for key in backbone)
        data = tasks.open_sets(load(run.path / "recipe.resolved.yaml"), opening.reopen(run.path, None, None)).sources[name]
        outputs = predict(model.network, data.test, model.preprocess)
        accuracy = float((outputs.argmax(1) == data.test.labels).float().mean())
        assert accuracy == pytest.approx(found[name]["models"]["student"]["metrics"]["accuracy"])
    assert transfuse.load(f"run:{run.path}#head:parity")(torch.randn(3, 1, 8, 8)).shape == (3, 2)
    told = report.tasks(run.summary, "accuracy")
    assert len(told) == 3
    assert "'letters' the network with its own head reaches" in told[1]


def test_the_loss_has_a_term_for_each_source_with_its_own_weight(values):
    weights = {"moved": 0.5, "letters": {"linear": {"start": 1.0, "end": 0.0}}, "parity": 2}
    for row in lines(go(values(source_weight=weights)).path):
        terms = row["terms"]
        faded = 1 - (row["step"] - 1) / TRAIN["steps"]
        expected = terms["target"] + 0.5 * terms["moved"] + faded * terms["letters"] + 2 * terms["parity"]
        assert row["loss"] == pytest.approx(expected, rel=1e-4)


def test_all_weights_can_be_learnt_and_all_terms_give_way_to_each_other(values):
    run = go(values(source_weight="uncertainty", train={**TRAIN, "gradients": "pcgrad"}))
    learnt = run.summary["together"]["learnt_weights"]
    assert set(learnt) == {"target", "moved", "letters", "parity"}
    assert all(weight not in (0, 1) for weight in learnt.values())
    assert not same_bits(student_of(run), student_of(go(values(source_weight="uncertainty"))))


def test_a_source_of_weight_zero_is_in_no_batch_and_one_alone_with_it_learns_as_if_it_were_not_there(values):
    run = go(values(source_weight={"moved": 0, "letters": 1, "parity": 0}))
    assert {name for row in lines(run.path) for name in row["terms"]} == {"target", "letters"}
    assert run.summary["tasks"]["parity"]["models"] == {}
    assert "weight is 0" in run.summary["tasks"]["parity"]["reason"]
    none = go(values(source_weight={"moved": 0, "letters": 0, "parity": 0}, control="train"))
    assert same_bits(student_of(none), none.path / "control/student.safetensors")


def test_batches_hold_every_set_and_the_sources_share_what_the_target_leaves(values):
    held = {}
    for share in (0.4, "size"):
        run = go(values(target_share=share, train={**TRAIN, "steps": 1}))
        held[share] = next(note for note in notes(run.path) if note.startswith("each batch"))
    assert held[0.4] == "each batch holds 8 moved, 8 letters, 8 parity and 16 target samples; 1 steps"
    assert held["size"] == "each batch holds 15 moved, 8 letters, 15 parity and 2 target samples; 1 steps"


def test_a_killed_run_ends_with_the_bits_of_a_whole_one_heads_included(values):
    class Impatient(Silent):
        def progress(self, progress):
            if progress.name == "source_weight_1" and progress.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    changes = {"source_weight": [0.5, 1.0], "train": {**TRAIN, "checkpoint_seconds": 0, "ema": 0.9}}
    made = values(**changes)
    with pytest.raises(KeyboardInterrupt):
        go(made, Impatient())
    run, whole = transfuse.resume(made["out"]), go(values(**changes))
    for place in ("student", "heads/letters", "heads/parity"):
        assert same_bits(run.path / f"{place}.safetensors", whole.path / f"{place}.safetensors")
    assert run.summary["tasks"] == whole.summary["tasks"]


def test_one_source_by_its_usual_name_is_the_short_form_to_the_bit(values, sources):
    long = go(values(names=(), sources={"source": f"arrays:{sources / 'letters'}.npz"}))
    short = go(values(names=(), source=f"arrays:{sources / 'letters'}.npz"))
    for place in ("student", "heads/source"):
        assert same_bits(long.path / f"{place}.safetensors", short.path / f"{place}.safetensors")


def test_heads_can_be_asked_for_by_name(values):
    run = go(values(names=("moved", "parity"), heads={"moved": "own"}))
    assert run.summary["together"]["heads"] == "own"
    assert open_model(f"run:{run.path}#head:moved", ModelRequest()).classes == list(DIGITS)


def test_one_coloured_source_makes_all_sets_coloured(values):
    run = go(values(names=("parity", "coloured"), train={**TRAIN, "steps": 1}))
    assert open_model(f"run:{run.path}#head:parity", ModelRequest()).network(torch.randn(2, 3, 8, 8)).shape == (2, 2)


def test_the_same_inputs_under_other_classes_are_another_task(tmp_path):
    inputs = torch.randn(60, 5)
    parts = [(inputs, (inputs[:, 0] > 0).long()), (inputs, (inputs[:, :3]).argmax(1))]
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    arguments = {"control": "none", "cache": {"dir": str(tmp_path / "cache")}, "samples": False, "train": {"steps": 2, "batch_size": 20}}
    sets = {"sources": {"sign": (parts[0], parts[0])}, "target": (parts[1], parts[1])}
    run = transfuse.together(student=network, out=tmp_path / "run", **sets, **arguments)
    assert run.summary["tasks"]["sign"]["head"] == "own"
    assert (run.path / "heads/sign.safetensors").exists()


class Louder(torch.nn.Module):
    """A network that multiplies what its last layer says."""

    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(64, 4), torch.nn.Linear(4, 10)

    def forward(self, inputs):
        return 2 * self.head(self.body(inputs.flatten(1)))


def test_a_last_layer_that_is_a_convolution_is_replaced_by_one(values):
    ending = [torch.nn.Conv2d(4, 10, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), *ending)
    run = live(values, network)
    assert load_file(run.path / "heads/parity.safetensors")["2.weight"].shape == (2, 4, 1, 1)


def test_a_network_that_changes_what_its_last_layer_says_keeps_no_head_and_says_so(values):
    run = live(values, Louder())
    assert not (run.path / "heads").exists()
    assert any("can't be kept as a network of its own" in note for note in notes(run.path))


def live(values, network):
    made = values(names=("parity",), train={**TRAIN, "steps": 1})
    del made["job"]
    return transfuse.together(**{**made, "student": network})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "bundled:digits"}, "both given"),
        ({"sources": {}}, "source: is missing"),
        ({"sources": {"target": "bundled:digits"}}, "can't be called 'target'"),
        ({"source_weight": {"moved": 1}}, "nothing is said about 'letters'"),
        ({"source_weight": {"moved": 1, "letters": 1, "paritee": 1}}, "no source 'paritee' - did you mean 'parity'"),
        ({"source_weight": {"moved": 1, "letters": -1, "parity": 1}}, "-1 is negative"),
        ({"source_weight": {"moved": [0, 1], "letters": 1, "parity": 1}}, "chosen from for all sources at once"),
        ({"source_weight": {"moved": "uncertainty", "letters": 1, "parity": 1}}, "weighs all terms"),
        ({"source_weight": {"moved": True, "letters": 1, "parity": 1}}, "no weight"),
        ({"heads": {"other": "own"}}, "no source 'other'"),
        ({"train": {**TRAIN, "batch_size": 3}}, "a batch of 3 would hold 1 of the moved and 1 of the letters"),
        ({"sources": {"a": "bundled:diabetes"}}, "the target's task is classification, the 'a' set's regression"),
        ({"sources": {"a": "bundled:digitz"}}, r"sources\.a"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_written(values, changes, words):
    made = values(**changes)
    with pytest.raises(TransfuseError, match=words):
        go(made)
    assert not Path(made["out"]).exists()


def test_a_shared_head_for_other_classes_names_the_source(values):
    with pytest.raises(DataError, match=r"(?s)only in the 'letters' set: a, b, c.*heads\.letters=own"):
        go(values(heads={"letters": "shared"}))


def test_an_unknown_head_is_refused_with_those_that_are_there(values):
    run = go(values(names=("parity",), train={**TRAIN, "steps": 1}))
    with pytest.raises(TransfuseError, match=r"no head paritee - did you mean 'head:parity'|it has: .*head:parity"):
        open_model(f"run:{run.path}#head:paritee", ModelRequest())


def test_the_command_takes_sources_by_name(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    named = [f"sources.{name}=arrays:{sources / name}.npz" for name in ("letters", "parity")]
    arguments = ["target=bundled:digits", "student=builtin:mlp", "train.steps=2", "control=none", "samples=false", "out=run"]
    assert command(["together", *named, *arguments, "sources.parity.size=8", "source_weight={letters: 1, parity: 0.5}"]) == 0
    assert "run:PATH#head:parity" in capsys.readouterr().err


def test_from_python_a_source_may_be_called_source(tmp_path):
    def labelled():
        inputs, labels = torch.rand(60, 4), torch.arange(60) % 2
        return (inputs[:40], labels[:40]), (inputs[40:], labels[40:])

    settings = {"student": torch.nn.Linear(4, 2), "train": TRAIN, "control": "none", "cache": {"dir": str(tmp_path / "cache")}}
    run = transfuse.together(sources={"source": labelled(), "other": labelled()}, target=labelled(), out=tmp_path / "run", **settings)
    assert set(run.summary["tasks"]) == {"source", "other"}
