"""Fusion on real data: what is shipped is what was fused, choices look at validation alone, kills, tables, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import transfuse
from transfuse.cli.main import run as command
from transfuse.core.preprocess import Preprocess
from transfuse.core.protocols import Silent
from transfuse.core.types import DataRequest, ModelRequest, Target
from transfuse.data import open_data
from transfuse.errors import TransfuseError
from transfuse.evaluate import cost
from transfuse.evaluate.predict import predict
from transfuse.jobs import fuse
from transfuse.jobs.context import Context, Live
from transfuse.jobs.deliver import finish
from transfuse.jobs.rundir import RunDir
from transfuse.models import open_model, save_model
from transfuse.recipe.load import from_arguments, from_values, load

DIGITS = [str(number) for number in range(10)]
MAKES = {  # name -> architecture, options, preprocessing, order of classes
    "wide": ("builtin:mlp", {"widths": [32]}, Preprocess(scale=1 / 255, mean=(0.3,), std=(0.4,)), DIGITS),
    "deep": ("builtin:mlp", {"widths": [16, 16]}, Preprocess(scale=1 / 100), DIGITS[::-1]),
    "pictures": ("builtin:convnet", {}, Preprocess(size=(12, 12), scale=1 / 255), DIGITS),
}


def trained(name, seed=0, steps=40, make=None, samples=300):
    """A network that learnt a little from some of the training pictures."""
    architecture, options, preprocess, classes = make or MAKES[name]
    data = open_data("bundled:digits", DataRequest())
    shape = (1, *(preprocess.size or (8, 8)))
    model = open_model(architecture, ModelRequest(outputs=len(classes), input_shape=shape, options=options, seed=seed))
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:samples]
    inputs = preprocess(data.train.raw(rows))
    labels = torch.tensor([classes.index(DIGITS[label]) for label in data.train.labels[rows].tolist()])
    network = model.network.train()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    network.eval()
    model.preprocess, model.classes, model.pretrained = preprocess, list(classes), True
    return model


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """name -> file of a trained network; they differ in architecture, input size, normalisation and order of classes."""
    folder = tmp_path_factory.mktemp("sources")
    for seed, name in enumerate(MAKES):
        save_model(trained(name, seed), folder / f"{name}.safetensors", {})
    return {name: f"file:{folder / name}.safetensors" for name in MAKES}


@pytest.fixture
def values(sources, tmp_path):
    """A function from changes to the values of a small recipe."""
    count = iter(range(100))

    def make(**changes):
        return {
            "job": "fuse",
            "data": "bundled:digits",
            "sources": sources,
            "how": "weighted",
            "cache": {"dir": str(tmp_path / "cache")},
            "samples": False,
            "out": str(tmp_path / f"run{next(count)}"),
            **changes,
        }

    return make


@pytest.fixture(autouse=True)
def without_page(request, monkeypatch):
    """Drawing and timing take longer than these jobs; one test looks at the page."""
    monkeypatch.setattr(cost, "_SECONDS", dict.fromkeys(cost._SECONDS, 0.01))
    if "looks_at_the_page" not in request.fixturenames:
        monkeypatch.setattr(finish, "report", lambda context: None)


@pytest.fixture
def looks_at_the_page():
    """Asked for by tests of the page."""


def said_by(sources, part):
    """float64 [sources, n, 10]: what the sources say, without any of the job's code."""
    found = []
    for name, source in sources.items():
        _, _, preprocess, classes = MAKES[name]
        model = open_model(source)
        outputs = predict(model.network, part, preprocess)
        found.append(outputs[:, [classes.index(digit) for digit in DIGITS]].double())
    return torch.stack(found)


def kept(run, name):
    with np.load(run.path / "predictions" / f"{name}.npz") as content:
        return {key: content[key] for key in content.files}


def notes(run):
    return json.loads((run.path / "reasons.json").read_text())["notes"]


