"""Recipes of fusions: short forms of ways, names in several rooms, settings checked against constructors."""

import pytest

from transfuse.errors import RecipeError
from transfuse.recipe.load import dump, from_arguments, from_text, from_values
from transfuse.recipe.ways import full_name, names, parse_way, summaries

BASE = {"job": "fuse", "data": "bundled:digits", "sources": {"a": "run:a", "b": "run:b"}}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("weighted", ["outputs.weighted"]),
        ("weights.weighted", ["weights.weighted"]),
        ("concat", ["features.concat"]),
        ("ties", ["weights.ties"]),
        (["single", "gate"], ["single", "outputs.gate"]),
        ({"gate": {"penalty": 0.1}}, ["outputs.gate"]),
        ([{"outputs.gate": None}, "distill"][:1], ["outputs.gate"]),
    ],
)
def test_ways_are_written_in_short_and_kept_with_their_room(written, expected):
    recipe = from_values({**BASE, "how": written})
    assert [way.name for way in recipe.how] == expected
    assert from_text(dump(recipe)) == recipe


def test_a_name_in_several_rooms_means_the_first_of_outputs_features_weights():
    assert full_name("weighted") == "outputs.weighted"
    assert full_name("nothing") is None
    assert set(summaries()) == set(names())
    assert parse_way({"gate": {"penalty": 0.5}})["parameters"] == {"calibrate": False, "penalty": 0.5}


def test_sources_are_set_from_the_command_line_in_short_and_in_parts():
    recipe = from_arguments(
        "fuse", ["data=bundled:digits", "sources={a: run:a, b: file:b.pt}", "sources.b.architecture=builtin:mlp", "base=builtin:mlp"]
    )
    assert recipe.sources["b"].source == "file:b.pt"
    assert recipe.sources["b"].architecture == "builtin:mlp"
    assert recipe.base.source == "builtin:mlp"
    assert recipe.how == "auto"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"how": ["gate", "gate"]}, "a way is there twice"),
        ({"how": {"gate": {"penalt": 1.0}}}, "did you mean 'penalty'"),
        ({"how": {"gate": {"task": "regression"}}}, "unknown key"),
        ({"how": []}, "how"),
        ({"how": 3}, "how is a way such as weighted"),
        ({"how": "amalgamate"}, "add student: SOURCE"),
        ({"sources": {"a": "run:a"}}, "sources"),
        ({"sources": {"a b": "run:a", "c": "run:c"}}, "sources"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(RecipeError, match=message):
        from_values({**BASE, **changes})
