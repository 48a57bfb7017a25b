"""Exports of runs: what passes, what fails and is marked, runs that were changed, and predictions with what was shipped."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import transfuse
from transfuse.cli.main import run as cli
from transfuse.errors import ExportError, ModelError, RunError
from transfuse.export import verify
from transfuse.jobs.deliver.export import in_words
from transfuse.models import save_model
from transfuse.testing.exporter import CLASSES, example_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on an array file with two exports of its own."""
    folder = tmp_path_factory.mktemp("made")
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(120, 5)).astype(np.float32)
    labels = (inputs[:, 0] > 0).astype(np.int64)
    np.savez(folder / "rows.npz", x_train=inputs[:80], y_train=labels[:80], x_test=inputs[80:], y_test=labels[80:], classes=["no", "yes"])
    run = transfuse.distill(
        data=f"arrays:{folder / 'rows.npz'}",
        student={"source": "builtin:mlp", "options": {"widths": [8]}},
        objectives=["cross_entropy"],
        train={"epochs": 3, "batch_size": 16},
        control="none",
        cache={"dir": str(folder / "cache")},
        export=["safetensors", "bf16"],
        out=folder / "run",
    )
    return run, folder


def verdict(run, target):
    return json.loads((run.path / "exports" / target / "verify.json").read_text())


def test_a_job_ships_what_its_recipe_asks_for_and_the_report_says_so(made):
    run, _ = made
    assert verdict(run, "safetensors")["passed"]
    assert verdict(run, "safetensors")["samples"] == 40
    assert verdict(run, "bf16")["bytes"] < verdict(run, "safetensors")["bytes"]
    assert "Exported files" in run.report.read_text(encoding="utf-8")


def test_report_and_card_tell_of_later_exports_too(made, tmp_path):
    run, _ = made
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "exports")
    transfuse.export(tmp_path / "run", "bf16")
    for name in ("report.html", "README.md"):
        text = (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert "Exported files" in text
        assert "bf16" in text


def test_one_line_opens_runs_exports_and_files(made):
    run, _ = made
    inputs = torch.randn(4, 5)
    export = run.path / "exports" / "safetensors"
    for source in (run.path, export, export / "student.safetensors", f"run:{run.path}"):
        assert torch.equal(transfuse.load(source)(inputs), run.student(inputs))


def test_the_verb_stays_a_verb_when_its_room_is_imported():
    import transfuse.export

    assert transfuse.export.__name__ == "export"


def test_a_file_that_does_not_pass_is_marked_and_refused(made, monkeypatch):
    run, folder = made
    monkeypatch.setattr(verify, "TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="doesn't pass"):
        transfuse.export(run, "safetensors", out=folder / "failing")
    assert (folder / "failing" / "student.failed.safetensors").is_file()
    assert not (folder / "failing" / "student.safetensors").exists()
    with pytest.raises(ModelError, match="didn't pass"):
        transfuse.load(folder / "failing")


def test_what_a_regression_is_said_to_be_is_its_largest_difference():
    against = {"the network in torch": {"ratio": 1.0}}
    found = {
        "bytes": 1000,
        "largest_difference": {"relative": 0.003},
        "agreement": 0.999999,
        "samples": 40,
        "latency_ms": {"p50": 1.0, "against": against},
    }
    assert "40 samples: largest difference 0.003 of the largest output; 1 kB" in in_words(found, "regression")
    assert "decides as the network does on 97.50%" in in_words({**found, "agreement": 0.975}, "classification")


def test_an_export_over_an_earlier_one_says_so(made, tmp_path, capsys):
    run, _ = made
    said = []
    for _ in range(2):
        assert cli(["export", str(run.path), "target=bf16", f"out={tmp_path / 'bf16'}"]) == 0
        said.append("".join(capsys.readouterr()))
    assert [f"the earlier export in {tmp_path / 'bf16'} is replaced" in " ".join(text.split()) for text in said] == [False, True]


@pytest.mark.parametrize("name", ["file/below", "x" * 300])
def test_a_folder_that_can_not_be_made_is_refused_and_named(made, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="can't be written") as refused:
        transfuse.export(made[0], "safetensors", out=tmp_path / name)
    assert name in refused.value.where or name in str(refused.value)
    assert (tmp_path / "file").read_text() == "mine"


def changed(made, tmp_path, change):
    run, _ = made
    shutil.copytree(run.path, tmp_path / "changed")
    change(tmp_path / "changed")
    return tmp_path / "changed"


def relabel(path):
    told = json.loads((path / "student.json").read_text())
    (path / "student.json").write_text(json.dumps({**told, "classes": ["yes", "no"]}))


def without_preprocess(path):
    told = json.loads((path / "student.json").read_text())
    (path / "student.json").write_text(json.dumps({**told, "preprocess": None}))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda path: (path / "summary.json").unlink(), RunError, "not finished"),
        (lambda path: (path / "student.safetensors").unlink(), ModelError, "no student"),
        (lambda path: (path / "student.safetensors").write_bytes(b"half"), ModelError, "truncated"),
        (lambda path: (path / "summary.json").write_text("{}"), RunError, "task"),
        (relabel, RunError, "student answers"),
        (without_preprocess, RunError, "preprocess"),
    ],
)
def test_a_run_that_is_half_written_or_changed_by_hand_is_refused(made, tmp_path, change, error, said):
    path = changed(made, tmp_path, change)
    with pytest.raises(error, match=said):
        transfuse.export(path, "safetensors")