def test_what_is_shipped_is_one_module_that_says_what_the_fitted_rule_says(values, sources):
    run = fuse.run(from_values(values()))
    data = open_data("bundled:digits", DataRequest())
    p = torch.softmax(said_by(sources, data.test), -1)
    way = next(way for way in run.summary["fusion"]["ways"] if way["name"] == "outputs.weighted")
    weights = torch.tensor([way["weights"][name] for name in sources], dtype=torch.float64)
    expected = (weights[:, None, None] * p).sum(0)
    shipped = open_model(f"run:{run.path}")
    found = predict(shipped.network, data.test, shipped.preprocess).double().exp()
    assert torch.allclose(found, expected, atol=1e-5)
    rounding = 1e-5 if torch.cuda.is_available() else 1e-8  # what is kept was said on the GPU
    assert np.allclose(kept(run, "student")["outputs"], predict(run.student, data.test, shipped.preprocess).numpy(), atol=rounding)
    assert way["test"] == pytest.approx(float((expected.argmax(1) == data.test.labels).double().mean()))
    plain = kept(run, "ensemble")["outputs"]
    assert np.allclose(np.exp(plain), p.mean(0).numpy(), atol=1e-5)
    assert shipped.classes == DIGITS


def test_weights_are_fitted_on_validation_and_its_own_figure_is_cross_fitted(values, sources):
    summary = fuse.run(from_values(values(how=["stacking", "weighted"]))).summary
    data = open_data("bundled:digits", DataRequest())
    said, labels = said_by(sources, data.val), data.val.labels
    from transfuse.fusion.outputs.stacking import Stacking

    by_heart = Stacking()
    by_heart.fit(said, labels)
    optimistic = float((by_heart.fuse(said).argmax(1) == labels).double().mean())
    rows = {way["name"]: way for way in summary["fusion"]["ways"]}
    assert rows["outputs.stacking"]["fitted"]
    assert rows["outputs.stacking"]["validation"] < optimistic
    on_test = float((by_heart.fuse(said_by(sources, data.test)).argmax(1) == data.test.labels).double().mean())
    assert rows["outputs.stacking"]["test"] == pytest.approx(on_test, abs=0.006)


def test_auto_tries_what_applies_holds_it_against_single_sources_and_says_what_it_leaves_out(values, looks_at_the_page):
    run = fuse.run(from_values(values(how="auto", features={"train": {"steps": 10}})))
    found = run.summary["fusion"]
    names = [way["name"] for way in found["ways"]]
    assert names[:3] == ["single wide", "single deep", "single pictures"]
    assert {"outputs.mean_probabilities", "outputs.stacking", "outputs.gate", "features.concat"} <= set(names)
    assert not [name for name in names if name.startswith("weights.")]
    why = json.loads((run.path / "reasons.json").read_text())["auto"]["how"]
    assert "no weights: 'wide' and 'deep' have different architectures" in why
    singles = {way["name"].removeprefix("single "): way["validation"] for way in found["ways"][:3]}
    assert found["best_single"] == max(singles, key=singles.get)
    assert found["chosen"] in names
    assert max(way["validation"] for way in found["ways"]) == next(
        way["validation"] for way in found["ways"] if way["name"] == found["chosen"]
    )
    summary = run.summary
    assert summary["models"]["control"]["metrics"] == summary["sources"][found["best_single"]]["metrics"]
    shares = found["contributions"]["shapley"].values()
    assert sum(shares) == pytest.approx(
        next(way["validation"] for way in found["ways"] if way["name"] == "outputs.mean_probabilities") - majority(run)
    )
    page, card = run.report.read_text(), (run.path / "README.md").read_text()
    for text in (page, card):
        assert "Ways that were tried" in text
        assert "What each source adds" in text
        assert "the best single source" in text
    assert "Fusion on bundled:digits" in page


def majority(run):
    labels = kept(run, "ensemble")["val_labels"]
    return np.bincount(labels).max() / len(labels)


def test_a_second_fusion_asks_no_source_again(values):
    first, second = (fuse.run(from_values(values(how=how))).summary["teacher_forwards"] for how in ("weighted", "gate"))
    assert first > 0
    assert second == 0


