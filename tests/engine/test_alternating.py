"""Maximum classifier discrepancy, step by step, against a loop written by hand with two optimisers."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.data.views import BatchViews
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.features import connect
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.order import PairedOrder
from transfuse.engine.steppers.alternating import Alternating, stepper_for
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.track import Jsonl
from transfuse.errors import ModelError, RecipeError

from .conftest import network, weighted

ADAMW = ("adamw", {"lr": 0.01, "weight_decay": 0.1})


def both(problem) -> MemoryLoader:
    """Samples 0 to 24 are the source, all others the target; those from 40 on have no label."""
    return MemoryLoader(problem.samples, BatchViews(views=1, seed=0), PairedOrder(25, 25, 16, seed=0))


def alternating(problem, steps=4, names=("cross_entropy",), folder=None, track=None, network_=None, **arguments):
    student = network_ or network()
    objectives, _ = connect([*(weighted(name) for name in names), weighted("mcd", **arguments)], (student, problem.inputs[:1]), {}, seed=0)
    kind = stepper_for(objectives)
    assert kind is Alternating
    stepper = kind(student, Preprocess(), objectives)
    settings = Settings(steps=steps, seed=0, optimizer=ADAMW, schedule=("constant", {}), select="last", clip=0.5)
    return student, objectives[-1].objective, Loop(stepper, both(problem), settings, None, Checkpoints(folder), track)


def discrepancy(one, other):
    return (one.softmax(1) - other.softmax(1)).abs().mean()


def by_hand(problem, body, first, second, steps, updates):
    """The paper's three steps; the features have one optimiser and the heads another."""

    def optimiser(*modules):
        parameters = [parameter for module in modules for parameter in module.parameters()]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1), parameters

    (features, body_parameters), (heads, head_parameters) = optimiser(body), optimiser(first, second)
    for batch in both(problem).batches(0, steps):
        labelled, target = batch.labelled, batch.domains == 1

        def labels(batch=batch, labelled=labelled):
            seen = body(batch.inputs[labelled])
            return sum(F.cross_entropy(head(seen), batch.labels[labelled]) for head in (first, second))

        def gap(batch=batch, target=target):
            seen = body(batch.inputs[target])
            return discrepancy(first(seen), second(seen))

        for loss, optimisers, parameters in (
            (labels, (features, heads), body_parameters + head_parameters),
            (lambda: labels() - gap(), (heads,), head_parameters),
            *[(gap, (features,), body_parameters)] * updates,
        ):
            for one in (features, heads):
                one.zero_grad()
            loss().backward()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            for one in optimisers:
                one.step()


@pytest.mark.parametrize("updates", [1, 3])
def test_the_loop_equals_one_that_is_written_by_hand_with_two_optimisers(problem, updates):
    student, objective, loop = alternating(problem, updates=updates)
    body, first, second = (copy.deepcopy(part) for part in (student[:4], student[4], objective.second))
    assert not torch.equal(first.weight, second.weight)
    loop.fit()
    by_hand(problem, body, first, second, 4, updates)
    for ours, theirs in ((student[:4], body), (student[4], first), (objective.second, second)):
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(one, two, atol=1e-5)


def test_each_phase_changes_what_it_trains_and_nothing_else(problem, monkeypatch):
    student, objective, loop = alternating(problem, steps=2, updates=2)
    apply, phases, seen = loop._apply_gradient, iter(2 * ["all", "apart", "together 1", "together 2"]), []

    def parts():
        return [
            torch.cat([p.detach().flatten() for p in part.parameters()]).clone() for part in (student[:4], student[4], objective.second)
        ]

    def watched():
        before = parts()
        apply()
        seen.append((next(phases), *[not torch.equal(one, two) for one, two in zip(before, parts(), strict=True)]))

    monkeypatch.setattr(loop, "_apply_gradient", watched)
    loop.fit()
    step = [("all", True, True, True), ("apart", False, True, True), ("together 1", True, False, False), ("together 2", True, False, False)]
    assert seen == 2 * step


def test_the_log_has_both_heads_and_the_discrepancy(problem, tmp_path):
    _, _, loop = alternating(problem, track=Jsonl(tmp_path / "metrics.jsonl", "student"))
    loop.fit()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        assert set(row["terms"]) == {"cross_entropy", "cross_entropy_second", "mcd"}
        assert all(math.isfinite(value) and value > 0 for value in row["terms"].values())


