"""Every mistake in a recipe is one line: where, which key, what is wrong, what to do."""

import inspect

import pytest
from pydantic import ValidationError

from transfuse import objectives
from transfuse.errors import RecipeError
from transfuse.recipe.load import dump, from_text, from_values, load
from transfuse.recipe.schema import DistillRecipe

BASE = {"job": "distill", "data": "bundled:digits", "teacher": "builtin:convnet", "student": "builtin:mlp"}


def problems(**changes) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        from_values({**BASE, **changes})
    return caught.value.what.split("\n")


def test_all_problems_are_told_at_once_with_their_lines_in_order(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "job: distill\n"
        "data: bundled:digits\n"
        "student: {source: builtin:mlp, optionz: {}}\n"
        "objectives:\n"
        "  - cross_entropy: {weight: -1}\n"
        "  - kd:\n"
        "      temprature: 2\n"
        "train:\n"
        "  epochs: '30'\n"
        "  batch_szie: 3\n"
        "  optimizer:\n"
        "    sgd: {lr: -1}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [
        f"{path}:3: student.optionz: unknown key - did you mean 'options'?",
        f"{path}:5: objectives.cross_entropy.weight: must be at least 0, got -1",
        f"{path}:7: objectives.kd.temprature: unknown key - did you mean 'temperature'?",
        f"{path}:9: train.epochs: '30' is text, a number is needed; write it without quotes",
        f"{path}:10: train.batch_szie: unknown key - did you mean 'batch_size'?",
        f"{path}:12: train.optimizer.sgd.lr: must be greater than 0, got -1",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 3}, "epochs: unknown key; known: job, seed, seeds, validate, "),
        ({"teecher": "x"}, "teecher: unknown key - did you mean 'teacher'?"),
        ({"train": {"zzz": 3}}, "train.zzz: unknown key; known: epochs, steps"),
        ({"train": {"epochs": "thirty"}}, "train.epochs: 'thirty' is text, a number is needed"),
        ({"train": {"epochs": 0}}, "train.epochs: must be greater than 0, got 0"),
        ({"train": {"epochs": True}}, "train.epochs: true is a yes-or-no value, a number is needed"),
        ({"train": {"epochs": float("nan")}}, "train.epochs: nan is a number, a finite number is needed"),
        ({"train": {"batch_size": 2.5}}, "train.batch_size: 2.5 is a number, a whole number is needed"),
        ({"train": {"batch_size": None}}, "train.batch_size: it is empty (null), a whole number is needed"),
        ({"train": {"steps": [1]}}, "train.steps: it is a list, a whole number is needed"),
        ({"train": {"ema": 1}}, "train.ema: must be less than 1, got 1"),
        ({"train": {"precision": "bf61"}}, "train.precision: 'bf61' is none of 'auto', 'fp32', 'bf16' or 'fp16' - did you mean 'bf16'?"),
        ({"train": {"channels_last": "maybe"}}, "train.channels_last: 'maybe' is text, true or false or 'auto' is needed"),
        ({"train": {"workers": -1}}, "train.workers: must be at least 0, got -1"),
        ({"train": {"workers": "many"}}, "train.workers: 'many' is text, a whole number or 'auto' is needed"),
        ({"train": 3}, "train: 3 is a number, a block with keys is needed"),
        ({"train": {"epochs": 1, "steps": 2}}, "train: epochs and steps both say how long to train; keep one"),
        ({"train": {"optimizer": "sdg"}}, "train.optimizer: unknown optimizer 'sdg' - did you mean 'sgd'?"),
        ({"train": {"optimizer": {"sgd": {}, "adamw": {}}}}, "train.optimizer: name one optimizer, such as {adamw: {}}; known: adamw, sgd"),
        ({"train": {"optimizer": {"sgd": {"momentom": 1}}}}, "train.optimizer.sgd.momentom: unknown key - did you mean 'momentum'?"),
        ({"train": {"optimizer": {"sgd": 0.1}}}, "train.optimizer.sgd: 0.1 is a number, a block with keys is needed"),
        ({"train": {"schedule": {"step": {"at": 0.5}}}}, "train.schedule.step.at: 0.5 is a number, a list is needed"),
        ({"train": {"schedule": {"step": {"at": [0.5, "x"]}}}}, "train.schedule.step.at[1]: 'x' is text, a number is needed"),
        ({"student": 5}, "student: 5 is a number, a source (text) or a block with keys is needed"),
        ({"student": {"options": {}}}, "student.source: is missing: builtin:resnet20"),
        ({"student": {"source": 5}}, "student.source: 5 is a number, text is needed; put it in quotes"),
        ({"student": {"source": "x", "classes": {"a": "b"}}}, "student.classes.a: 'b' is text, a whole number is needed"),
        ({"teacher": {"source": "x", "trian": {}}}, "teacher.trian: unknown key - did you mean 'train'?"),
        ({"teacher": {"source": "x", "train": {"epochs": -1}}}, "teacher.train.epochs: must be greater than 0, got -1"),
        ({"teachers": {"a": "x"}}, "`teacher` and `teachers` are both given"),
        ({"objectives": []}, "objectives: is empty"),
        ({"objectives": 3}, "objectives: objectives is a list such as"),
        ({"objectives": ["kdd"]}, "objectives.kdd: unknown objective 'kdd' - did you mean 'kd'?; all of them: `transfuse ls objectives`"),
        ({"objectives": [["kd"]]}, "objectives[0]: an objective is a name, or one name with its settings"),
        ({"objectives": [{"kd": {"temperature": 0}}]}, "objectives.kd.temperature: must be greater than 0, got 0"),
        ({"objectives": [{"kd": {"temperature": "warm"}}]}, "objectives.kd.temperature: 'warm' is text, a number is needed"),
        (
            {"objectives": [{"kd": {"weight": {"lienar": {}}}}]},
            "objectives.kd.weight.lienar: unknown weight 'lienar' - did you mean 'linear'?",
        ),
        ({"objectives": [{"kd": {"weight": {"linear": {"end": -1}}}}]}, "objectives.kd.weight.linear.end: must be at least 0, got -1"),
        ({"objectives": ["kd", {"kd": {"temperature": 0}}]}, "objectives.kd_2.temperature: must be greater than 0, got 0"),
        ({"objectives": [{"kd": 4}]}, "objectives.kd: 4 is a number, a block with keys is needed"),
        ({"augment": {"views": 0}}, "augment.views: must be at least 1, got 0"),
        ({"cache": {"max_bytes": "20XB"}}, "cache.max_bytes: '20XB' is not a size; write bytes or 4MB, 20GB, 512KiB"),
        ({"cache": {"max_bytes": 0}}, "cache.max_bytes: must be greater than 0, got 0"),
        ({"job": "distil"}, "job: unknown job 'distil' - did you mean 'distill'?"),
        ({"job": None}, "job: is missing"),
        ({"job": ["distill"]}, "job: unknown job"),
    ],
)
def test_a_mistake_is_told_in_one_line(changes, expected):
    found = problems(**changes)
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_missing_keys_say_what_they_are_for():
    with pytest.raises(RecipeError) as caught:
        from_values({"job": "distill"})
    assert caught.value.what.split("\n") == [
        "data: is missing: where the samples come from",
        "student: is missing: the model that is trained and shipped",
    ]