def test_too_large_for_the_budget_it_is_distilled_and_the_student_is_shipped(values):
    student = {"source": "builtin:mlp", "options": {"widths": [12]}}
    train = {"steps": 60, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32"}
    run = fuse.run(from_values(values(how=["mean_logits"], student=student, train=train, budget={"bytes": 5000})))
    summary = run.summary
    assert summary["fusion"]["distilled"]
    assert summary["budget"]["bytes"]["met"]
    assert summary["models"]["student"]["parameters"] == 64 * 12 + 12 + 12 * 10 + 10
    assert {"joint", "control", "ensemble"} <= summary["models"].keys()
    own = json.loads((run.path / "runs/distill/summary.json").read_text())
    assert own["models"]["student"]["metrics"] == summary["models"]["student"]["metrics"]
    assert own["models"]["control"]["metrics"] == summary["models"]["joint"]["metrics"]
    assert torch.equal(open_model(f"run:{run.path}").network.state_dict()["linear.weight"], run.student.state_dict()["linear.weight"])
    table = open_model(f"predictions:{run.path / 'fused.npz'}")
    assert table.table[1].shape == (1797, 10)


def test_a_student_of_changed_pictures_learns_from_the_fused_network_and_within_a_budget_nothing_is_distilled(values):
    student = {"source": "builtin:mlp", "options": {"widths": [4]}}
    common = {"student": student, "train": {"steps": 2}, "control": "none", "augment": {"crop": 1, "views": 2}}
    run = fuse.run(from_values(values(how=["mean_logits"], **common)))
    teacher = open_model(f"run:{run.path}#fused")
    assert type(teacher.network).__name__ == "Ensemble"
    assert json.loads((run.path / "runs/distill/summary.json").read_text())["teachers"].keys() == {"fused"}
    within = fuse.run(from_values(values(how=["mean_logits"], budget={"bytes": "50MB"}, **common)))
    assert not within.summary["fusion"]["distilled"]
    assert any("meets the budget as it is" in note for note in notes(within))
    from_all = fuse.run(from_values(values(how="distill", **common)))
    assert json.loads((from_all.path / "runs/distill/summary.json").read_text())["teachers"].keys() == MAKES.keys()


def test_within_a_budget_the_best_that_fits_is_taken_if_there_is_no_student(values):
    sizes = {way["name"]: way["bytes"] for way in fuse.run(from_values(values(how=["single", "mean_logits"]))).summary["fusion"]["ways"]}
    limit = sizes["outputs.mean_logits"] - 1
    found = fuse.run(from_values(values(how=["single", "mean_logits"], budget={"bytes": limit}))).summary
    assert found["fusion"]["chosen"].startswith("single ")
    assert found["budget"]["bytes"]["met"]
    hopeless = fuse.run(from_values(values(how=["single", "mean_logits"], budget={"bytes": 10})))
    assert not hopeless.summary["budget"]["bytes"]["met"]
    assert any("no way fits the budget" in note for note in notes(hopeless))


class Kill(Silent):
    """Interrupts at a step of the student's training."""

    def progress(self, progress):
        if progress.step >= 6:
            raise KeyboardInterrupt


def test_a_killed_fusion_resumes_to_the_same_bits(values):
    student = {"source": "builtin:mlp", "options": {"widths": [8], "dropout": 0.2}}
    common = {"how": ["gate", "mean_logits"], "student": student, "control": "none"}
    common["train"] = {"steps": 12, "batch_size": 64, "checkpoint_seconds": 0.0, "precision": "fp32"}
    whole = fuse.run(from_values(values(**common)))
    recipe = from_values(values(**common))
    with pytest.raises(KeyboardInterrupt):
        fuse.run(recipe, Kill())
    resumed = transfuse.resume(recipe.out)
    assert (whole.path / "student.safetensors").read_bytes() == (resumed.path / "student.safetensors").read_bytes()
    assert whole.summary["fusion"]["chosen"] == resumed.summary["fusion"]["chosen"]
    assert whole.summary["models"]["student"]["metrics"] == resumed.summary["models"]["student"]["metrics"]


def table_of(path, part_ids, labels, certainty=0.97):
    p = np.full((len(part_ids), 10), (1 - certainty) / 9)
    p[np.arange(len(labels)), labels] = certainty
    np.savez(path, ids=np.array(part_ids), probabilities=p, classes=np.array(DIGITS))
    return f"predictions:{path}"


def test_human_label_distributions_are_a_source_and_what_is_fused_with_them_is_a_table(values, sources, tmp_path):
    data = open_data("bundled:digits", DataRequest())
    ids = np.concatenate([data.val.ids, data.test.ids])
    people = table_of(tmp_path / "people.npz", ids, np.concatenate([data.val.labels, data.test.labels]))
    run = fuse.run(from_values(values(sources={**sources, "people": people}, how=["single", "weighted"])))
    found = run.summary["fusion"]
    assert found["best_single"] == "people"
    assert found["contributions"]["leave_one_out"]["people"] > 0
    with_table = fuse.run(from_values(values(sources={**sources, "people": people}, how="mean_probabilities")))
    assert not (with_table.path / "student.safetensors").exists()
    assert open_model(f"predictions:{with_table.path / 'fused.npz'}").classes == DIGITS
    assert any("a table answers for known samples only" in note for note in notes(with_table))
    some = table_of(tmp_path / "some.npz", data.val.ids, data.val.labels)
    with pytest.raises(TransfuseError, match="has no prediction for 359 of 359 test samples"):
        fuse.run(from_values(values(sources={**sources, "people": some})))


def foreign_network(path):
    """Class means as a linear classifier, in a file that onnxruntime runs."""
    onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    data = open_data("bundled:digits", DataRequest())
    pictures = data.train.raw(torch.arange(len(data.train))).float().flatten(1) / 255
    means = torch.stack([pictures[data.train.labels == digit].mean(0) for digit in range(10)]).T
    helper, number = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "means"], ["y"])]
    inputs, outputs = (helper.make_tensor_value_info(name, number.FLOAT, ["n", *shape]) for name, shape in (("x", (1, 8, 8)), ("y", (10,))))
    graph = helper.make_graph(nodes, "means", [inputs], [outputs], [onnx.numpy_helper.from_array(means.numpy(), "means")])
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())
    return {"source": f"onnx:{path}", "preprocess": {"scale": 1 / 255}, "classes": DIGITS}


