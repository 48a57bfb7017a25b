"""Shipped recipes, the commented template and the JSON Schema agree with the schema that recipes are validated by."""

import json
import re

import pytest

from transfuse import objectives
from transfuse.errors import RecipeError
from transfuse.recipe import jsonschema, shipped, template
from transfuse.recipe.load import from_text
from transfuse.recipe.reading import read_text
from transfuse.recipe.schema import DistillRecipe

BASE = {"job": "distill", "data": "bundled:digits", "student": "builtin:mlp"}


@pytest.fixture(scope="module")
def schema() -> dict:
    return jsonschema.build("distill")


@pytest.fixture(scope="module")
def invalid(schema):
    """A function from values to the validator's complaints."""
    checker = pytest.importorskip("jsonschema", reason="the package jsonschema is not installed")
    checker.Draft202012Validator.check_schema(schema)
    validator = checker.Draft202012Validator(schema)
    return lambda values: [error.message for error in validator.iter_errors(values)]


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_recipe_is_valid_and_says_what_it_is(name, invalid):
    text = shipped.text(name)
    from_text(text, name)
    assert text.startswith("# ")
    assert text.count("#") >= 2, "comments say what a newcomer would ask"
    assert shipped.summaries()[name] == text.splitlines()[0][2:]
    assert not invalid(read_text(text, name).values)


def test_an_unknown_shipped_recipe_has_a_suggestion():
    with pytest.raises(RecipeError, match="did you mean 'demo'"):
        shipped.text("demmo")


def test_the_template_holds_every_key_and_is_a_recipe_before_and_after_uncommenting():
    text = template.write("distill", "mine.yaml")
    assert "transfuse run mine.yaml" in text
    plain = from_text(text)
    assert isinstance(plain, DistillRecipe)
    everything = re.sub(r"(?m)^( *)# (\w+:)", r"\1\2", text)
    uncommented = from_text(everything)
    assert uncommented == plain, "the commented lines are the defaults"
    assert max(map(len, text.splitlines())) <= 140
    written = read_text(everything, "r").lines
    for key in ("seed", "out", "data", "teacher", "student", "objectives", "augment", "train", "control", "cache", "budget", "samples"):
        assert (key,) in written
    for key in DistillRecipe.model_fields["train"].annotation.model_fields:  # type: ignore[union-attr]
        assert ("train", key) in written


def test_the_template_of_an_unknown_job_has_a_suggestion():
    with pytest.raises(RecipeError, match="did you mean 'distill'"):
        template.write("distil")


def test_the_schema_of_an_unknown_job_is_refused():
    with pytest.raises(RecipeError, match="no job 'fusee'"):
        jsonschema.build("fusee")


def test_the_schema_describes_every_objective_and_setting(schema):
    for name in objectives.names():
        assert f"objective.{name}" in schema["$defs"]
    temperature = schema["$defs"]["objective.kd"]["properties"]["temperature"]
    assert temperature["exclusiveMinimum"] == 0
    assert temperature["description"].startswith("softens")
    assert schema["$defs"]["TrainBlock"]["properties"]["ema"]["description"]
    assert schema["additionalProperties"] is False
    json.dumps(schema, allow_nan=False)


def test_the_template_satisfies_the_json_schema(invalid):
    assert not invalid(read_text(template.write("distill"), "r").values)


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": "run:x"},
        {"teacher": {"source": "builtin:mlp", "train": {"epochs": 3}}},
        {"teachers": {"a": "run:x", "b": {"source": "run:y"}}},
        {"train": {"optimizer": "sgd", "schedule": {"cosine": None}}},
        {"train": None},
        {"objectives": "auto"},
        {"objectives": "kd"},
        {"objectives": ["auto", {"kd": None}]},
        {"objectives": {"kd": {"weight": {"linear": {"end": 1}}}, "cross_entropy": {}}},
        {"cache": {"max_bytes": "20GB"}, "budget": {"bytes": None}},
        {"augment": {"views": "fresh"}},
    ],
)
def test_what_is_valid_is_valid_in_the_json_schema(changes, invalid):
    from_text(json.dumps({**BASE, **changes}))
    assert not invalid({**BASE, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"trian": {}},
        {"train": {"batch_szie": 2}},
        {"train": {"epochs": "30"}},
        {"train": {"optimizer": "sdg"}},
        {"train": {"optimizer": {"sgd": {"momentom": 1}}}},
        {"train": {"optimizer": {"sgd": {}, "adamw": {}}}},
        {"objectives": []},
        {"objectives": ["kdd"]},
        {"objectives": [{"kd": {"temprature": 2}}]},
        {"objectives": [{"kd": {"temperature": 0}}]},
        {"objectives": [{"kd": {"weight": -1}}]},
        {"teacher": "x", "teachers": {"a": "y"}},
        {"teacher": {"sourc": "x"}},
        {"cache": {"max_bytes": "20XB"}},
        {"job": "fuse"},
        {"student": None},
    ],
)
def test_what_is_invalid_is_invalid_in_the_json_schema(changes, invalid):
    with pytest.raises(RecipeError):
        from_text(json.dumps({**BASE, **changes}))
    assert invalid({**BASE, **changes})
