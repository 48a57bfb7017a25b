"""The loop against a hand-written one, and what it does when it is split, stopped, killed or fed nonsense."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.schedule import WEIGHT_SCHEDULES, weight_function
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.teacher_cache.teachers import LiveTeacher
from transfuse.engine.track import Jsonl
from transfuse.errors import NumericsError, RecipeError

from .conftest import network, weighted

PLAIN = Preprocess()
SGD = ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0})
CONSTANT = ("constant", {})


def settings(**changes) -> Settings:
    values = {"steps": 20, "seed": 0, "optimizer": SGD, "schedule": CONSTANT, "select": "last"}
    return Settings(**{**values, **changes})


def trained(problem, student=None, objectives=None, loader=None, evaluate=None, folder=None, track=None, **changes):
    student = student or network()
    stepper = Supervised(student, PLAIN, objectives or [weighted("cross_entropy")])
    loop = Loop(stepper, loader or problem.loader(), settings(**changes), evaluate, Checkpoints(folder), track)
    return student, loop.fit(), loop


def state(module: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(one, two) for one, two in zip(state(first), state(second), strict=True))


def close(first: nn.Module, second: nn.Module, tolerance=1e-5) -> bool:
    return all(torch.allclose(one, two, atol=tolerance) for one, two in zip(state(first), state(second), strict=True))


def test_the_loop_equals_a_hand_written_one(problem):
    student, _, _ = trained(problem)
    by_hand = network()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    order = problem.loader().order
    for step in range(20):
        ids = order.batch(step)[0]
        kept = ids[problem.labels[ids] >= 0]
        loss = F.cross_entropy(by_hand(problem.inputs[kept]), problem.labels[kept])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert close(student, by_hand)


def test_two_runs_give_the_same_bits_and_another_seed_does_not(problem):
    first, _, _ = trained(problem, network(dropout=0.5))
    second, _, _ = trained(problem, network(dropout=0.5))
    other, _, _ = trained(problem, network(dropout=0.5), loader=problem.loader(seed=1), seed=1)
    assert same(first, second)
    assert not same(first, other)


def test_micro_batches_give_the_gradient_of_the_whole_batch_although_labels_are_spread_unevenly(problem):
    whole, _, _ = trained(problem)
    pieces, _, _ = trained(problem, accumulate=4)
    assert close(whole, pieces)


def test_an_interrupted_run_ends_with_the_same_bits(problem, tmp_path):
    def run(folder, stop_at=None):
        student = network(dropout=0.5, batchnorm=True)
        scores = iter(range(1000))

        def evaluate(module):
            next(scores)
            if stop_at is not None and loop.state.step >= stop_at:
                raise KeyboardInterrupt
            with torch.no_grad():
                hits = module.eval()(problem.inputs[:40]).argmax(1) == problem.labels[:40]
            module.train()
            return {"accuracy": hits.float().mean().item()}

        stepper = Supervised(student, PLAIN, [weighted("cross_entropy")])
        track = Jsonl(folder / "metrics.jsonl", "student")
        choices = settings(ema=0.9, evaluate_every=3, select="best", checkpoint_seconds=0, optimizer=("adamw", {"lr": 0.01}))
        loop = Loop(stepper, problem.loader(), choices, evaluate, Checkpoints(folder / "checkpoints"), track)
        try:
            loop.fit()
        except KeyboardInterrupt:
            return None
        return student

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = run(tmp_path / "whole")
    for stop_at in (3, 9, 12):
        assert run(tmp_path / "killed", stop_at) is None
    finished = run(tmp_path / "killed")
    assert same(whole, finished)
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "killed" / "metrics.jsonl").read_text()


def test_a_teacher_that_said_what_is_none_stops_the_training_whatever_the_loss_made_of_it(problem):
    teacher = LiveTeacher(network(), PLAIN, problem.loader().fetch)
    teacher._bad = torch.tensor(3)  # as a GPU would have counted, without being waited for
    stepper = Supervised(network(), PLAIN, [weighted("cross_entropy")], {"teacher": teacher})
    with pytest.raises(NumericsError, match="a teacher's answer is NaN for 3 of 0 samples of 'teacher' by step 1"):
        Loop(stepper, problem.loader(), settings(steps=3)).fit()


def test_a_loss_that_is_not_finite_names_step_and_term_and_keeps_the_last_good_checkpoint(problem, tmp_path):
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()
            self.calls = 0

        def forward(self, inputs):
            self.calls += 1
            return self.inner(inputs) * (float("nan") if self.calls == 8 else 1.0)

    with pytest.raises(NumericsError, match="'cross_entropy' became nan at step 7"):
        trained(problem, Bad(), folder=tmp_path, checkpoint_seconds=0)
    kept, _ = Checkpoints(tmp_path).load()
    assert kept is not None
    assert kept["loop"]["step"] == 7
    assert all(value.isfinite().all() for value in kept["trained"].values())


class Hungry(nn.Module):
    """Runs out of memory above a number of samples, as a GPU would."""

    def __init__(self, most):
        super().__init__()
        self.inner, self.most = network(), most

    def forward(self, inputs):
        if self.training and len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(inputs)


def test_running_out_of_memory_splits_the_batch_and_changes_nothing_else(problem):
    student, outcome, loop = trained(problem, Hungry(most=5))
    whole, _, _ = trained(problem)
    assert loop.state.micro_batches == 4
    assert "memory ran out" in outcome.notes[0]
    assert close(student.inner, whole)


def test_one_sample_that_does_not_fit_is_refused(problem):
    with pytest.raises(RecipeError, match="one sample does not fit"):
        trained(problem, Hungry(most=0))


def related(values_of_step):
    """An objective that relates the samples of a batch."""
    from transfuse.core.card import Card
    from transfuse.core.types import WeightedObjective

    class Spread(nn.Module):
        def forward(self, step):
            return values_of_step(step)

    return WeightedObjective("spread", Spread(), Card(title="spread", level="batch"), lambda progress: 1.0)


def test_batch_level_objectives_refuse_a_split_unless_it_is_allowed(problem):
    spread = related(lambda step: step.student.logits.var())
    with pytest.raises(RecipeError, match="spread relates all samples"):
        trained(problem, objectives=[spread], accumulate=2)
    trained(problem, objectives=[spread], accumulate=2, allow_batch_split=True)


def test_clipping_bounds_the_update(problem):
    start = network()
    student, _, _ = trained(
        problem, copy.deepcopy(start), steps=1, clip=0.01, optimizer=("sgd", {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0})
    )
    moved = torch.cat([(one - two).flatten() for one, two in zip(student.parameters(), start.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_average_of_weights_follows_its_recursion_and_is_what_is_shipped(problem):
    student, _, _ = trained(problem, ema=0.9, steps=3)
    average = [value.clone() for value in network().parameters()]
    by_hand = network()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    order = problem.loader().order
    for step in range(3):
        ids = order.batch(step)[0]
        kept = ids[problem.labels[ids] >= 0]
        optimizer.zero_grad()
        F.cross_entropy(by_hand(problem.inputs[kept]), problem.labels[kept]).backward()
        optimizer.step()
        decay = min(0.9, (2 + step) / (11 + step))
        average = [decay * old + (1 - decay) * new.detach() for old, new in zip(average, by_hand.parameters(), strict=True)]
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(student.parameters(), average, strict=True))


def scores(values):
    iterator = iter(values)
    return lambda module: {"accuracy": next(iterator)}


def test_the_best_weights_on_validation_are_kept(problem):
    snapshots = []

    def evaluate(module):
        snapshots.append(copy.deepcopy(module))
        return {"accuracy": [0.1, 0.9, 0.5, 0.9][len(snapshots) - 1]}

    student, outcome, _ = trained(problem, evaluate=evaluate, evaluate_every=5, select="best")
    assert outcome.best_step == 10
    assert same(student, snapshots[1])


def test_patience_stops_after_that_many_evaluations_without_improvement(problem):
    _, outcome, _ = trained(problem, evaluate=scores([0.5, 0.6, 0.6, 0.4, 0.9]), evaluate_every=2, patience=2)
    assert outcome.steps == 8
    assert "has not improved" in outcome.stopped


def test_a_target_stops_and_errors_count_downwards(problem):
    _, outcome, _ = trained(problem, evaluate=scores([0.5, 0.97, 0.99]), evaluate_every=2, stop_at=0.95)
    assert outcome.steps == 4
    _, outcome, _ = trained(problem, evaluate=scores([3.0, 1.5, 0.5]), evaluate_every=2, stop_at=1.6, higher_is_better=False)
    assert outcome.steps == 4


def test_minutes_stop_the_run(problem):
    _, outcome, _ = trained(problem, evaluate=scores([0.5] * 100), minutes=1e-9)
    assert outcome.steps == 1
    assert "minutes are over" in outcome.stopped


def test_the_log_holds_weighted_loss_terms_and_learning_rate(problem, tmp_path):
    track = Jsonl(tmp_path / "metrics.jsonl", "student")
    trained(problem, objectives=[weighted("cross_entropy", weight=0.5)], track=track, schedule=("cosine", {"warmup": 0.0}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert all(line["loss"] == pytest.approx(0.5 * line["terms"]["cross_entropy"], abs=1e-5) for line in lines)
    assert lines[0]["lr"] > lines[10]["lr"] > lines[-1]["lr"]
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("name", sorted(WEIGHT_SCHEDULES))
def test_a_terms_weight_follows_its_schedule_over_the_run(problem, tmp_path, name):
    track, weight = Jsonl(tmp_path / "metrics.jsonl", "student"), weight_function({name: {"start": 0.2, "end": 2.0, "until": 0.8}})
    trained(problem, objectives=[replace(weighted("cross_entropy"), weight=weight)], track=track)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = [line["loss"] / line["terms"]["cross_entropy"] for line in lines]
    assert found == pytest.approx([weight(step / 20) for step in range(20)], rel=1e-4)
    assert found[0] == pytest.approx(0.2, rel=1e-4)
    assert found[-1] == pytest.approx(2.0, rel=1e-4)


def test_decay_is_for_matrices_only(problem):
    _, _, loop = trained(problem, network(batchnorm=True), optimizer=("adamw", {"lr": 0.01, "weight_decay": 0.1}))
    for group in loop.optimizer.param_groups:
        dimensions = {parameter.ndim for parameter in group["params"]}
        assert dimensions == ({2} if group["weight_decay"] else {1})


@pytest.mark.parametrize(
    ("changes", "processes", "said"),
    [({}, 1, None), ({"minutes": 10.0}, 1, "stops by the clock"), ({}, 2, "2 processes and goes on with 1")],
)
def test_a_resumed_run_says_where_the_same_bits_are_not_promised(problem, tmp_path, changes, processes, said):
    from transfuse.engine import loop as loops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops.ranks, "world_size", lambda: processes)
        stepper = Supervised(network(), PLAIN, [weighted("cross_entropy")])
        Loop(stepper, problem.loader(), settings(**changes), None, Checkpoints(tmp_path))._save()
    _, outcome, _ = trained(problem, folder=tmp_path, **changes)
    notes = [note for note in outcome.notes if "bits" in note]
    assert (notes == []) if said is None else (said in notes[0])


def test_a_resumed_optimiser_counts_its_steps_on_the_cpu_whatever_trains(problem, tmp_path):
    changes = {"optimizer": ("adamw", {"lr": 0.01}), "ema": 0.9, "select": "best", "snapshots": 1}
    trained(problem, evaluate=scores([0.5]), folder=tmp_path, **changes)
    stepper = Supervised(network(), PLAIN, [weighted("cross_entropy")])
    loop = Loop(stepper, problem.loader(), settings(**changes), scores([0.5]), Checkpoints(tmp_path))
    loop.loader.device = torch.device("cuda")
    loop._resume()
    found = [entry["step"] for entry in loop.optimizer.state.values()]
    assert len(found) == 4
    assert all(step.device.type == "cpu" and step == 20 for step in found)