def test_what_is_fused_with_a_network_that_only_a_runtime_holds_is_a_table(values, sources, tmp_path):
    both = {"deep": sources["deep"], "foreign": foreign_network(tmp_path / "o.onnx")}
    within = fuse.run(from_values(values(sources=both, how=["single", "mean_logits"], budget={"bytes": "50MB"})))
    assert any("only its own file and runtime hold" in note and "give a student" in note for note in notes(within))
    assert within.summary["fusion"]["chosen"] == "single deep"  # the only one within the budget that a file can hold
    rows = {way["name"]: way for way in within.summary["fusion"]["ways"]}
    assert rows["single foreign"]["bytes"] >= (tmp_path / "o.onnx").stat().st_size
    run = fuse.run(from_values(values(sources=both, how="mean_logits")))
    assert not (run.path / "student.safetensors").exists()
    assert open_model(f"predictions:{run.path / 'fused.npz'}").table[1].shape == (1797, 10)
    both_together = run.summary["models"]["ensemble"]  # measured once, and counted for each way
    assert (both_together["parameters"], both_together["latency_ms"]["runtime"]) == (None, "torch and onnxruntime")
    with pytest.raises(TransfuseError, match=r"(?s)export: foreign: .*which no format can hold"):
        fuse.check(from_values(values(sources=both, export=["onnx"])), Silent(), Live())


