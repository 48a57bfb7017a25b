"""train.compile: where there is no C++ compiler the job says so and goes on without, to the same bits."""

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from transfuse.engine.precision import has_cpp_compiler
from transfuse.engine.steppers.mutual import Mutual
from transfuse.engine.steppers.supervised import Supervised
from transfuse.jobs import distill
from transfuse.jobs.deliver import finish
from transfuse.jobs.train.training import Lesson, graphed, no_graphs
from transfuse.recipe.blocks import TrainBlock
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
        torch.testing.assert_close(fast[name], eager[name], rtol=1e-4, atol=5e-5 if torch.cuda.is_available() else 1e-5)


@dataclass
class Objective:
    needs: tuple[str, ...] = ()
    student_taps: tuple[str, ...] = ()

    @property
    def card(self):
        return self


def lesson(stepper=Supervised, pace=None, objective=None, **train) -> Lesson:
    return Lesson("student", None, [objective or Objective()], TrainBlock(compile="max", **train), 0, None, stepper=stepper, pace=pace)


def test_cuda_graphs_are_left_to_steps_of_one_forward_and_one_backward_pass():
    gpu = torch.device("cuda")
    assert no_graphs(gpu, lesson()) is None
    refused = [
        no_graphs(torch.device("cpu"), lesson()),
        no_graphs(gpu, lesson(accumulate=2)),
        no_graphs(gpu, lesson(gradients="pcgrad")),
        no_graphs(gpu, lesson(objective=Objective(student_taps=("layer3",)))),
        no_graphs(gpu, lesson(objective=Objective(needs=("two_views",)))),
        no_graphs(gpu, lesson(stepper=Mutual)),
        no_graphs(gpu, lesson(pace=lambda stepper: stepper)),
    ]
    assert None not in refused
    assert len(set(refused)) == len(refused)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own, about torch.jit
def test_a_graphs_output_is_the_steps_own(monkeypatch):
    modes, output = [], torch.zeros(2)
    monkeypatch.setattr(torch, "compile", lambda network, mode: modes.append(mode) or (lambda inputs: output.add_(inputs)))
    forward = graphed(torch.nn.Identity())
    first, second = forward(torch.ones(2)), forward(torch.ones(2))
    assert modes == ["reduce-overhead"]
    assert (first.tolist(), second.tolist()) == ([1, 1], [2, 2])
