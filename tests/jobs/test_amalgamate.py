"""One student out of specialists with overlapping and disjoint class sets, on real digits: no label needed, and who is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from transfuse.core.preprocess import Preprocess
from transfuse.core.protocols import Silent
from transfuse.core.types import ModelRequest, Target
from transfuse.errors import ModelError, RecipeError
from transfuse.jobs import amalgamate, fuse
from transfuse.jobs import resume as resuming
from transfuse.jobs.context import Context, Live
from transfuse.jobs.deliver import finish
from transfuse.jobs.fusing import spreading
from transfuse.jobs.parts import terms
from transfuse.jobs.rundir import RunDir
from transfuse.jobs.runner import runner_of
from transfuse.models import open_model, save_model
from transfuse.objectives.outputs.amalgamate import joined
from transfuse.recipe.load import from_values

NAMES = [f"digit {number}" for number in range(10)]
SETS = {"low": range(7), "high": range(4, 10), "first": range(5), "last": range(5, 10)}
TRAIN = {"steps": 150, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.01}}, "select": "last", "precision": "fp32", "evaluate_every": 100}
RAW = Preprocess(scale=1 / 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits as arrays with and without training labels, and a specialist for each set of classes."""
    place = tmp_path_factory.mktemp("digits")
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    inputs, labels = bunch.images[order].astype(np.uint8)[:, None], bunch.target[order]
    parts = {"x_train": inputs[600:1200], "y_train": labels[600:1200], "x_test": inputs[1200:], "y_test": labels[1200:], "classes": NAMES}
    counts = {"train": 600, "val": 100, "test": len(inputs) - 1200}
    names = {part: [f"{part} {number}" for number in range(count)] for part, count in counts.items()}
    hidden = {**parts, "x_val": inputs[500:600], "y_val": labels[500:600], **{f"ids_{part}": own for part, own in names.items()}}
    np.savez(place / "labelled.npz", **hidden)
    np.savez(place / "silent.npz", **{**hidden, "y_train": np.full(600, -1)})
    for seed, (name, known) in enumerate(SETS.items()):
        rows = np.isin(labels[:500], known)
        specialist = trained(torch.tensor(inputs[:500][rows]), torch.tensor(labels[:500][rows] - known[0]), len(known), seed)
        save_model(replace(specialist, classes=[NAMES[number] for number in known]), place / f"{name}.safetensors", {})
    return place