def test_a_finished_run_with_a_target_missing_can_be_resumed(made, tmp_path):
    path = changed(made, tmp_path, lambda folder: shutil.rmtree(folder / "exports" / "bf16"))
    transfuse.resume(path)
    assert json.loads((path / "exports" / "bf16" / "verify.json").read_text())["target"] == "bf16"
    with pytest.raises(RunError, match="finished"):
        transfuse.resume(path)


def test_a_run_on_objects_ships_from_the_inputs_that_it_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFUSE_CACHE", str(tmp_path / "cache"))
    inputs, labels = torch.randn(60, 4), torch.randint(0, 2, (60,))
    run = transfuse.distill(
        data=((inputs[:40], labels[:40]), (inputs[40:], labels[40:])),
        student={"source": "builtin:mlp", "options": {"widths": [4]}},
        objectives=["cross_entropy"],
        train={"epochs": 1},
        control="none",
        out=tmp_path / "run",
    )
    transfuse.export(run.path, "safetensors")
    assert verdict(run, "safetensors")["metric"]["labelled"] == 20
    kept = np.load(run.path / "samples" / "train.npz")["inputs"]
    assert len(kept)
    assert {tuple(row) for row in kept.tolist()} <= {tuple(row) for row in inputs[:40].tolist()}


def test_the_command_refuses_other_peoples_folders_and_unknown_targets(made, tmp_path, capsys):
    run, _ = made
    (tmp_path / "notes.txt").write_text("mine")
    assert cli(["export", str(run.path), "target=safetensors", f"out={tmp_path}"]) == 2
    assert cli(["export", str(run.path), "target=onx"]) == 2
    assert cli(["export", str(tmp_path / "nosuch"), "target=safetensors"]) == 2
    assert cli(["export", "builtin:mlp", "target=safetensors", f"out={tmp_path / 'new'}"]) == 2
    said = capsys.readouterr().err
    assert "holds other files" in said
    assert "no such run folder" in said
    assert "did you mean 'onnx'" in said
    assert "no data" in said
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("kind", ["arrays", "images"])
def test_a_graph_does_with_pictures_of_the_networks_size_what_the_network_was_judged_on(tmp_path, kind):
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    save_model(example_model(), tmp_path / "net.safetensors", {})
    labels = np.arange(90) % len(CLASSES)
    pictures = np.random.default_rng(0).integers(0, 256, (90, 3, 4, 4), dtype=np.uint8).repeat(3, 2).repeat(3, 3)  # the network's 12x12
    place = tmp_path / "data.npz" if kind == "arrays" else tmp_path / "data"
    if kind == "arrays":
        parts = {"x_train": pictures[:45], "y_train": labels[:45], "x_test": pictures[45:], "y_test": labels[45:]}
        np.savez(place, classes=CLASSES, **parts)
    for number, (label, pixels) in enumerate(zip(labels, pictures, strict=True) if kind == "images" else ()):
        folder = place / ("train" if number < 45 else "test") / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{number}.png")
    target = {"onnx": {"preprocess": "graph"}}
    transfuse.export(f"file:{tmp_path / 'net.safetensors'}", target, data=f"{kind}:{place}", out=tmp_path / "out")
    assert json.loads((tmp_path / "out/verify.json").read_text())["agreement"] >= 0.95
