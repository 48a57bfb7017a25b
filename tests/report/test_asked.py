"""A recipe in words, and what `auto` became."""

import pytest

from tests.report.runs import recipe
from transfuse import objectives
from transfuse.report import asked


def test_objectives_are_called_as_the_field_calls_them():
    found = {term.name: term for term in asked.terms(recipe([]))}
    assert found["kd"].title == objectives.card("kd").title
    assert found["kd"].link == objectives.card("kd").link
    assert found["kd"].settings == "weight 0.9, temperature 4.0"


def test_an_objective_of_the_users_own_keeps_its_name():
    own = asked.terms({"objectives": [{"live:MyLoss": {"weight": {"linear": {"start": 0, "end": 1}}}}, "somebody_elses"]})
    assert [(term.title, term.settings, term.link) for term in own] == [
        ("live:MyLoss", "weight linear start 0 end 1", ""),
        ("somebody_elses", "", ""),
    ]


def test_the_teacher_of_a_term_is_named_where_there_are_several():
    teachers = {"a": {"source": "builtin:mlp"}, "b": {"source": "builtin:mlp"}}
    settings = [term.settings for term in asked.terms(recipe([], teachers=teachers, objectives=[{"kd": {"teacher": ["a", "b"]}}]))]
    assert settings == ["teacher a and b"]


def test_lines_say_data_models_and_training():
    found = dict(asked.lines(recipe([])))
    assert found["Teacher"] == "file:r56.safetensors as builtin:resnet56 (shortcut A)"
    assert found["Student"] == "builtin:resnet8"
    assert found["Training"] == "30 epochs, batches of 128, adamw, fp32"
    assert asked.lines({}) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.precision", "fp32"),
        ("objectives.kd.temperature", "4.0"),
        ("teacher.architecture", "builtin:resnet56"),
        ("data.unlabelled", "None"),
        ("objectives", None),
        ("no.such.key", None),
    ],
)
def test_values_are_found_by_the_names_that_reasons_use(key, value):
    assert asked.value_of(recipe([]), key) == value


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({"views": 8, "seed": 0, "crop": 4, "flip": True, "mixup": None}, "crop 4, flip; 8 views of each sample"),
        (
            {"views": "fresh", "flip": False, "erasing": {"probability": 0.25, "scale": [0.02, 0.33], "fill": "noise"}},
            "erasing (probability 0.25, scale 0.02 to 0.33, fill noise); new views in every epoch",
        ),
        ({"views": 1, "seed": 3, "crop": 0, "flip": False}, ""),
    ],
)
def test_augmentation_is_said_with_its_settings_and_number_of_views(augment, words):
    assert asked.augmentation(augment) == words
    assert ("Augmentation" in dict(asked.lines(recipe([], augment=augment)))) == bool(words)
