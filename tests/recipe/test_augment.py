"""What `augment` accepts, what its short forms mean, and what it refuses before training."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from tests.recipe.test_resolve import COLUMNS, PICTURES, refusals, resolved
from transfuse import objectives
from transfuse.errors import RecipeError
from transfuse.jobs.train.training import views_of
from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.load import dump, from_text, from_values
from transfuse.recipe.resolve import resolve

ALL = {
    "crop": 1,
    "flip": True,
    "resized_crop": True,
    "rotation": 10,
    "randaugment": True,
    "colour": 0.4,
    "erasing": True,
    "mixup": True,
    "cutmix": True,
}


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"resized_crop": True}, {"resized_crop": {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}}),
        ({"resized_crop": 0.3}, {"resized_crop": {"scale": [0.3, 1.0]}}),
        ({"randaugment": True}, {"randaugment": {"num_ops": 2, "magnitude": 9}}),
        ({"randaugment": 14}, {"randaugment": {"magnitude": 14}}),
        ({"randaugment": 0}, {"randaugment": {"magnitude": 0}}),
        ({"colour": 0.4}, {"colour": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0}}),
        ({"erasing": 0.5}, {"erasing": {"probability": 0.5, "scale": [0.02, 0.33], "ratio": [0.3, 3.3], "fill": "noise"}}),
        ({"mixup": 0.3}, {"mixup": {"alpha": 0.3, "probability": 1.0}}),
        ({"mixup": True}, {"mixup": {"alpha": 0.2}}),
        ({"cutmix": True}, {"cutmix": {"alpha": 1.0}}),
        ({"mixup": False, "randaugment": False, "erasing": 0, "colour": 0, "cutmix": 0.0}, {}),
        ({"colour": {}}, {}),
    ],
)
def test_a_short_form_means_its_long_form(short, long):
    assert AugmentBlock.model_validate(short) == AugmentBlock.model_validate(long)


@pytest.mark.parametrize(
    ("augment", "where"),
    [
        ({"resized_crop": 1.5}, "resized_crop.scale"),
        ({"resized_crop": {"scale": [0.5, 0.1]}}, "resized_crop.scale"),
        ({"resized_crop": {"ratio": [1.0]}}, "resized_crop.ratio"),
        ({"rotation": 200}, "rotation"),
        ({"randaugment": 31}, "randaugment.magnitude"),
        ({"randaugment": {"num_ops": 0}}, "randaugment.num_ops"),
        ({"colour": {"hue": 0.6}}, "colour.hue"),
        ({"colour": -0.1}, "colour.brightness"),
        ({"erasing": 1.1}, "erasing.probability"),
        ({"erasing": {"fill": "black"}}, "erasing.fill"),
        ({"mixup": -1}, "mixup.alpha"),
        ({"mixup": {"alpha": 0}}, "mixup.alpha"),
        ({"cutmix": {"probability": 2}}, "cutmix.probability"),
        ({"mixup": "yes"}, "mixup"),
        ({"color": 0.4}, "color"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(augment, where):
    with pytest.raises(ValidationError) as refused:
        AugmentBlock.model_validate(augment)
    assert ".".join(map(str, refused.value.errors()[0]["loc"])).startswith(where)


def test_a_misspelt_key_has_a_suggestion():
    with pytest.raises(RecipeError, match="did you mean 'colour'"):
        from_values({"job": "distill", "data": "bundled:digits", "student": "builtin:mlp", "augment": {"color": 0.4}})


def test_a_resolved_recipe_keeps_every_setting_and_makes_the_same_views():
    recipe, _ = resolved(augment=ALL)
    again = from_text(dump(recipe))
    assert again.augment == recipe.augment
    assert views_of(again.augment).spec() == views_of(recipe.augment).spec()


def test_every_change_asks_for_several_views_and_reaches_the_cache_key():
    plain = str(views_of(AugmentBlock(views=1)).spec())
    for name, value in ALL.items():
        recipe, _ = resolved(augment={name: value})
        assert recipe.augment.views == 8, name
        assert str(views_of(recipe.augment).spec()) != plain, name
    assert set(ALL) == set(AugmentBlock.model_fields) - {"views", "seed", "second"}


def test_a_second_view_of_its_own_has_its_own_key_and_leaves_that_of_the_first():
    without = views_of(AugmentBlock(views=2, crop=1))
    views = views_of(AugmentBlock.model_validate({"views": 2, "crop": 1, "second": {"crop": 1, "randaugment": True}}))
    alike = views_of(AugmentBlock.model_validate({"views": 2, "crop": 1, "second": {"crop": 1}}))
    assert without.second is None
    assert views.spec() == without.spec()
    assert views.second is not None
    assert views.second.spec() not in (without.spec(), alike.second.spec())
    assert alike.second.spec() != alike.spec(), "the same changes in other places are other pictures"


TWO_VIEWS = {"objectives": ["cross_entropy", "mlld"]}


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({}, "nothing is changed; set augment.crop"),
        ({"views": 4}, "nothing is changed; set augment.crop"),
        ({"views": 1, "crop": 1}, "there is one; set augment.views to 2 or more, or augment.second"),
    ],
)
def test_an_objective_of_two_views_refuses_two_that_are_the_same(augment, words):
    (found,) = refusals(augment=augment, **TWO_VIEWS)
    assert found.startswith("objectives.mlld: ")
    assert words in found


@pytest.mark.parametrize("augment", [{"crop": 1}, {"second": {"randaugment": True}}, {"views": 1, "second": {"flip": True}}])
def test_an_objective_of_two_views_takes_what_differs(augment):
    assert resolved(augment=augment, **TWO_VIEWS)[0].augment.views == augment.get("views", 8)


@pytest.mark.parametrize(
    ("second", "terms", "words"),
    [({"flip": True}, ["cross_entropy", "kd"], "no objective compares two views"), ({}, ["cross_entropy", "mlld"], "changes nothing")],
)
def test_a_second_view_that_would_be_without_effect_is_refused(second, terms, words):
    (found,) = refusals(augment={"crop": 1, "second": second}, objectives=terms)
    assert found.startswith("augment.second: ")
    assert words in found


def test_a_second_view_changes_tables_as_little_as_a_first_one():
    found = refusals(COLUMNS, augment={"mixup": 0.2, "second": {"crop": 1}}, **TWO_VIEWS)
    assert [line.split(":")[0] for line in found] == ["augment.second.crop"]


@pytest.mark.parametrize("modality", ["columns", "text"])
def test_tables_and_texts_refuse_what_only_pictures_have(modality):
    found = refusals(replace(COLUMNS, modality=modality), augment=ALL)
    keys = {line.split(":")[0].removeprefix("augment.") for line in found}
    assert keys == set(ALL) - ({"mixup"} if modality == "columns" else set())
    assert all("only pictures" in line for line in found)
    assert modality == "text" or resolved(COLUMNS, augment={"mixup": 0.2})[0].augment.views == 8


HARD = [name for name in objectives.names() if "hard_labels" in objectives.card(name).needs]


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_objectives_that_need_one_class_per_sample_are_refused_under_mixing(name, mix):
    (found,) = [line for line in refusals(objectives=[name], augment={mix: True}) if "shares of two" in line]
    assert found.startswith(f"objectives.{name}: ")
    assert f"augment.{mix}" in found
    assert "hard_labels" in objectives.card(name).needs


def test_a_table_of_predictions_has_no_answers_to_mixed_samples():
    facts = replace(PICTURES, teachers=("network", "table"), tables=("table",))
    base = {"job": "distill", "data": "bundled:digits", "student": "builtin:mlp"}
    base["teachers"] = {"network": "builtin:mlp", "table": "predictions:p.csv"}

    def problems(**changes):
        try:
            resolve(from_values({**base, **changes}), facts)
        except RecipeError as error:
            return error.what.split("\n")
        return []

    (found,) = problems(augment={"mixup": 0.2}, objectives=["cross_entropy", "kd"])
    assert "teacher 'table' is a table of predictions" in found
    assert not problems(augment={"mixup": 0.2}, objectives=["cross_entropy", {"kd": {"teacher": "network"}}])
    assert not problems(augment={"crop": 1}, objectives=["cross_entropy", "kd"])