def test_regressions_are_averaged_weighted_and_stacked_in_their_own_units(values, tmp_path):
    data = open_data("bundled:diabetes", DataRequest())
    listed = {}
    for seed, scale in enumerate((1.0, 10.0)):
        model = open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(10,), options={"widths": [16]}, seed=seed))
        target = Target(["disease_progression"], [150.0 * seed], [77.0 * scale])
        labels = (data.train.labels - target.mean[0]) / target.std[0]
        inputs, optimizer = (
            data.preprocess(data.train.raw(torch.arange(len(data.train)))),
            torch.optim.Adam(model.network.parameters(), 0.01),
        )
        for _ in range(60):
            optimizer.zero_grad()
            (model.network(inputs) - labels).square().mean().backward()
            optimizer.step()
        model.preprocess, model.target, model.pretrained = data.preprocess, target, True
        save_model(model, tmp_path / f"{seed}.safetensors", {})
        listed[f"m{seed}"] = f"file:{tmp_path / str(seed)}.safetensors"
    run = fuse.run(from_values(values(data="bundled:diabetes", sources=listed, how=["mean_logits", "weighted", "stacking"])))
    both = [kept(run, name)["outputs"] for name in listed]
    assert np.allclose(kept(run, "ensemble")["outputs"], np.mean(both, 0), rtol=1e-4)
    opened = open_model(f"run:{run.path}")
    said = predict(opened.network, data.test, opened.preprocess) * opened.target.std[0] + opened.target.mean[0]
    assert np.allclose(said.numpy(), kept(run, "student")["outputs"], rtol=1e-3, atol=0.1)
    assert run.summary["models"]["student"]["metrics"]["rmse"] < 77
    with pytest.raises(TransfuseError, match=r"gate.*regression"):
        fuse.run(from_values(values(data="bundled:diabetes", sources=listed, how="gate")))


def test_live_modules_are_fused_and_the_run_knows_what_it_needs_to_go_on(values, tmp_path):
    common = values()
    live = {name: {"source": trained(name, seed).network, "classes": MAKES[name][3], "preprocess": MAKES[name][2].to_dict()}
            for seed, name in enumerate(("wide", "deep"))}  # fmt: skip
    given = {key: common[key] for key in ("cache", "samples", "out")}
    run = transfuse.fuse("bundled:digits", live, how="mean_logits", **given)
    data = open_data("bundled:digits", DataRequest())
    shipped = predict(run.student, data.test, Preprocess())
    assert np.allclose(kept(run, "student")["outputs"], shipped.numpy(), atol=1e-5)
    assert load(run.path / "recipe.resolved.yaml").sources["wide"].source == "live:MLP"


def test_copies_of_one_make_are_merged_and_strangers_are_told_why_not(values, tmp_path):
    make = ("builtin:mlp", {"widths": [32]}, Preprocess(scale=1 / 255), DIGITS)
    listed = {}
    for seed in range(2):
        save_model(trained("", seed, make=make), tmp_path / f"{seed}.safetensors", {})
        listed[f"m{seed}"] = f"file:{tmp_path / str(seed)}.safetensors"
    run = fuse.run(from_values(values(sources=listed, how=["weights.mean", "weight_matching", "mean_logits"])))
    rows = {way["name"]: way for way in run.summary["fusion"]["ways"]}
    assert "not trained from the same weights" in rows["weights.mean"]["why"]
    assert rows["weights.weight_matching"]["bytes"] == rows["single m0"]["bytes"]
    assert "different initial weights" in run.summary["fusion"]["diagnosis"]["reason"]
    alone = from_values(values(sources=listed, how="weights.mean"))
    with pytest.raises(TransfuseError, match=r"how.weights.mean: 'm0' and 'm1' were not trained from the same weights"):
        fuse.run(alone)
    assert not Path(alone.out).exists()


