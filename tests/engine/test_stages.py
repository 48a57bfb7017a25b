"""Stages: how a training is laid out, that one loop goes on where another ended, and that what was prepared stays as it is."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from transfuse.core.card import Card
from transfuse.core.preprocess import Preprocess
from transfuse.core.stages import Stage, prepared_parts
from transfuse.core.types import WeightedObjective
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.stages import counts, plan
from transfuse.engine.steppers.preparation import Preparation
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.track import Jsonl
from transfuse.errors import RecipeError

from .conftest import network, weighted

PLAIN = Preprocess()


class Staged(nn.Module):
    """Its own part learns the mean of the inputs; then the student's logits are drawn to the part's."""

    def __init__(self, *stages: Stage):
        super().__init__()
        self.declared = stages
        self.part = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))

    def stages(self):
        return self.declared

    def prepare(self, step):
        return (self.part(step.batch.inputs) - step.batch.inputs[:, :3]).square().mean(1)

    def forward(self, step):
        return (step.student.logits - self.part(step.batch.inputs)).square().mean(1)


def staged(name: str, *stages: Stage, weight: float = 1.0) -> WeightedObjective:
    return WeightedObjective(name, Staged(*stages), Card(name), lambda progress: weight)


@dataclass
class Laid:
    """What a plan comes to, in plain values."""

    preparations: list
    first: list
    last: list
    begin: int


def laid(*objectives: WeightedObjective, steps: int) -> Laid:
    found = plan(objectives, steps)
    runs = [[(run.weighted.name, run.begin, run.end) for run in stage] for stage in (found.preparations, found.first)]
    return Laid(*runs, [weighted.name for weighted in found.last], found.begin)


def test_first_stages_share_the_students_steps_and_preparations_have_their_own():
    prepared, one, two = staged("a", Stage("prepare", 0.5, ("part",))), staged("b", Stage("first", 0.25)), staged("c", Stage("first", 0.1))
    found = laid(weighted("cross_entropy"), two, prepared, one, steps=40)
    assert found == Laid([("a", 0, 20)], [("c", 0, 4), ("b", 4, 14)], ["cross_entropy", "a"], 14)


def test_without_stages_everything_is_the_last_one():
    assert laid(weighted("cross_entropy"), staged("a"), steps=3) == Laid([], [], ["cross_entropy", "a"], 0)
    assert laid(staged("a", Stage("first", 0.5), weight=0.0), weighted("kd"), steps=3).first == []


def test_a_weight_that_rises_late_counts():
    late = WeightedObjective("a", Staged(), Card("a"), lambda progress: max(0.0, progress - 0.9))
    assert counts(late)
    assert not counts(staged("a", weight=0.0))


@pytest.mark.parametrize("steps", [1, 4])
def test_stages_that_leave_nothing_are_refused(steps):
    alone, late = staged("a", Stage("first", 0.25)), weighted("cross_entropy")
    with pytest.raises(RecipeError, match="nothing is left to learn from"):
        plan([alone], 10)
    with pytest.raises(RecipeError, match=f"{steps} of {steps} steps"):
        plan([staged("a", Stage("first", 0.9)), late], steps)


def trained(problem, student, folder=None, track=None, **changes):
    plain = {"seed": 0, "optimizer": ("sgd", {"lr": 0.1, "momentum": 0.0}), "schedule": ("constant", {}), "select": "last"}
    stepper = Supervised(student, PLAIN, [weighted("cross_entropy")])
    return Loop(stepper, problem.loader(views=3), Settings(**{**plain, **changes}), None, Checkpoints(folder), track).fit()


def test_two_loops_one_behind_the_other_see_what_one_sees(problem):
    """Samples, views and dropout: without memory in the optimiser the bits are the same."""
    whole, parts = network(dropout=0.5), network(dropout=0.5)
    trained(problem, whole, steps=20)
    trained(problem, parts, steps=8)
    trained(problem, parts, first=8, steps=20)
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), parts.parameters(), strict=True))


def test_a_stage_that_is_over_is_taken_from_its_checkpoint_and_later_lines_stay(problem, tmp_path):
    def stage(student):
        track = Jsonl(tmp_path / "metrics.jsonl", "student", "early")
        trained(problem, student, tmp_path / "early", track, steps=5)
        return student

    first = stage(network())
    Jsonl(tmp_path / "metrics.jsonl", "student").write("train", {"step": 6})
    before = (tmp_path / "metrics.jsonl").read_text()
    again = stage(network(dropout=0.9))  # another start, which the checkpoint overrules
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), again.parameters(), strict=True))
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_stage_that_starts_over_drops_its_own_lines_and_no_others(tmp_path):
    tracks = [Jsonl(tmp_path / "metrics.jsonl", *names) for names in (("teacher",), ("student", "fsp"), ("student",))]
    for track in tracks:
        track.write("train", {"step": 1})
    tracks[1].forget()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert "fsp" not in "".join(lines)
    tracks[2].forget()
    assert '"teacher"' in (tmp_path / "metrics.jsonl").read_text()
    assert '"student"' not in (tmp_path / "metrics.jsonl").read_text()


def prepared(problem, objective: WeightedObjective, **changes):
    parts = nn.ModuleList(prepared_parts(objective.objective))
    stepper = Preparation(parts, PLAIN, [objective])
    settings = Settings(**{"steps": 200, "seed": 0, "optimizer": ("sgd", {"lr": 0.1}), "select": "last", **changes})
    loop = Loop(stepper, problem.loader(), settings)
    loop.fit()
    return loop


def test_a_preparation_trains_the_parts_with_weight_one_and_saves_nothing_else(problem):
    objective = staged("a", Stage("prepare", 0.5, ("part",)), weight=1e-6)
    objective.objective.part.requires_grad_(False)  # as a stepper of the student leaves it
    loop = prepared(problem, objective)
    assert {name.split(".")[0] for name in loop.module.state_dict()} == {"student"}
    with torch.no_grad():
        error = (objective.objective.part.eval()(problem.inputs) - problem.inputs[:, :3]).square().mean()
    assert error < 0.1, "by plain gradient descent, so a tiny weight would be seen"


def test_what_was_prepared_is_neither_trained_nor_moved_beside_the_student(problem):
    objective = staged("a", Stage("prepare", 0.5, ("part",)))
    prepared(problem, objective, steps=3)
    before = {name: value.clone() for name, value in objective.objective.state_dict().items()}
    student = network()
    stepper = Supervised(student, PLAIN, [objective])
    Loop(stepper, problem.loader(), Settings(steps=5, seed=0, optimizer=("sgd", {"lr": 0.1}), select="last")).fit()
    assert all(torch.equal(value, before[name]) for name, value in objective.objective.state_dict().items())
    assert not torch.equal(student[0].weight, network()[0].weight)
