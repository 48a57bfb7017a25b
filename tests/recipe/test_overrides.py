"""key=value on top of a recipe."""

import pytest

from transfuse.errors import RecipeError
from transfuse.recipe.load import from_arguments, from_text, from_values
from transfuse.recipe.schema import DistillRecipe

BASE = "job: distill\ndata: bundled:digits\nteacher: builtin:convnet\nstudent: builtin:mlp\n"


def with_overrides(*overrides: str, text: str = BASE) -> DistillRecipe:
    recipe = from_text(text, "r.yaml", overrides)
    assert isinstance(recipe, DistillRecipe)
    return recipe


def refusal(*overrides: str, text: str = BASE) -> str:
    with pytest.raises(RecipeError) as caught:
        with_overrides(*overrides, text=text)
    return str(caught.value)


def objective(recipe: DistillRecipe, name: str):
    assert isinstance(recipe.objectives, list)
    return next(block for block in recipe.objectives if block.name == name)


def test_values_are_parsed_as_yaml():
    recipe = with_overrides(
        "seed=3", "train.epochs=1e1", "augment.flip=true", "out=runs/a=b", "train.clip=null", "student.options={widths: [8]}"
    )
    assert (recipe.seed, recipe.train.epochs, recipe.augment.flip, recipe.out, recipe.train.clip) == (3, 10.0, True, "runs/a=b", None)
    assert recipe.student.options == {"widths": [8]}


def test_the_last_of_two_overrides_wins():
    assert with_overrides("seed=1", "seed=2").seed == 2


def test_blocks_are_made_on_the_way():
    assert with_overrides("train.stop.patience=4").train.stop.patience == 4


def test_an_override_changes_only_its_key_in_a_block_of_the_file():
    recipe = with_overrides("train.epochs=2", text=BASE + "train: {epochs: 1, batch_size: 7}\n")
    assert (recipe.train.epochs, recipe.train.batch_size) == (2, 7)


def test_short_forms_are_opened_when_something_in_them_is_set():
    recipe = with_overrides("student.options.widths=[4]", "data.labels_per_class=5", "teacher.train.epochs=3")
    assert recipe.student.source == "builtin:mlp"
    assert recipe.student.options == {"widths": [4]}
    assert (recipe.data.source, recipe.data.labels_per_class) == ("bundled:digits", 5)
    assert recipe.teachers["teacher"].source == "builtin:convnet"
    assert recipe.teachers["teacher"].train is not None
    assert recipe.teachers["teacher"].train.epochs == 3


def test_teacher_is_short_for_the_teacher_of_that_name():
    assert with_overrides("teacher=run:x").teachers["teacher"].source == "run:x"
    assert with_overrides("teacher.source=run:x").teachers["teacher"].source == "run:x"
    assert with_overrides("teachers.teacher.source=run:x").teachers["teacher"].source == "run:x"
    assert with_overrides("teachers.second=run:y").teachers.keys() == {"teacher", "second"}


def test_teachers_with_names_have_to_be_named():
    text = "job: distill\ndata: bundled:digits\nteachers: {a: run:a, b: run:b}\nstudent: builtin:mlp\n"
    assert "say which one: teachers.a, teachers.b" in refusal("teacher.source=run:x", text=text)


def test_objectives_are_addressed_by_name():
    text = BASE + "objectives:\n  - cross_entropy\n  - kd: {weight: 0.5, temperature: 3}\n"
    recipe = with_overrides("objectives.kd.temperature=2", "objectives.cross_entropy.weight=0.3", text=text)
    assert objective(recipe, "kd").parameters["temperature"] == 2
    assert objective(recipe, "kd").weight == 0.5
    assert objective(recipe, "cross_entropy").weight == 0.3


def test_the_second_of_two_equal_objectives_is_called_2():
    text = BASE + "objectives:\n  - kd: {weight: 0.1}\n  - kd: {weight: 0.2}\n"
    recipe = with_overrides("objectives.kd_2.weight=0.7", text=text)
    assert isinstance(recipe.objectives, list)
    assert [(block.name, block.method, block.weight) for block in recipe.objectives] == [("kd", "kd", 0.1), ("kd_2", "kd", 0.7)]


def test_an_objective_that_is_not_in_the_list_is_added():
    recipe = with_overrides("objectives.kd.weight=0.5", text=BASE + "objectives: [cross_entropy]\n")
    assert isinstance(recipe.objectives, list)
    assert [block.name for block in recipe.objectives] == ["cross_entropy", "kd"]


def test_changing_one_of_the_default_objectives_keeps_the_others():
    recipe = with_overrides("objectives.kd.temperature=2")
    assert isinstance(recipe.objectives, list)
    assert [block.method for block in recipe.objectives] == ["auto", "kd"]


