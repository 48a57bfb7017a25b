"""What of the answers is kept, decided from facts; who can't learn from it is refused."""

import pytest

from transfuse.errors import RecipeError
from transfuse.recipe.facts import Facts
from transfuse.recipe.load import from_values
from transfuse.recipe.resolve import resolve


def facts(**changes) -> Facts:
    settings = {"n_train": 100, "n_labelled": 100, "n_classes": 20_000, "input_shape": (3, 8, 8), "teachers": ("teacher",), **changes}
    return Facts(**settings)


def resolved(objectives=("cross_entropy", "kd"), known=None, **changes):
    values = {"job": "distill", "data": "arrays:x.npz", "teacher": "file:t", "student": "builtin:mlp", "objectives": list(objectives)}
    if known is not None and len(known.teachers) > 1:
        values["teachers"] = dict.fromkeys(known.teachers, "file:t")
        del values["teacher"]
    return resolve(from_values({**values, **changes}), known or facts())


@pytest.mark.parametrize(
    ("asked", "known", "kept"),
    [
        ("auto", facts(n_classes=4096), None),
        ("auto", facts(n_classes=4097), 100),
        (7, facts(n_classes=10), 7),
        (10, facts(n_classes=10), None),
        (None, facts(), None),
        ("auto", facts(task="multilabel"), None),
        (7, facts(task="regression"), None),
    ],
)
def test_dense_logits_up_to_4096_classes_and_the_top_above(asked, known, kept):
    recipe, _ = resolved(("auto",), known, cache={"top_k": asked})
    assert recipe.cache.top_k == kept


def test_without_stored_answers_nothing_is_cut():
    recipe, _ = resolved(augment={"views": "fresh"})
    assert recipe.cache.top_k is None


def test_temperatures_are_those_of_the_objectives_and_a_reason_names_the_bound():
    recipe, reasons = resolved([{"kd": {"temperature": 4}}, {"jsd": {"temperature": 1}}, {"tvd": {"temperature": 4}}, "cross_entropy"])
    assert recipe.cache.temperatures == [1.0, 4.0]
    assert "lower bound" in reasons["cache.top_k"]
    declared, _ = resolved([{"kd": {"temperature": 4}}], cache={"temperatures": [2, 4]})
    assert declared.cache.temperatures == [2.0, 4.0]


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        ("dkd", {}, "needs all of the teacher's logits"),
        ("hard_label", {"cache": {"top_k": 5}}, "keeps the 5 largest"),
        ({"kd": {"temperature": 3}}, {"cache": {"temperatures": [1.0]}}, "temperature 3 is not among cache.temperatures"),
        ({"kd": {"distribution": "bernoulli"}}, {}, "bernoulli needs all"),
    ],
)
def test_objectives_that_the_top_cannot_teach_are_refused(objective, changes, words):
    with pytest.raises(RecipeError, match=words):
        resolved(["cross_entropy", objective], **changes)


def test_teachers_are_merged_only_from_dense_logits_and_tables_are_dense():
    two = facts(teachers=("a", "b"))
    for settings in ({}, {"combine": "losses", "confidence": "entropy"}):
        with pytest.raises(RecipeError, match="combine: losses"):
            resolved([{"kd": settings}], two)
    resolved([{"kd": {"combine": "losses"}}], two)
    resolved(["dkd"], facts(tables=("teacher",)))


def test_a_budget_for_features_may_be_nothing_but_not_negative():
    assert resolved(cache={"features": 0})[0].cache.features == 0
    assert resolved(cache={"features": "2GB"})[0].cache.features == 2 * 10**9
    with pytest.raises(RecipeError, match=r"cache\.features"):
        resolved(cache={"features": -1})
