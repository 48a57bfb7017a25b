"""train.compile: where there is no C++ compiler the job says so and goes on without, to the same bits."""

import json

import pytest
import torch
from safetensors.torch import load_file

from transfuse.engine.precision import has_cpp_compiler
from transfuse.jobs import distill
from transfuse.jobs.deliver import finish
from transfuse.recipe.load import from_values


def student(folder, name, compile):
    train = {"steps": 4, "batch_size": 32, "compile": compile, "precision": "fp32"}
    recipe = {
        "job": "distill",
        "data": "bundled:digits",
        "teacher": {"source": "builtin:mlp", "train": {"steps": 3}},
        "student": "builtin:mlp",
        "train": train,
        "control": "none",
        "cache": {"dir": str(folder / "cache")},
        "samples": False,
        "out": str(folder / name),
    }
    run = distill.run(from_values(recipe))
    notes = json.loads((run.path / "reasons.json").read_text())["notes"]
    return load_file(run.path / "student.safetensors"), [note for note in notes if "compile" in note]


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(finish, "report", lambda *arguments: None)


def test_without_a_compiler_a_job_says_so_and_trains_as_if_nothing_was_asked(tmp_path, quiet, monkeypatch):
    eager, nothing = student(tmp_path, "eager", False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    asked, said = student(tmp_path, "asked", True)
    assert nothing == []
    assert said == ["train.compile: there is no C++ compiler here, so the student runs without it"]
    assert all((asked[name] == eager[name]).all() for name in eager)


@pytest.mark.skipif(not has_cpp_compiler(), reason="inductor builds CPU code with a C++ compiler, and there is none")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own, about torch.jit
def test_with_a_compiler_a_job_trains_the_compiled_student(tmp_path, quiet, monkeypatch):
    compiled = []
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **settings: compiled.append(network) or original(network, **settings))
    eager, _ = student(tmp_path, "eager", False)
    fast, said = student(tmp_path, "compiled", True)
    assert len(compiled) == 1
    assert said == []
    for name in eager:
        torch.testing.assert_close(fast[name], eager[name], rtol=1e-4, atol=1e-5)