def trained(inputs, labels, outputs, seed):
    model = open_model("builtin:mlp", ModelRequest(outputs=outputs, input_shape=(1, 8, 8), options={"widths": [32]}, seed=seed))
    optimizer = torch.optim.Adam(model.network.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        cross_entropy(model.network(RAW(inputs)), labels).backward()
        optimizer.step()
    return replace(model, module=model.network.eval(), preprocess=RAW, pretrained=True)


def load_values(folder, names=("low", "high"), data="labelled"):
    return {
        "job": "fuse",
        "how": "amalgamate",
        "data": f"arrays:{folder / data}.npz",
        "sources": {name: f"file:{folder / name}.safetensors" for name in names},
        "student": {"source": "builtin:mlp", "options": {"widths": [48]}},
        "train": TRAIN,
        "cache": {"dir": str(folder / "cache")},
        "samples": False,
    }


def amalgamated(folder, out, names=("low", "high"), data="labelled", **changes):
    return fuse.run(from_values({**load_values(folder, names, data), "out": str(out), **changes}))


def test_overlapping_specialists_make_one_student_that_says_what_they_say_together(folder, tmp_path):
    summary = amalgamated(folder, tmp_path / "run").summary
    models = {name: block["metrics"]["accuracy"] for name, block in summary["models"].items()}
    assert models["student"] > 0.85
    assert abs(models["student"] - models["ensemble"]) < 0.04
    assert models["control"] > 0.9
    assert summary["amalgamation"]["classes"]["high"] == NAMES[4:]
    assert "labels of all classes together" in summary["amalgamation"]["upper_bound"]
    assert all(block["metrics"]["accuracy"] > 0.9 for block in summary["sources"].values())  # each among its own classes
    spread = summary["amalgamation"]["spread"]
    assert spread["neighbours"] == 10
    assert spread["samples"] == 600
    assert spread["agreed"] > 0.8
    assert "spread among neighbours" in (tmp_path / "run" / "report.html").read_text()
    student = open_model(f"run:{tmp_path / 'run'}")
    assert student.classes == NAMES


def test_the_student_has_the_same_bits_whether_or_not_there_are_training_labels(folder, tmp_path):
    states = []
    for data in ("labelled", "silent"):
        run = amalgamated(folder, tmp_path / data, ("first", "last"), data, control="none")
        states.append(run.student.state_dict())
        assert run.summary["models"].keys() == {"student", "ensemble"}
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_sources_are_remembered_and_their_features_can_be_learnt_from_together_and_one_by_one(folder, tmp_path):
    changes = {
        "objectives": [
            "amalgamate",
            "common_features",
            "layer_amalgamation",
            {"fitnet": {"weight": 1.0, "teacher": "low", "student_tap": "linear@input", "teacher_tap": "linear@input"}},
            {"fitnet": {"weight": 1.0, "teacher": "high", "student_tap": "linear@input", "teacher_tap": "linear@input"}},
        ],
        "control": "none",
    }
    first = amalgamated(folder, tmp_path / "first", cache={"dir": str(tmp_path / "cache")}, **changes)
    assert first.summary["teacher_forwards"] > 0
    again = amalgamated(folder, tmp_path / "again", cache={"dir": str(tmp_path / "cache")}, **changes)
    assert again.summary["teacher_forwards"] == 0
    assert all(torch.equal(value, again.student.state_dict()[key]) for key, value in first.student.state_dict().items())
    lines = [json.loads(line) for line in (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()]
    terms = [line["terms"] for line in lines if "terms" in line]
    assert terms[-1]["common_features"] < terms[0]["common_features"]
    assert terms[-1]["fitnet"] < terms[0]["fitnet"]
    assert terms[-1]["fitnet_2"] < terms[0]["fitnet_2"]


def checked(folder, **changes):
    recipe = from_values({**load_values(folder), "out": str(folder / "never"), **changes})
    return fuse.check(recipe, Silent(), Live())[0].how[0].parameters["spread"]


def test_what_is_taught_is_spread_among_neighbours_unless_the_recipe_or_mixed_pictures_say_otherwise(folder):
    assert checked(folder) == {"neighbours": 10, "rounds": 3, "share": 0.7, "agreement": 0.5}
    assert checked(folder, how={"amalgamate": {"spread": None}}) is None
    assert checked(folder, augment={"mixup": True}) is None
    with pytest.raises(RecipeError, match=r"how.amalgamate.spread: .* says nothing about mixed samples"):
        checked(folder, how={"amalgamate": {"spread": {"rounds": 2}}}, augment={"mixup": True})
    assert not (folder / "never").exists()


def test_sources_are_replaced_by_a_table_of_their_spread_join_and_asked_no_more(folder, tmp_path):
    recipe = from_values({**load_values(folder), "out": str(tmp_path / "run")})
    context = Context(RunDir(tmp_path / "run"))
    opened = amalgamate.prepare(recipe, context)
    models = {name: source.model for name, source in opened.sources.items()}
    oracles = {name: amalgamate.oracle_of(context, opened.recipe, opened.data, name, model) for name, model in models.items()}
    objective = terms.build(opened.recipe.objectives[0], tuple(oracles), {})
    taught = spreading.settle(context, opened.recipe, opened.data, opened.data.train, [objective], oracles)
    assert list(taught.oracles) == ["join amalgamate"]
    assert taught.objectives[0].teachers == ("join amalgamate",)
    said = taught.oracles["join amalgamate"].outputs(opened.data.train)
    assert torch.equal(joined([said]).argmax(1), said.argmax(1))
    plain = joined([oracle.outputs(opened.data.train) for oracle in oracles.values()])
    assert int((plain.argmax(1) != said.argmax(1)).sum()) == taught.figures["changed"]
    demanding = opened.recipe.how[0].model_copy(update={"parameters": {"spread": {"agreement": 1.0}}})
    left = spreading.settle(
        context, opened.recipe.model_copy(update={"how": [demanding]}), opened.data, opened.data.train, [objective], oracles
    )
    assert left.objectives == [objective]
    assert list(left.oracles) == ["low", "high"]


@pytest.mark.parametrize("common", [0, 1, 10])
def test_nothing_is_spread_where_too_few_samples_have_an_answer_from_all_sources(folder, tmp_path, common):
    with np.load(folder / "labelled.npz") as stored:
        ids, others = stored["ids_train"], np.concatenate([stored["ids_val"], stored["ids_test"]])
    sources = {"low": f"file:{folder / 'low'}.safetensors"}
    for name, own in {"one": ids[: 300 + common], "two": ids[300:]}.items():
        covered = np.concatenate([own, others])
        np.savez(tmp_path / f"{name}.npz", ids=covered, logits=np.eye(6)[np.arange(len(covered)) % 6], classes=np.array(NAMES[4:]))
        sources[name] = {"source": f"predictions:{tmp_path / name}.npz", "classes": NAMES[4:]}
    recipe = from_values({**load_values(folder), "sources": sources, "out": str(tmp_path / "run")})
    context = Context(RunDir(tmp_path / "run"))
    opened = amalgamate.prepare(recipe, context)
    models = {name: source.model for name, source in opened.sources.items()}
    oracles = {name: amalgamate.oracle_of(context, opened.recipe, opened.data, name, model) for name, model in models.items()}
    objective = terms.build(opened.recipe.objectives[0], tuple(oracles), {})
    taught = spreading.settle(context, opened.recipe, opened.data, opened.data.train, [objective], oracles)
    assert (taught.objectives, list(taught.oracles), taught.figures) == ([objective], ["low", "one", "two"], {})
    assert f"{common} of 600 training samples have an answer from all sources, too few for 10 neighbours" in context.notes[-1]


def test_what_sources_were_asked_before_an_interruption_is_counted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "report", lambda context: None)
    changes = {"control": "none", "train": {**TRAIN, "steps": 2}}
    whole = amalgamated(folder, tmp_path / "whole", cache={"dir": str(tmp_path / "one")}, **changes).summary["teacher_forwards"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(amalgamate.distill, "obtain_student", killed)
        with pytest.raises(KeyboardInterrupt):
            amalgamated(folder, tmp_path / "cut", cache={"dir": str(tmp_path / "other")}, **changes)
    assert resuming.resume(tmp_path / "cut").summary["teacher_forwards"] == whole > 600


def test_an_interrupted_run_goes_on_where_it_was(folder, tmp_path):
    whole = amalgamated(folder, tmp_path / "whole", control="none")
    cut = amalgamated(folder, tmp_path / "cut", control="none")
    for name in ("summary.json", "student.safetensors"):
        (cut.path / name).unlink()
    resumed = resuming.resume(cut.path)
    assert all(torch.equal(value, whole.student.state_dict()[key]) for key, value in resumed.student.state_dict().items())


def test_class_sets_that_contradict_the_data_are_refused_with_their_names(folder, tmp_path):
    other = {
        "source": f"file:{folder / 'low'}.safetensors",
        "classes": ["digit 0", "digit 1", "cat", "digit 3", "digit 4", "digit 5", "dog"],
    }
    sources = {"low": other, "high": f"file:{folder / 'high'}.safetensors"}
    with pytest.raises(ModelError, match=r"contradict the data's: it knows digit 0, digit 1, cat, .* the data have no cat, dog") as caught:
        amalgamated(folder, tmp_path / "run", sources=sources)
    assert "sources.low" in str(caught.value)
    assert not (tmp_path / "run").exists()


def changed(folder, tmp_path, change):
    """The second specialist, spoilt."""
    model = open_model(f"file:{folder / 'high'}.safetensors")
    with torch.no_grad():
        change(model)
    save_model(model, tmp_path / "odd.safetensors", {})
    return {"low": f"file:{folder / 'low'}.safetensors", "odd": f"file:{tmp_path / 'odd'}.safetensors"}


def set_bias_nan(model):
    model.network.linear.bias[0] = torch.nan


def say_always_the_same(model):
    model.network.linear.weight.zero_()


def other_task(model):
    model.classes, model.target = None, Target([f"y{number}" for number in range(6)], [0.0] * 6, [1.0] * 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_bias_nan, r"sources.odd: .* says NaN or infinity about 64 of 64"),
        (say_always_the_same, r"sources.odd: .* says the same about each of 64 validation samples"),
        (other_task, r"sources.odd: .* was made for regression, and the data's labels are for classification"),
    ],
)
def test_a_specialist_that_says_nothing_is_refused_before_anything_is_written(folder, tmp_path, change, message):
    with pytest.raises(ModelError, match=message):
        amalgamated(folder, tmp_path / "run", sources=changed(folder, tmp_path, change))
    assert not (tmp_path / "run").exists()