def test_a_problem_in_a_short_form_has_the_line_of_the_short_form():
    with pytest.raises(RecipeError, match=r"^r\.yaml:3: teacher: 5 is a number"):
        from_text("job: distill\ndata: bundled:digits\nteacher: 5\nstudent: builtin:mlp\n", "r.yaml")


def test_an_empty_block_means_its_defaults():
    assert from_values({**BASE, "train": None}) == from_values({**BASE, "train": {}}) == from_values(BASE)


@pytest.mark.parametrize(("text", "count"), [("20GB", 20 * 10**9), ("512KiB", 512 * 1024), ("1.5 MB", 1_500_000), (1024, 1024)])
def test_sizes_have_units(text, count):
    recipe = from_values({**BASE, "budget": {"bytes": text}})
    assert isinstance(recipe, DistillRecipe)
    assert recipe.budget.bytes == count


@pytest.mark.parametrize("listed", ["kd", ["kd"], [{"kd": {}}], [{"kd": None}], {"kd": {}}])
def test_an_objective_without_settings_has_its_constructors_defaults(listed):
    recipe = from_values({**BASE, "objectives": listed})
    assert isinstance(recipe, DistillRecipe)
    assert isinstance(recipe.objectives, list)
    signature = inspect.signature(objectives.get("kd").__init__).parameters
    assert recipe.objectives[0].parameters == {name: entry.default for name, entry in signature.items() if name != "self"}


def test_python_values_may_be_tuples_and_paths(tmp_path):
    recipe = from_values({**BASE, "out": tmp_path, "objectives": ("kd",)})
    assert recipe.out == str(tmp_path)


def test_the_models_alone_are_as_strict():
    with pytest.raises(ValidationError):
        DistillRecipe.model_validate({**BASE, "trian": {}})
    assert DistillRecipe.model_validate(from_values(BASE).model_dump()) == from_values(BASE)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objectives": ["cross_entropy", {"kd": {"weight": {"cosine": {"end": 0.5}}}}, {"kd": {"teacher": ["teacher"]}}]},
        {"objectives": ["auto", {"kd": {"temperature": 1e-3}}]},
        {"objectives": [{"live:Mine": {"weight": 0.5}}]},
        {"out": "1e-3", "student": {"source": "file:yes", "options": {"width": 1e-5, "names": ["no", "1e5", "~"]}, "classes": ["a", "b"]}},
        {"train": {"steps": 3, "optimizer": {"sgd": {"lr": 1e-7}}, "stop": {"at": 0.98}}, "seed": 5},
    ],
)
def test_what_is_written_loads_back_equal(changes):
    recipe = from_values({**BASE, **changes})
    assert from_text(dump(recipe)) == recipe


def test_reasons_are_comments_beside_their_keys():
    recipe = from_values({**BASE, "objectives": ["kd"]})
    text = dump(recipe, {"train.ema": "because", "objectives.kd.weight": "the paper's", "teacher.train": "given"})
    assert "  ema: null  # because\n" in text
    assert "      weight: auto  # the paper's\n" in text
    assert "    train: null  # given\n" in text
    assert from_text(text) == recipe