def test_a_run_that_goes_on_has_the_bits_of_one_that_was_never_stopped(problem, tmp_path):
    whole, _, loop = alternating(problem, steps=6)
    loop.fit()
    _, _, loop = alternating(problem, steps=6, folder=tmp_path)
    loop.loader.batches = lambda start, stop, batches=loop.loader.batches: batches(start, min(stop, 3))
    loop.settings = Settings(**{**vars(loop.settings), "checkpoint_seconds": 0.0})
    loop.fit()
    again, objective, loop = alternating(problem, steps=6, folder=tmp_path)
    loop.fit()
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), again.parameters(), strict=True))
    assert not torch.equal(again[4].weight, objective.second.weight)


def test_other_terms_take_part_in_the_first_phase_alone(problem):
    _, _, loop = alternating(problem, names=("cross_entropy", "dann", "entropy"))
    batch = next(both(problem).batches(0, 1))
    terms = {phase: [term.name for term in loop.stepper.terms(batch, phase, 0.0)] for phase in loop.stepper.phases()[:3]}
    assert terms == {
        "all": ["cross_entropy", "dann", "entropy", "cross_entropy_second"],
        "apart": ["cross_entropy", "cross_entropy_second", "mcd"],
        "together 1": ["mcd"],
    }


def test_a_larger_head_is_named_by_its_path(problem):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Linear(6, 16)
            self.classifier = nn.Sequential(nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, inputs):
            return self.classifier(self.body(inputs))

    student, objective, loop = alternating(problem, network_=Two(), head="classifier")
    loop.fit()
    assert [tuple(p.shape) for p in objective.second.parameters()] == [tuple(p.shape) for p in student.classifier.parameters()]
    for head, words in (("body", "is no head"), ("clasifier", "clasifier")):
        with pytest.raises(ModelError, match=words):
            alternating(problem, network_=Two(), head=head)


def test_two_that_alternate_are_refused(problem):
    with pytest.raises(RecipeError, match="mcd and mcd each"):
        stepper_for([weighted("mcd"), weighted("mcd")])
    assert stepper_for([weighted("cross_entropy"), weighted("dann")]) is Supervised


@pytest.mark.parametrize(("name", "part"), [("dann", "discriminator"), ("cdan", "discriminator"), ("mdd", "adversary")])
def test_the_opponents_gradient_reaches_the_student_turned_round_and_stronger_with_progress(problem, name, part):
    student = network()
    objectives, _ = connect([weighted(name)], (student, problem.inputs[:1]), {}, seed=0)
    stepper, batch = Supervised(student, Preprocess(), objectives), next(both(problem).batches(0, 1))
    objective = objectives[0].objective

    def gradients(progress):
        stepper.zero_grad()
        stepper.terms(batch, "all", progress)[0].values.backward()
        weight = next(getattr(objective, part).parameters())
        return student[0].weight.grad.clone(), weight.grad.clone()

    (start, opponent), (middle, opponent_later), (end, _) = (gradients(progress) for progress in (0.0, 0.2, 1.0))
    assert not start.any()
    assert torch.equal(opponent, opponent_later)
    strengths = [objective.highest * (2 / (1 + math.exp(-10 * progress)) - 1) for progress in (0.2, 1.0)]
    assert torch.allclose(middle / strengths[0], end / strengths[1], rtol=1e-3, atol=1e-6)
    before = stepper.terms(batch, "all", 1.0)[0].values
    with torch.no_grad():
        student[0].weight -= 0.05 * end / end.norm()
    assert stepper.terms(batch, "all", 1.0)[0].values > before  # going down its own gradient, the student makes the opponent's loss larger


def test_domain_terms_look_at_what_the_last_layer_is_given(problem):
    student = network()
    objectives, notes = connect([weighted("coral")], (student, problem.inputs[:1]), {}, seed=0)
    assert objectives[0].student_taps == ("4@input",)
    assert "4@input" in notes[0]
    batch = next(both(problem).batches(0, 1))
    value = Supervised(student, Preprocess(), objectives).terms(batch, "all", 0.0)[0].values
    features = student[:4](batch.inputs)
    source, target = (torch.cov(features[batch.domains == domain].T) for domain in (0, 1))
    assert torch.allclose(value, (source - target).square().sum() / (4 * 16**2), atol=1e-6)