def test_a_missing_specialist_stops_the_job_or_is_gone_without(folder, tmp_path):
    sources = {**{name: f"file:{folder / name}.safetensors" for name in ("low", "high")}, "gone": f"file:{tmp_path / 'gone.pt'}"}
    with pytest.raises(ModelError, match=r"(?s)sources.gone: there is no .*gone.pt.*missing=skip"):
        amalgamated(folder, tmp_path / "run", sources=sources)
    recipe = from_values({**load_values(folder), "sources": sources, "missing": "skip", "out": str(tmp_path / "run")})
    context = Context(RunDir(tmp_path / "run"))
    assert list(amalgamate.prepare(recipe, context).sources) == ["low", "high"]
    assert any("'gone' is left out" in note for note in context.notes)
    lonely = {"low": sources["low"], "gone": sources["gone"]}
    with pytest.raises(RecipeError, match="at least two sources"):
        amalgamated(folder, tmp_path / "run", sources=lonely, missing="skip")


def test_a_class_that_nobody_knows_is_named_with_what_everybody_knows(folder, tmp_path):
    with pytest.raises(RecipeError, match=r"no source knows digit 7, digit 8, digit 9 \(first: digit 0, .*; low: digit 0, "):
        amalgamated(folder, tmp_path / "run", ("first", "low"))