@pytest.mark.parametrize("written", ["[kd]", "kd", "{kd: {temperature: 3}}"])
def test_objectives_can_be_set_whole_in_every_form_and_then_be_refined(written):
    recipe = with_overrides(f"objectives={written}", "objectives.kd.weight=0.25")
    assert isinstance(recipe.objectives, list)
    assert [(block.name, block.weight) for block in recipe.objectives] == [("kd", 0.25)]


def test_another_method_replaces_the_one_before():
    assert list(with_overrides("train.optimizer.sgd.lr=0.2").train.optimizer) == ["sgd"]
    recipe = with_overrides("train.optimizer.sgd.lr=0.2", text=BASE + "train: {optimizer: {adamw: {lr: 1}}, schedule: constant}\n")
    assert recipe.train.optimizer["sgd"]["lr"] == 0.2
    assert list(with_overrides("train.schedule.step.factor=0.5", text=BASE + "train: {schedule: constant}\n").train.schedule) == ["step"]
    weight = objective(with_overrides("objectives.kd.weight.linear.end=0", text=BASE + "objectives: [{kd: {weight: 0.9}}]\n"), "kd").weight
    assert isinstance(weight, dict)
    assert weight["linear"]["end"] == 0


def test_settings_of_the_same_method_are_kept():
    recipe = with_overrides("train.optimizer.sgd.lr=0.2", text=BASE + "train: {optimizer: {sgd: {momentum: 0.5}}}\n")
    assert (recipe.train.optimizer["sgd"]["lr"], recipe.train.optimizer["sgd"]["momentum"]) == (0.2, 0.5)
    assert with_overrides("train.schedule.constant.warmup=0.1", text=BASE + "train: {schedule: constant}\n").train.schedule == {
        "constant": {"warmup": 0.1}
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "'train.epochs' sets nothing: an override is key=value"),
        ("=3", "'=3' has an empty key"),
        ("train..epochs=3", "'train..epochs' has an empty part"),
        ("seed.x=3", "override 'seed.x=3': seed is 0: there are no keys in it to set"),
        ("train.epochs=[1", "override 'train.epochs=[1': is not YAML"),
        ("train.epochs=!!python/name:os.system", "the tag !!python/name:os.system is not allowed"),
        ("objectives.kdd.weight=1", "override 'objectives.kdd.weight=1': objectives.kdd: unknown objective - did you mean 'kd'?"),
        ("train.epochs=abc", "override 'train.epochs=abc': train.epochs: 'abc' is text, a number is needed"),
        ("train.epohcs=3", "override 'train.epohcs=3': train.epohcs: unknown key - did you mean 'epochs'?"),
        ("objectives.kd.temprature=3", "objectives.kd.temprature: unknown key - did you mean 'temperature'?"),
        ("objectives=[{kd: {temperature: 0}}]", "objectives.kd.temperature: must be greater than 0, got 0"),
        ("objectives.kd=3", "objectives.kd: 3 is a number, a block with keys is needed"),
        ("train.optimizer.sgd.lr=-1", "train.optimizer.sgd.lr: must be greater than 0, got -1"),
        ("trian.epochs=3", "trian: unknown key - did you mean 'train'?"),
        ("teacher=3", "override 'teacher=3': teacher: 3 is a number, a source (text) or a block with keys is needed"),
    ],
)
def test_a_wrong_override_is_named(override, expected):
    assert expected in refusal(override, text=BASE + "seed: 0\n")


def test_a_message_about_a_replaced_value_points_at_the_override_and_not_at_the_file():
    assert refusal("train.epochs=-1", text=BASE + "train: {epochs: 3}\n").startswith("override 'train.epochs=-1'")


def test_values_handed_over_are_not_changed():
    values = {"job": "distill", "data": "bundled:digits", "teacher": "builtin:mlp", "student": "builtin:mlp", "objectives": ["kd"]}
    before = {**values, "objectives": ["kd"]}
    from_values(values, ["objectives.kd.weight=0.5", "student.options.widths=[3]"])
    assert values == before


def test_a_verb_takes_keys_alone_or_a_file_first(tmp_path):
    alone = from_arguments("distill", ["data=bundled:digits", "teacher=builtin:mlp", "student=builtin:mlp", "seed=4"])
    path = tmp_path / "r.yaml"
    path.write_text(BASE.replace("convnet", "mlp"))
    assert from_arguments("distill", [str(path), "seed=4"]) == alone


def test_a_verb_refuses_a_file_of_another_job(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("job: fuse\n")
    with pytest.raises(RecipeError, match="is a recipe for 'fuse', not for 'distill'"):
        from_arguments("distill", [str(path)])
    path.write_text("data: x\n")
    with pytest.raises(RecipeError, match="doesn't say which job"):
        from_arguments("distill", [str(path)])