def test_fisher_information_of_labels_is_of_the_classes_whatever_order_the_sources_have_them_in(values, tmp_path):
    said = []
    for turn, classes in enumerate((DIGITS, DIGITS[::-1])):
        listed = {}
        for seed in range(2):
            model = trained("", 0, make=("builtin:mlp", {"widths": [32]}, Preprocess(scale=1 / 255), DIGITS))
            last = model.network.linear
            with torch.no_grad():
                for parameter in model.network.parameters():
                    parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                for tensor in (last.weight, last.bias) if turn else ():
                    tensor.copy_(tensor.flip(0))
            model.classes = classes
            save_model(model, tmp_path / f"{turn}{seed}.safetensors", {})
            listed[f"m{seed}"] = f"file:{tmp_path / f'{turn}{seed}'}.safetensors"
        run = fuse.run(from_values(values(sources=listed, how={"weights.fisher": {"labels": "data", "samples": 64}})))
        said.append(kept(run, "student")["outputs"])
    assert np.allclose(said[0], said[1], atol=1e-4)


def silent_digits(path):
    """Digits as arrays, the training part without labels."""
    data = open_data("bundled:digits", DataRequest())
    parts = {"classes": np.array(DIGITS)}
    for name, part in (("train", data.train), ("val", data.val), ("test", data.test)):
        parts |= {f"x_{name}": part.raw(torch.arange(len(part))).numpy(), f"y_{name}": part.labels.numpy()}
    np.savez(path, **{**parts, "y_train": np.full(len(data.train), -1)})
    return f"arrays:{path}"


def test_without_training_labels_strangers_are_not_said_to_be_mergeable(values, tmp_path):
    make = ("builtin:mlp", {"widths": [32]}, Preprocess(scale=1 / 255), DIGITS)
    for seed in range(2):
        save_model(trained("", seed, make=make), tmp_path / f"{seed}.safetensors", {})
    listed = {f"m{seed}": f"file:{tmp_path / str(seed)}.safetensors" for seed in range(2)}
    run = fuse.run(from_values(values(data=silent_digits(tmp_path / "s.npz"), sources=listed, how=["single", "weights.mean"])))
    assert run.summary["fusion"]["diagnosis"]["verdict"] == "align"
    assert run.summary["fusion"]["diagnosis"]["pairs"][0]["path"] is None
    assert any("the loss on the way between the sources was not measured" in note for note in notes(run))


def test_a_way_that_is_alone_is_refused_before_anything_is_written_with_its_key(values, sources, tmp_path):
    plain = Preprocess(scale=1 / 255)
    for width in (16, 24):
        save_model(trained("", width, 5, ("builtin:mlp", {"widths": [width]}, plain, DIGITS)), tmp_path / f"{width}.safetensors", {})
    widths = {f"w{width}": f"file:{tmp_path / str(width)}.safetensors" for width in (16, 24)}
    cases = [
        (sources, "weights.mean", "how.weights.mean: 'wide' and 'deep' prepare their inputs differently"),
        (widths, "weights.mean", r"how.weights.mean: \d+ of the tensors have different shapes"),
        (widths, "weights.ties", r"how.weights.ties: \d+ of the tensors have different shapes"),
        (widths, {"weighted_sum": {"projection": "none"}}, "how.features.weighted_sum: features of 16, 24 numbers can't be added up"),
    ]
    for given, how, message in cases:
        recipe = from_values(values(sources=given, how=how))
        with pytest.raises(TransfuseError, match=message):
            fuse.run(recipe)
        with pytest.raises(TransfuseError, match=message):
            fuse.check(recipe, Silent(), Live())
        assert not Path(recipe.out).exists()
    assert fuse.check(from_values(values(sources=widths, how="weights.ot")), Silent(), Live())
    resolved, reasons = fuse.check(from_values(values(sources=widths, how="auto")), Silent(), Live())
    assert [way.name for way in resolved.how if way.name.startswith("weights.")] == ["weights.ot"]
    assert "the sources' widths differ" in reasons["how"]


def broken(tmp_path, name, change):
    model = trained("wide", 7)
    with torch.no_grad():
        change(model)
    save_model(model, tmp_path / f"{name}.safetensors", {})
    return f"file:{tmp_path / name}.safetensors"