def test_sources_that_do_not_name_their_classes_or_name_them_wrongly_are_refused(folder, tmp_path):
    place = f"file:{folder / 'low'}.safetensors"
    cases = {
        "classes names 2 outputs, the model has 7": ["digit 0", "digit 1"],
        "'digit 0' twice": ["digit 0"] * 7,
        "is output 9, the model has 7": {"digit 0": 9},
        "gives one output to two classes": {"digit 0": 1, "digit 1": 1},
    }
    for words, classes in cases.items():
        sources = {"low": {"source": place, "classes": classes}, "high": f"file:{folder / 'high'}.safetensors"}
        with pytest.raises(ModelError, match=words):
            amalgamated(folder, tmp_path / "run", sources=sources)


def test_copies_and_other_ways_beside_it_are_refused(folder, tmp_path):
    place = f"file:{folder / 'low'}.safetensors"
    sources = {"low": place, "copy": place, "high": f"file:{folder / 'high'}.safetensors"}
    with pytest.raises(ModelError, match="the very weights of source 'low'"):
        amalgamated(folder, tmp_path / "run", sources=sources)
    with pytest.raises(RecipeError, match="name it alone"):
        amalgamated(folder, tmp_path / "run", how=["weighted", "amalgamate"])


def test_a_table_of_predictions_is_a_specialist_like_any_other(folder, tmp_path):
    with np.load(folder / "labelled.npz") as stored:
        inputs, ids = (np.concatenate([stored[f"{kind}_{part}"] for part in ("train", "val", "test")]) for kind in ("x", "ids"))
    high = open_model(f"file:{folder / 'high'}.safetensors")
    with torch.no_grad():
        logits = high.network(RAW(torch.from_numpy(inputs))).numpy()
    np.savez(folder / "high.npz", ids=ids, logits=logits, classes=np.array(NAMES[4:]))
    sources = {"low": f"file:{folder / 'low'}.safetensors", "high": {"source": f"predictions:{folder / 'high'}.npz", "classes": NAMES[4:]}}
    run = amalgamated(folder, tmp_path / "run", sources=sources, control="none", objectives=["cross_entropy", "amalgamate"])
    assert run.summary["models"]["student"]["metrics"]["accuracy"] > 0.85
    assert run.summary["amalgamation"]["labels"] == ["cross_entropy"]  # and with labels, where they are asked for


def test_specialists_of_some_classes_become_one_network_that_then_learns_another_task(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "report", lambda context: None)  # drawing takes longer than these jobs
    amalgamated(folder, tmp_path / "all", ("first", "last"), "silent", control="none", train={**TRAIN, "steps": 60})
    digits = np.load(folder / "labelled.npz")
    parts = {f"x_{part}": digits[f"x_{part}"] for part in ("train", "test")}
    parts |= {f"y_{part}": digits[f"y_{part}"] % 2 for part in ("train", "test")}
    np.savez(tmp_path / "odd.npz", **parts, classes=["even", "odd"])
    target = {"source": f"arrays:{tmp_path / 'odd'}.npz", "labels_per_class": 5}
    values = {"train": {**TRAIN, "steps": 20}, "cache": {"dir": str(tmp_path / "cache")}, "samples": False}
    network = f"run:{tmp_path / 'all'}"
    moved = {"job": "finetune", "data": target, "model": network, "out": str(tmp_path / "finetuned")}
    both = {"job": "together", "source": f"arrays:{folder / 'labelled'}.npz", "target": target, "student": network, "control": "none"}
    for made in ({**values, **moved}, {**values, **both, "out": str(tmp_path / "together")}):
        recipe = from_values(made)
        run = runner_of(recipe).run(recipe)
        model = open_model(f"run:{run.path}", ModelRequest())
        assert model.classes == ["even", "odd"]
        before, after = open_model(network, ModelRequest()).network.state_dict(), model.network.state_dict()
        key = next(name for name, value in before.items() if value.ndim == 2)
        assert 0 < (before[key] - after[key]).norm() < before[key].norm(), "it went on from what the specialists had taught"
    assert open_model(f"run:{tmp_path / 'together'}#head:source", ModelRequest()).classes == NAMES
