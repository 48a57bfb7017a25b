"""Freezing and unfreezing by a policy: told by identity, resumed where it was, without a trace on what is frozen."""

import copy

import pytest
import torch
from torch import nn

from transfuse.core.policy import Rate, always, from_then_on
from transfuse.core.preprocess import Preprocess
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.optim import parameter_groups
from transfuse.engine.steppers.paced import Paced
from transfuse.engine.steppers.per_term_gradients import PerTermGradients
from transfuse.engine.steppers.supervised import Supervised

from .conftest import network, weighted

ADAMW = ("adamw", {"lr": 0.01, "weight_decay": 0.5})
SGD = ("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1})


def rates_of(student, first=0.0, begin=0.5):
    """The head from the beginning, the layer before it from `begin` on, BatchNorm never, unless `first` says so."""
    found = [Rate("0", tuple(student[0].parameters()), from_then_on(begin)), Rate("4", tuple(student[4].parameters()), always(1.0))]
    return [*found, *([Rate("1", tuple(student[1].parameters()), always(first))] if first else [])]


def loop_of(problem, student, rates, batchnorm="follow", folder=None, steps=20, optimizer=ADAMW, **changes):
    stepper = Supervised(student, Preprocess(), [weighted("cross_entropy")])
    paced = Paced(stepper, rates, batchnorm, list(student[4].parameters()))
    plain = {"schedule": ("constant", {}), "select": "last", **changes}
    return Loop(paced, problem.loader(), Settings(steps=steps, seed=0, optimizer=optimizer, **plain), None, Checkpoints(folder))


def test_a_frozen_layer_keeps_its_bits_and_an_unfrozen_one_begins_to_move_in_time(problem):
    student = network(batchnorm=True)
    before = copy.deepcopy(student)
    loop = loop_of(problem, student, rates_of(student))
    seen = []
    update = loop._update

    def watched(batch):
        values = update(batch)
        seen.append(not torch.equal(student[0].weight, before[0].weight))
        return values

    loop._update = watched  # type: ignore[method-assign]
    loop.fit()
    assert seen == [False] * 10 + [True] * 10, "neither decay nor a running mean moves what is frozen"
    assert torch.equal(student[1].weight, before[1].weight)
    assert not torch.equal(student[4].weight, before[4].weight)


@pytest.mark.parametrize("optimizer", [ADAMW, SGD])
def test_training_the_head_alone_equals_a_hand_written_loop(problem, optimizer):
    student, by_hand = network(), network()
    loop_of(problem, student, [Rate("head", tuple(student[4].parameters()), always(0.5))], optimizer=optimizer).fit()
    name, given = optimizer
    groups = [{"params": [by_hand[4].weight]}, {"params": [by_hand[4].bias], "weight_decay": 0.0}]
    made = (
        torch.optim.AdamW(groups, lr=0.5 * given["lr"], weight_decay=given["weight_decay"])
        if name == "adamw"
        else torch.optim.SGD(groups, lr=0.5 * given["lr"], momentum=0.9, nesterov=True, weight_decay=given["weight_decay"])
    )
    order = problem.loader().order
    for step in range(20):
        ids = order.batch(step)[0]
        kept = ids[problem.labels[ids] >= 0]
        made.zero_grad()
        nn.functional.cross_entropy(by_hand(problem.inputs[kept]), problem.labels[kept]).backward()
        made.step()
    torch.testing.assert_close(student[4].weight, by_hand[4].weight)
    torch.testing.assert_close(student[4].bias, by_hand[4].bias)
    assert torch.equal(student[0].weight, network()[0].weight)


def test_equal_values_are_not_the_same_parameter(problem):
    """Lightning's callback leaves out a bias whose values equal those of one that is optimised already; see its `filter_on_optimizer`."""
    student = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3), nn.ReLU(), nn.Identity(), nn.Linear(3, 3))
    with torch.no_grad():
        for layer in (student[0], student[1], student[4]):
            layer.bias.zero_()
    rates = [Rate(str(place), tuple(student[place].parameters()), from_then_on(begin)) for place, begin in ((0, 0.6), (1, 0.3), (4, 0.0))]
    loop = loop_of(problem, student, rates)
    optimised = [id(parameter) for group in loop.optimizer.param_groups for parameter in group["params"]]
    assert sorted(optimised) == sorted(id(parameter) for parameter in student.parameters())
    loop.fit()
    assert all(student[place].bias.any() for place in (0, 1, 4))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [4, 10, 13])
