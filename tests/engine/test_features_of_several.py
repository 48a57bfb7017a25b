"""Objectives on features of several teachers at once: each teacher has taps of its own, and the last layer's input where none is named."""

import pytest
import torch
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import WeightedObjective
from transfuse.engine.features import connect
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.teacher_cache.teachers import LiveTeacher
from transfuse.errors import ModelError, RecipeError
from transfuse.objectives import card, get

from .conftest import network

PLAIN, ONE = Preprocess(), torch.zeros(1, 6)


def teacher(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width + 1), nn.Tanh(), nn.Linear(width + 1, 3))


def asking(taps: tuple[str, ...] = ()) -> WeightedObjective:
    method = "layer_amalgamation"
    return WeightedObjective(method, get(method)(width=4), card(method), lambda progress: 1.0, ("wide", "narrow"), (), taps)


@pytest.fixture
def teachers():
    return {"wide": teacher(9, 1), "narrow": teacher(5, 2)}


def connected(objective, teachers):
    (found,), (note,) = connect([objective], (network(), ONE), {name: (module, ONE) for name, module in teachers.items()}, 0)
    return found, note


def test_every_teacher_is_read_before_its_last_layer_unless_taps_are_named(teachers):
    found, note = connected(asking(), teachers)
    assert found.teacher_taps == ("wide:4@input", "narrow:4@input")
    assert found.taps_of("narrow") == ("4@input",)
    assert found.objective.widths == [10, 6]
    assert "wide:4@input, narrow:4@input" in note
    named, _ = connected(asking(("narrow:0", "wide:2")), teachers)
    assert (named.taps_of("wide"), named.taps_of("narrow"), named.objective.widths) == (("2",), ("0",), [10, 5])


def test_a_step_gives_each_teachers_own_feature(problem, teachers):
    loader, student = problem.loader(), network()
    found, _ = connected(asking(("wide:0", "narrow:2")), teachers)
    live = {name: LiveTeacher(module, PLAIN, loader.fetch) for name, module in teachers.items()}
    stepper = Supervised(student, PLAIN, [found], live)
    batch = next(loader.batches(0, 1))
    seen = {}
    found.objective.register_forward_pre_hook(lambda _, given: seen.update(given[0].teachers))
    stepper.terms(batch, "all", 0.0)
    torch.testing.assert_close(seen["wide"].features["0"], teachers["wide"][0](batch.inputs))
    torch.testing.assert_close(seen["narrow"].features["2"], teachers["narrow"][:3](batch.inputs))
    assert {name: list(signals.features) for name, signals in seen.items()} == {"wide": ["0"], "narrow": ["2"]}


def test_taps_that_do_not_say_whose_they_are_and_tables_are_refused(teachers):
    with pytest.raises(ModelError, match="'layer3' doesn't say whose feature it is"):
        connected(asking(("layer3",)), teachers)
    with pytest.raises(ModelError, match=r"teacher 'wide'.*no module 'layer9'"):
        connected(asking(("wide:layer9", "narrow:0")), teachers)
    with pytest.raises(RecipeError, match="teacher 'narrow' is not a network"):
        connected(asking(), {"wide": teachers["wide"]})