def set_bias_nan(model):
    model.network.linear.bias[3] = torch.nan


def say_always_the_same(model):
    model.network.linear.weight.zero_()


def other_names(model):
    model.classes = ["ant", "bee", *map(str, range(2, 10))]


def other_task(model):
    model.classes, model.target = None, Target([f"y{number}" for number in range(10)], [0.0] * 10, [1.0] * 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_bias_nan, r"sources.odd: .* says NaN or infinity about 64 of 64 validation samples"),
        (say_always_the_same, r"sources.odd: .* says the same about each of 64 validation samples"),
        (other_names, r"(?s)sources.odd: its classes contradict the data's: it knows ant, bee, 2.*doesn't know 0, 1"),
        (other_task, r"sources.odd: .* was made for regression, and the data's labels are for classification"),
    ],
)
def test_a_source_that_can_not_be_fused_is_named_before_anything_is_written(values, sources, tmp_path, change, message):
    recipe = from_values(values(sources={**sources, "odd": broken(tmp_path, "odd", change)}))
    with pytest.raises(TransfuseError, match=message):
        fuse.run(recipe)
    assert not (tmp_path / "run0").exists()


def test_one_model_twice_is_told_by_its_weights_or_by_its_answers(values, sources, tmp_path):
    again = {**sources, "again": {"source": sources["wide"], "classes": DIGITS}}
    with pytest.raises(TransfuseError, match="'wide' and 'again' are copies of one model: they have the same weights"):
        fuse.run(from_values(values(sources=again)))
    data = open_data("bundled:digits", DataRequest())
    said = predict(open_model(sources["wide"]).network, data.val, MAKES["wide"][2]).numpy()
    tested = predict(open_model(sources["wide"]).network, data.test, MAKES["wide"][2]).numpy()
    np.savez(tmp_path / "said.npz", ids=np.concatenate([data.val.ids, data.test.ids]), logits=np.concatenate([said, tested]))
    with pytest.raises(TransfuseError, match="say exactly the same about 64 validation samples"):
        fuse.run(from_values(values(sources={**sources, "said": f"predictions:{tmp_path / 'said.npz'}"})))


