"""The space of a sweep: the forms in which people write it, and what is refused with its key."""

import pytest

from transfuse.errors import RecipeError
from transfuse.recipe.load import from_arguments, from_text, from_values
from transfuse.recipe.recipes import RECIPES
from transfuse.recipe.schema import DistillRecipe
from transfuse.recipe.sweep import SweepRecipe
from transfuse.recipe.trial import refuse_space, single, whole_numbers

BASE = {
    "data": "bundled:digits",
    "teacher": {"source": "builtin:mlp", "train": {"steps": 2}},
    "student": "builtin:mlp",
    "objectives": [{"cross_entropy": {"weight": 0.1}}, "kd"],
}


def sweep(space, **more) -> SweepRecipe:
    recipe = from_values({"job": "sweep", **BASE, "space": space, **more})
    assert isinstance(recipe, SweepRecipe)
    return recipe


def distillation() -> DistillRecipe:
    recipe = from_values({"job": "distill", **BASE})
    assert isinstance(recipe, DistillRecipe)
    return recipe


def test_nested_and_dotted_keys_are_the_same_space():
    nested = sweep({"objectives": {"kd": {"temperature": [1, 2]}}, "train": {"optimizer": {"adamw": {"lr": {"low": 1e-4, "high": 1e-2}}}}})
    dotted = sweep({"objectives.kd.temperature": [1, 2], "train.optimizer.adamw.lr": {"low": 1e-4, "high": 1e-2}})
    assert nested.space == dotted.space
    assert list(nested.space) == ["objectives.kd.temperature", "train.optimizer.adamw.lr"]


def test_auto_is_a_grid_of_lists_and_a_search_where_there_is_a_range():
    grid = sweep({"objectives.kd.temperature": [1, 2, 4], "seed": [0, 1]})
    assert (grid.search, grid.count) == ("grid", 6)
    search = sweep({"objectives.kd.temperature": [1, 2], "train.epochs": {"low": 1, "high": 5}})
    assert (search.search, search.count) == ("tpe", 20)
    assert sweep({"seed": [0, 1, 2]}, sampler="random", trials=2).count == 2


def test_a_distillations_recipe_becomes_a_sweeps_by_its_verb(tmp_path):
    file = tmp_path / "distill.yaml"
    file.write_text("job: distill\ndata: bundled:digits\nteacher: builtin:mlp\nstudent: builtin:mlp\n")
    recipe = from_arguments("sweep", [str(file), "space.objectives.kd.temperature=[1, 2]"])
    assert isinstance(recipe, SweepRecipe)
    assert recipe.space == {"objectives.kd.temperature": [1, 2]}
    with pytest.raises(RecipeError, match="is a recipe for 'distill', not for 'born_again'"):
        from_arguments("born_again", [str(file)])


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "is empty"),
        ({"seed": []}, "seed: the list is empty"),
        ({"seed": 3}, "seed: 3 is a number, a list of values or"),
        ({"seed": [0, 1, 0]}, "seed: 0 is there twice"),
        ({"train.epochs": {"low": 5, "high": 5}}, "train.epochs: low must be less than high, and 5 >= 5"),
        ({"train.epochs": {"low": 6, "high": 5}}, "6 >= 5"),
        ({"train.epochs": {"low": 1}}, "high is missing"),
        ({"train.epochs": {"low": 1, "high": "x"}}, "high: 'x' is text, a number is needed"),
        ({"train.epochs": {"low": 0, "high": 5, "log": True}}, "begins above 0"),
        ({"train.epochs": {"low": 1, "high": 5, "log": True, "step": 1}}, "exclude each other"),
        ({"train.epochs": {"low": 1, "high": 5, "step": 0}}, "step: 0 is a number, a number above 0"),
        (
            {"train.epochs": {"low": 1, "high": 5, "lgo": True}},
            "unknown key 'lgo' - did you mean 'low'?; a range has: low, high, log, step",
        ),
    ],
)
def test_a_space_that_is_none_is_refused_with_its_key(space, words):
    with pytest.raises(RecipeError, match="space") as refused:
        sweep(space)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"space": {"train.epochs": {"low": 1, "high": 5}}, "sampler": "grid"}, "space.train.epochs is a range"),
        ({"space": {"seed": [0, 1]}, "trials": 5}, "the grid has 2 combinations"),
        ({"space": {"seed": list(range(101)), "augment.seed": list(range(100))}}, "10,100 combinations"),
        ({"space": {"seed": [0]}, "sampler": "gird"}, "did you mean 'grid'"),
    ],
)
def test_a_sampler_that_cannot_run_the_space_is_refused(more, words):
    with pytest.raises(RecipeError) as refused:
        from_values({"job": "sweep", **BASE, **more})
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("trian.epochs", [1], "space.trian.epochs: the recipe has no key 'trian.epochs' - did you mean 'train'"),
        ("train.epoch", [1], "did you mean 'epochs'"),
        ("objectives.fitnet.weight", [1], "space.objectives.fitnet.weight: the recipe has no objective 'fitnet'"),
        ("objectives.kd.temprature", [1], "did you mean 'temperature'"),
        ("train.optimizer.sgd.lr", [0.1], "the recipe has no key 'train.optimizer.sgd.lr'"),
        ("objectives.kd.temperature", [1, 0], "space.objectives.kd.temperature: 0 doesn't fit"),
        ("train.epochs", ["many"], "'many' is text"),
        ("seed", [-1], "must be at least 0"),
        ("data.source", ["bundled:wine"], "can't be compared"),
        ("data.split.seed", [0, 1], "can't be compared"),
        ("out", ["a"], "space.out: can't be tried"),
        ("seeds", [1], "space.seeds: can't be tried"),
        ("student.source.deeper", ["a"], "there are no keys below it"),
    ],
)
def test_a_key_or_value_that_the_recipe_does_not_take_is_refused(key, values, words):
    with pytest.raises(RecipeError) as refused:
        refuse_space(distillation(), {key: values})
    assert words in str(refused.value)
    assert f"space.{key}" in str(refused.value)


