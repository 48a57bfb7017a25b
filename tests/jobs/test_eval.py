"""Evaluations of runs, files, tables and live modules: the figures are those of the run, whoever asks, and bad input leaves nothing."""

import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

import transfuse
import transfuse.jobs.eval
from transfuse.cli.main import run as command
from transfuse.core.types import ModelRequest
from transfuse.errors import DataError, ModelError, RecipeError, RunError
from transfuse.models import open_model
from transfuse.recipe.load import from_arguments
from transfuse.recipe.model_arguments import as_recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small distillation on digits."""
    folder = tmp_path_factory.mktemp("eval")
    return transfuse.distill(
        data={"source": "bundled:digits", "labels_per_class": 10},
        teacher={"source": "builtin:mlp", "options": {"widths": [32]}, "train": {"steps": 60, "batch_size": 64}},
        student={"source": "builtin:mlp", "options": {"widths": [8]}},
        train={"steps": 60, "precision": "fp32", "optimizer": {"adamw": {"lr": 0.01}}},
        cache={"dir": str(folder / "cache")},
        out=folder / "run",
    )


@pytest.fixture(scope="module")
def evaluated(finished):
    """Student and control beside the teacher, with two corruptions."""
    out = finished.path.parent / "evaluation"
    models = [finished, f"run:{finished.path}#control"]
    teacher = f"run:{finished.path}#teacher"
    return transfuse.eval(models, teacher=teacher, robustness=["contrast", "fog"], out=out, more={"robustness_samples": 90})


def test_a_run_is_measured_on_its_own_test_split_and_gets_its_own_figures(finished, evaluated):
    ours, theirs = evaluated.summary, finished.summary
    for name, original in (("run", "student"), ("run_control", "control")):
        assert ours["models"][name]["metrics"] == pytest.approx(theirs["models"][original]["metrics"])
        assert ours["models"][name]["parameters"] == theirs["models"][original]["parameters"]
    assert ours["teachers"]["teacher"]["metrics"] == pytest.approx(theirs["teachers"]["teacher"]["metrics"])
    followed = ours["fidelity"]["run"]["teacher"]
    assert followed["agreement"] == pytest.approx(theirs["transfer"]["agreement"])
    assert followed["kl"] == pytest.approx(theirs["transfer"]["kl"])
    test = ours["tests"][0]
    assert test["models"] == ["run", "run_control"]
    assert -test["difference"] == pytest.approx(theirs["transfer"]["gain"])
    assert test["mcnemar"] == pytest.approx(theirs["transfer"]["mcnemar"])


def test_counts_add_up_and_classes_and_bins_are_those_of_the_predictions(evaluated):
    with np.load(evaluated.path / "predictions" / "run.npz") as stored:
        labels, predicted = stored["labels"], stored["outputs"].argmax(1)
    block, followed = evaluated.summary["models"]["run"], evaluated.summary["fidelity"]["run"]["teacher"]
    assert block["metrics"]["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert np.mean([row["f1"] for row in block["per_class"]]) == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert sum(row["samples"] for row in block["per_class"]) == sum(block["reliability"]["count"]) == len(labels)
    kinds = ("both_right", "only_student_right", "only_teacher_right", "both_wrong")
    assert sum(followed[kind] for kind in kinds) == len(labels)
    assert followed["both_right"] + followed["only_student_right"] == (labels == predicted).sum()
    assert 0 < followed["cka"][-1]["cka"] < 1
    assert set(block["latency_ms"]) >= {"batch_1", "batch_8", "batch_64", "threads"}


def test_robustness_holds_errors_of_every_model_and_severity(evaluated):
    found = evaluated.summary["robustness"]
    assert set(found["models"]) == {"run", "run_control", "teacher"}
    assert found["samples"] == 90
    for model in found["models"].values():
        assert list(model["errors"]) == ["fog", "contrast"]
        assert all(len(errors) == 5 for errors in model["errors"].values())
        assert model["mean_corruption_error"] == pytest.approx(np.mean([*model["errors"]["fog"], *model["errors"]["contrast"]]))


@pytest.mark.usefixtures("undrawn")
def test_a_resumed_evaluation_asks_only_for_what_is_missing_and_ends_the_same(evaluated, tmp_path, monkeypatch):
    folder = tmp_path / "again"
    shutil.copytree(evaluated.path, folder)
    (folder / "summary.json").unlink()
    (folder / "predictions" / "run_control.npz").unlink()
    asked = []
    whole = transfuse.jobs.eval.predict  # type: ignore[attr-defined]
    monkeypatch.setattr("transfuse.jobs.eval.predict", lambda *given: asked.append(given) or whole(*given))
    monkeypatch.setattr("transfuse.evaluate.robustness.errors", lambda *given: pytest.fail("corruptions are in the ledger"))
    again = transfuse.resume(folder).summary
    assert len(asked) == 1
    for group in ("models", "teachers"):
        for name, block in again[group].items():
            assert block["metrics"] == evaluated.summary[group][name]["metrics"]
    assert again["robustness"] == evaluated.summary["robustness"]


@pytest.mark.usefixtures("undrawn")
def test_files_tables_and_live_modules_say_the_same(finished, tmp_path):
    opened = open_model(f"run:{finished.path}", ModelRequest())
    with np.load(finished.path / "predictions" / "student.npz") as stored:
        np.savez(tmp_path / "table.npz", ids=stored["ids"], logits=stored["outputs"])
    live = {"source": opened.network, "preprocess": opened.preprocess.to_dict()}  # type: ignore[union-attr]
    models = {"file": finished.path / "student.safetensors", "table": tmp_path / "table.npz", "live": live}
    data = {"source": "bundled:digits", "labels_per_class": 10}
    found = transfuse.eval(models, data, out=tmp_path / "out", teacher=f"run:{finished.path}#teacher").summary
    expected = finished.summary["models"]["student"]["metrics"]
    for name in models:
        assert found["models"][name]["metrics"] == pytest.approx(expected, abs=1e-6)
    assert found["models"]["table"]["parameters"] is None
    assert "table of predictions" in found["models"]["table"]["reasons"]["latency_ms"]
    assert "no features" in found["fidelity"]["table"]["teacher"]["reasons"]["cka"]
    assert found["tests"][0]["difference"] == 0


def test_other_parts_of_live_data_and_regression_in_original_units(tmp_path):
    torch.manual_seed(0)
    inputs = torch.randn(120, 3)
    labels = 100 + 20 * inputs.sum(1, keepdim=True)
    module = nn.Linear(3, 1)
    with torch.no_grad():
        module.weight.fill_(20.0)
        module.bias.fill_(101.0)
    data = ((inputs[:80], labels[:80]), (inputs[80:100], labels[80:100]), (inputs[100:], labels[100:]))
    found = transfuse.eval({"sum": {"source": module, "preprocess": {}}}, {"source": data}, out=tmp_path / "all", part="all").summary
    assert found["data"]["samples"] == 120
    assert found["models"]["sum"]["metrics"]["rmse"] == pytest.approx(1, abs=1e-4)
    assert found["models"]["sum"]["metrics"]["mae"] == pytest.approx(1, abs=1e-4)
    assert "Evaluation on live" in (tmp_path / "all" / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_costs_of_a_graph_are_not_given_as_none_at_all(finished, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    file = transfuse.export(finished, "onnx", out=tmp_path / "graph")["onnx"]
    assert (
        command(["eval", f"models={{run: 'run:{finished.path}', graph: 'onnx:{file}'}}", "data=bundled:digits", f"out={tmp_path / 'e'}"])
        == 0
    )
    graph = json.loads((tmp_path / "e" / "summary.json").read_text())["models"]["graph"]
    assert (graph["parameters"], graph["macs"], graph["latency_ms"]["runtime"]) == (None, None, "onnxruntime")
    assert graph["bytes"] > file.stat().st_size
    page = (tmp_path / "e" / "report.html").read_text()
    assert "batch 1) in onnxruntime, 1 thread; torch, float32, 1 thread" in page
    assert "can&#39;t be compared" in page
    assert "None" not in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_a_budget_is_met_or_missed(finished, tmp_path):
    limits = {"bytes": 3000, "latency_ms": 1e-9}
    found = transfuse.eval(finished, out=tmp_path / "e", more={"budget": limits, "top_k": [3, 1]})
    assert found.summary["budget"]["bytes"]["met"] is True
    assert found.summary["budget"]["latency_ms"]["met"] is False
    page = found.report.read_text()
    assert "budget met" in page
    assert "budget missed" in page
    metrics = found.summary["models"]["run"]["metrics"]
    assert metrics["top1_accuracy"] == metrics["accuracy"]
    assert "top5_accuracy" not in metrics
    assert "top-3 accuracy" in page
    assert 'href="report.html' not in page


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_a_whole_summary_is_measured_and_called_unfinished(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished.path, run)
    summary = (run / "summary.json").read_text()
    (run / "summary.json").write_text(summary[: len(summary) // 2])
    assert command(["eval", str(run), f"out={tmp_path / 'e'}", "samples=false"]) == 0
    assert "the run is not finished, its summary.json is damaged" in capsys.readouterr().err
    assert command(["report", str(run)]) == 2
    assert f"transfuse resume {run} writes it anew" in capsys.readouterr().err
    assert command(["resume", str(run)]) == 0
    again = json.loads((run / "summary.json").read_text())
    assert again["models"]["student"]["metrics"] == finished.summary["models"]["student"]["metrics"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["file:net.safetensors"], RecipeError, "no model is a run"),
        (["RUN", "part=tset"], RecipeError, "did you mean 'test'"),
        (["RUN", "robustness=[smog]"], RecipeError, "unknown corruption 'smog'"),
        (["RUN", "seeds=3"], RecipeError, "trains nothing"),
        (["RUN", "track=[tensorboard]"], RecipeError, "trains nothing"),
        (["RUN", "data=images:/nowhere"], DataError, "no 'nowhere'"),
        (["run:nowhere"], RunError, "no such run folder"),
        (["RUN", "data=bundled:wine"], ModelError, "3 classes"),
        (["RUN", "teachers.run=run:x"], RecipeError, "a model and a teacher"),
    ],
)  # fmt: skip
def test_bad_input_meets_one_message_and_leaves_nothing(finished, tmp_path, arguments, error, words):
    given = as_recipe([str(finished.path) if one == "RUN" else one for one in arguments])
    with pytest.raises(error, match=words or None):
        transfuse.jobs.eval.run(from_arguments("eval", [*given, f"out={tmp_path / 'out'}"]))  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_what_names_no_model_is_said_at_once():
    with pytest.raises(ModelError, match="neither a folder or file that is there nor a model source"):
        as_recipe(["nowhere/run"])


@pytest.fixture
def undrawn(monkeypatch):
    """Without figures, whose drawing takes the time."""
    monkeypatch.setattr("transfuse.report.entry_plots.svg", lambda drawn, described: described)


@pytest.mark.usefixtures("undrawn")
def test_the_command_names_models_and_prints_the_table(finished, tmp_path, capsys):
    status = command(["eval", str(finished.path), f"{finished.path}#control", f"out={tmp_path / 'e'}"])
    printed = capsys.readouterr().out
    assert status == 0
    assert "run_control minus run" in printed
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert f"{100 * summary['models']['run']['metrics']['accuracy']:.2f}%" in printed
    assert command(["eval"]) == 2


def test_models_are_named_after_what_they_are(tmp_path):
    (tmp_path / "a run").mkdir()
    path = tmp_path / "net.v2.safetensors"
    path.touch()
    given = as_recipe(
        [str(tmp_path / "a run"), f"{tmp_path / 'a run'}#teacher", str(path), "timm:resnet50.a1_in1k", "mine=builtin:mlp", "part=all"]
    )
    assert [entry.partition("=")[0] for entry in given] == [
        "models.a_run", "models.a_run_teacher", "models.net_v2", "models.resnet50_a1_in1k", "models.mine", "part",
    ]  # fmt: skip
    assert given[0].endswith(f"=run:{tmp_path / 'a run'}")
    assert given[2].endswith(f"=file:{path}")
    long = f"models.net.classes={json.dumps([str(number) for number in range(1001)])}"
    assert as_recipe([long]) == [long]  # no system has a file with such a name, and asking for one is an error on some