def test_a_missing_file_stops_the_job_or_is_gone_without(values, sources, tmp_path):
    with_gap = {**sources, "gone": f"file:{tmp_path / 'gone.safetensors'}"}
    with pytest.raises(TransfuseError, match=r"(?s)sources.gone: there is no .*gone.safetensors.*missing=skip"):
        fuse.run(from_values(values(sources=with_gap)))
    run = fuse.run(from_values(values(sources=with_gap, missing="skip")))
    assert any("'gone' is left out" in note for note in notes(run))
    assert run.summary["sources"].keys() == sources.keys()
    one = {"wide": sources["wide"], "gone": with_gap["gone"]}
    with pytest.raises(TransfuseError, match="at least two sources"):
        fuse.run(from_values(values(sources=one, missing="skip")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources.deep.preprocess": {"size": 9}}, "can't take inputs of shape"),
        ({"sources.wide": "builtin:mlp"}, "no trained weights"),
        ({"how": "wieghted"}, "did you mean 'weighted'"),
        ({"how": ["weighted", "distill"], "student": "builtin:mlp"}, "distill is taken alone"),
        ({"how": "distill"}, "add student: SOURCE"),
        ({"how": {"gate": {"penalty": -1.0}}}, "penalty is at least 0"),
        ({"select_by": "rmse"}, "classification has no metric 'rmse'"),
        ({"sources": {"a": "file:x"}}, "sources"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(values, changes, message, tmp_path):
    given = values(**{key: value for key, value in changes.items() if "." not in key})
    lines = [f"{key}={json.dumps(value)}" for key, value in changes.items() if "." in key]
    with pytest.raises(TransfuseError, match=message):
        fuse.run(from_values(given, lines))
    assert not list(tmp_path.glob("run*"))


def test_the_command_fuses_and_refuses_with_one_message(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    listed = ", ".join(f"{name}: '{source}'" for name, source in sources.items())
    arguments = ["fuse", "data=bundled:digits", f"sources={{{listed}}}", "how=[single, weighted]", "cache.dir=cache", "out=run"]
    assert command(arguments) == 0
    assert (tmp_path / "run/student.safetensors").exists()
    capsys.readouterr()
    assert command([*arguments[:-1], "out=other", "sources.deep=file:nowhere.pt"]) == 2
    said = capsys.readouterr().err
    assert "sources.deep: there is no nowhere.pt" in said
    assert "Traceback" not in said
    assert not (tmp_path / "other").exists()
    assert "fuse" in CliRunner().invoke(transfuse.cli.main.main, ["--help"]).output
    assert from_arguments("fuse", arguments[1:]).how[1].name == "outputs.weighted"


def test_auto_joins_sources_that_each_know_some_classes_if_a_student_can_learn_them_all(values, tmp_path):
    make = MAKES["wide"][:3]
    listed = {}
    for name, classes in (("low", DIGITS[:6]), ("high", DIGITS[4:])):
        architecture, options, preprocess = make
        model = open_model(architecture, ModelRequest(outputs=6, input_shape=(1, 8, 8), options=options, seed=len(listed)))
        model.preprocess, model.classes, model.pretrained = preprocess, classes, True
        save_model(model, tmp_path / f"{name}.safetensors", {})
        listed[name] = f"file:{tmp_path / name}.safetensors"
    resolved, _ = fuse.check(from_values(values(sources=listed, how="auto", student="builtin:mlp")), Silent(), Live())
    assert [way.name for way in resolved.how] == ["amalgamate"]
    with pytest.raises(TransfuseError, match=r"(?s)sources.low.*doesn't know 6, 7, 8, 9; how=amalgamate"):
        fuse.check(from_values(values(sources=listed, how="auto")), Silent(), Live())


def test_a_source_of_one_logit_is_fused_with_one_of_two_and_shipped_alone_it_opens_again(values, tmp_path):
    data = open_data("bundled:breast_cancer", DataRequest())
    inputs, labels = data.preprocess(data.train.raw(torch.arange(len(data.train)))), data.train.labels
    listed = {}
    for outputs in (1, 2):
        model = open_model("builtin:mlp", ModelRequest(outputs=outputs, input_shape=(30,), options={"widths": [8]}, seed=outputs))
        optimizer = torch.optim.Adam(model.network.parameters(), 0.02)
        for _ in range(20 * outputs):
            optimizer.zero_grad()
            logits = model.network(inputs)
            pair = torch.cat([torch.zeros_like(logits), logits], 1) if outputs == 1 else logits
            nn.functional.cross_entropy(pair, labels).backward()
            optimizer.step()
        model.preprocess, model.pretrained = data.preprocess, True
        save_model(model, tmp_path / f"{outputs}.safetensors", {})
        listed[f"of_{outputs}"] = f"file:{tmp_path / str(outputs)}.safetensors"
    for how in ("mean_logits", "single"):
        run = fuse.run(from_values(values(data="bundled:breast_cancer", sources=listed, how=how)))
        opened = open_model(f"run:{run.path}")
        said = predict(opened.network, data.test, opened.preprocess)
        said = torch.cat([torch.zeros_like(said), said], 1) if said.shape[1] == 1 else said
        assert float((said.argmax(1) == data.test.labels).double().mean()) == run.summary["models"]["student"]["metrics"]["accuracy"]
        assert run.summary["models"]["student"]["metrics"]["accuracy"] > 0.85


def test_several_processes_are_refused(values, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TransfuseError, match="a fusion runs in one process"):
        fuse.prepare(from_values(values()), Context(RunDir(values()["out"])))
    with pytest.raises(TransfuseError, match="a fusion runs in one process"):
        fuse.resume(Context(RunDir(values()["out"])), from_values(values()))