def test_both_ends_of_a_range_are_tried():
    refuse_space(distillation(), {"train.optimizer.adamw.lr": {"low": 1e-4, "high": 1e-2}})
    with pytest.raises(RecipeError, match="less than 1"):
        refuse_space(distillation(), {"train.ema": {"low": 0.5, "high": 1.5}})


def test_whole_numbers_are_drawn_where_the_recipe_takes_no_others_or_a_step_says_so():
    space = {
        "objectives.kd.temperature": {"low": 1, "high": 16},
        "train.batch_size": {"low": 16, "high": 256, "log": True},
        "train.epochs": {"low": 2, "high": 10, "step": 2},
        "train.clip": {"low": 0.5, "high": 2},
        "seed": [0, 1],
    }
    assert whole_numbers(distillation(), space) == {"train.batch_size", "train.epochs"}


def test_a_trial_has_the_values_of_its_point_and_nothing_else():
    changed = single(distillation(), {"objectives.kd.temperature": 2.5, "student.options.widths": [8], "teacher.train.steps": 7, "seed": 3})
    assert isinstance(changed.objectives, list)
    assert changed.objectives[1].parameters["temperature"] == 2.5
    assert (changed.student.options, changed.teachers["teacher"].train.steps, changed.seed) == ({"widths": [8]}, 7, 3)  # type: ignore[union-attr]
    back = single(changed, {"objectives.kd.temperature": 4.0, "student.options": {}, "teacher.train.steps": 2, "seed": 0})
    assert back == distillation()


@pytest.mark.parametrize("job", sorted(RECIPES))
def test_the_template_of_every_job_is_a_recipe(job):
    from transfuse.recipe import template

    assert from_text(template.write(job)).job == job


@pytest.mark.parametrize(
    ("values", "valid"),
    [
        ({"job": "sweep", **BASE, "space": {"seed": [0]}}, True),
        ({"job": "sweep", **BASE, "space": {}}, False),
        ({"job": "sweep", **BASE, "space": {"seed": 1}}, False),
        ({"job": "assistants", **BASE, "assistants": ["builtin:mlp", {"source": "builtin:mlp"}]}, True),
        ({"job": "assistants", **BASE, "assistants": []}, False),
        ({"job": "born_again", "data": "bundled:digits", "student": "builtin:mlp", "generations": 2}, True),
        ({"job": "born_again", "data": "bundled:digits", "student": "builtin:mlp", "generations": 0}, False),
        ({"job": "distill", **BASE, "seeds": [1, 2]}, True),
        ({"job": "distill", **BASE, "seeds": []}, False),
    ],
)
def test_the_json_schema_of_every_job_agrees(values, valid):
    checker = pytest.importorskip("jsonschema")
    from transfuse.recipe import jsonschema

    schema = jsonschema.build(values["job"])
    checker.Draft202012Validator.check_schema(schema)
    assert checker.Draft202012Validator(schema).is_valid(values) is valid
    if valid:
        assert from_values(values).job == values["job"]
    else:
        with pytest.raises(RecipeError):
            from_values(values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"job": "born_again", "teachers": {"a": "builtin:mlp", "b": "builtin:mlp"}}, "one ancestor"),
        ({"job": "assistants", "assistants": ["builtin:mlp"], "teachers": {"a": "builtin:mlp"}}, "one teacher"),
        ({"job": "assistants", "assistants": []}, "assistants: is empty"),
        ({"job": "assistants"}, "assistants: is missing"),
        ({"job": "distill", "seeds": 0}, "must be at least 1"),
        ({"job": "distill", "seeds": [1, 1]}, "a seed is there twice"),
        ({"job": "distill", "seeds": "five"}, "'five' is text"),
    ],
)
def test_jobs_of_several_runs_refuse_what_they_cannot_run(changes, words):
    base = {key: value for key, value in BASE.items() if key != "teacher" or "teachers" not in changes}
    with pytest.raises(RecipeError) as refused:
        from_values({**base, **changes})
    assert words in str(refused.value)