def test_a_schedule_that_is_resumed_goes_on_with_what_was_unfrozen(problem, tmp_path, stop):
    """Lightning's BackboneFinetuning freezes the backbone again when a run is resumed (issue 21901)."""
    whole = network(batchnorm=True, dropout=0.3)
    loop_of(problem, whole, rates_of(whole, first=0.1, begin=0.35), checkpoint_seconds=0).fit()

    broken = network(batchnorm=True, dropout=0.3)
    loop = loop_of(problem, broken, rates_of(broken, first=0.1, begin=0.35), folder=tmp_path, checkpoint_seconds=0)
    update = loop._update

    def failing(batch):
        if loop.state.step == stop:
            raise Stopped
        return update(batch)

    loop._update = failing  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        loop.fit()
    resumed = network(batchnorm=True, dropout=0.3)
    loop_of(problem, resumed, rates_of(resumed, first=0.1, begin=0.35), folder=tmp_path, checkpoint_seconds=0).fit()
    assert all(torch.equal(one, other) for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))


@pytest.mark.parametrize(("batchnorm", "moves"), [("follow", False), ("train", True), ("frozen", False)])
def test_statistics_of_a_frozen_batchnorm_move_only_where_that_is_said(problem, batchnorm, moves):
    student = network(batchnorm=True)
    loop_of(problem, student, rates_of(student, begin=0.0), batchnorm).fit()
    assert bool(student[1].running_mean.any()) == moves


def test_frozen_means_weights_and_statistics_though_the_policy_trains_them(problem):
    student = network(batchnorm=True)
    before = copy.deepcopy(student[1])
    loop_of(problem, student, rates_of(student, first=1.0), "frozen").fit()
    assert all(torch.equal(one, other) for one, other in zip(student[1].state_dict().values(), before.state_dict().values(), strict=True))
    followed = network(batchnorm=True)
    loop_of(problem, followed, rates_of(followed, first=1.0), "follow").fit()
    assert followed[1].running_mean.any()
    assert not torch.equal(followed[1].weight, before.weight)


def test_while_the_head_alone_is_trained_the_rest_is_in_eval_mode(problem):
    student = network(batchnorm=True, dropout=0.5)
    paced = Paced(
        Supervised(student, Preprocess(), [weighted("cross_entropy")]), rates_of(student), "follow", list(student[4].parameters())
    )
    student.train()
    paced.begin_step(0.2)
    assert [layer.training for layer in student] == [False, False, False, False, True]
    paced.begin_step(0.7)
    assert [layer.training for layer in student] == [True, False, True, True, True], "BatchNorm's own weights are frozen"


def test_groups_of_the_optimiser_have_the_rates_and_decay_of_their_parameters():
    student = network()
    rates = [Rate("first", tuple(student[0].parameters()), always(0.1)), Rate("head", tuple(student[4].parameters()), always(1.0))]
    groups = parameter_groups(nn.ModuleDict({"student": student, "bridge": nn.Linear(2, 2)}), rates)
    assert [group["rate"] for group in groups] == [0, 0, 1, 1, -1, -1]
    assert ["weight_decay" in group for group in groups] == [False, True] * 3
    assert sum(len(group["params"]) for group in groups) == 6
    assert all("rate" not in group for group in parameter_groups(student))


def test_policies_go_with_gradients_kept_apart(problem):
    student = network()
    before = copy.deepcopy(student)
    terms = [weighted("cross_entropy"), weighted("cross_entropy", 0.5)]
    stepper = Supervised(student, Preprocess(), terms)
    paced = Paced(PerTermGradients(stepper), rates_of(student), "follow", list(student[4].parameters()))
    settings = Settings(steps=8, seed=0, optimizer=ADAMW, schedule=("constant", {}), select="last")
    Loop(paced, problem.loader(), settings).fit()
    assert not torch.equal(student[0].weight, before[0].weight)
    assert not torch.equal(student[4].weight, before[4].weight)
