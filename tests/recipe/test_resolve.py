"""`auto` is decided once, from facts, with a reason."""

from dataclasses import replace

import pytest

from transfuse import objectives
from transfuse.core.card import Card
from transfuse.errors import RecipeError
from transfuse.recipe.control import control_objectives
from transfuse.recipe.load import dump, from_text, from_values
from transfuse.recipe.resolve import Facts, control_key_values, resolve, sentences
from transfuse.recipe.schema import DistillRecipe

BASE = {"job": "distill", "data": "bundled:digits", "teacher": "builtin:convnet", "student": "builtin:mlp"}
PICTURES = Facts(
    task="classification",
    modality="image",
    n_train=1000,
    n_labelled=800,
    n_unlabelled=200,
    n_classes=10,
    input_shape=(1, 8, 8),
    pool_bytes=10**6,
    free_memory_bytes=10**9,
    teachers=("teacher",),
    cores=4,
    out="runs/here",
)
COLUMNS = replace(PICTURES, modality="columns", input_shape=(30,))


def resolved(facts: Facts = PICTURES, **changes) -> tuple[DistillRecipe, dict[str, str]]:
    recipe, reasons = resolve(from_values({**BASE, **changes}), facts)
    assert isinstance(recipe, DistillRecipe)
    return recipe, reasons


def refusals(facts: Facts = PICTURES, **changes) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        resolved(facts, **changes)
    return caught.value.what.split("\n")


def terms(recipe: DistillRecipe) -> list[tuple[str, float, dict]]:
    assert isinstance(recipe.objectives, list)
    return [(block.name, block.weight, block.parameters) for block in recipe.objectives]  # type: ignore[misc]


def autos(value, key="") -> list[str]:
    if isinstance(value, dict):
        return [found for name, entry in value.items() for found in autos(entry, f"{key}.{name}")]
    if isinstance(value, list):
        return [found for entry in value for found in autos(entry, key)]
    return [key] if value == "auto" else []


@pytest.mark.parametrize("facts", [PICTURES, COLUMNS, replace(PICTURES, device="cuda", bf16_units=True, has_cpp_compiler=True)])
@pytest.mark.parametrize("changes", [{}, {"objectives": ["cross_entropy", "kd"]}, {"teacher": {"source": "builtin:mlp", "train": {}}}])
def test_nothing_is_auto_afterwards_and_every_decision_has_a_reason(facts, changes):
    before = from_values({**BASE, **changes})
    recipe, reasons = resolve(before, facts)
    assert not autos(recipe.model_dump())
    assert all(reason and "\n" not in reason for reason in reasons.values())
    undecided = {key.lstrip(".").replace("teachers.teacher", "teacher") for key in autos(before.model_dump())}
    undecided = {key for key in undecided if not key.startswith("objectives")}
    assert undecided <= set(reasons), undecided - set(reasons)


def test_the_recipe_that_is_resolved_stays_as_it_is():
    recipe = from_values(BASE)
    resolve(recipe, PICTURES)
    assert recipe == from_values(BASE)


def test_a_resolved_recipe_resolves_to_itself_and_survives_the_file():
    recipe, reasons = resolved(augment={"crop": 1}, teacher={"source": "builtin:mlp", "train": {"steps": 5}})
    assert resolve(recipe, PICTURES) == (recipe, {})
    assert from_text(dump(recipe, reasons)) == recipe


def test_default_objectives_follow_the_task():
    assert [(name, weight) for name, weight, _ in terms(resolved()[0])] == [("cross_entropy", 0.1), ("kd", 0.9)]
    kd = terms(resolved()[0])[1][2]
    assert (kd["temperature"], kd["distribution"]) == (4.0, "softmax")
    multilabel = terms(resolved(replace(PICTURES, task="multilabel"))[0])
    assert [(name, weight) for name, weight, _ in multilabel] == [("bce", 0.1), ("kd", 0.9)]
    assert multilabel[1][2]["distribution"] == "bernoulli"
    regression = terms(resolved(replace(COLUMNS, task="regression", n_classes=1))[0])
    assert [(name, weight) for name, weight, _ in regression] == [("mse", 0.5), ("logit_mse", 0.5)]


def test_one_changed_default_objective_keeps_the_others_and_its_default_weight():
    assert [
        (name, weight, parameters.get("temperature"))
        for name, weight, parameters in terms(resolved(objectives=["auto", {"kd": {"temperature": 2}}])[0])
    ] == [
        ("cross_entropy", 0.1, None),
        ("kd", 0.9, 2.0),
    ]


@pytest.mark.parametrize("name", objectives.names())
def test_every_objective_resolves_with_its_defaults_on_a_task_that_it_is_defined_for(name):
    task = objectives.card(name).tasks[0]
    peers = ("other",) if "peers" in objectives.card(name).needs else ()
    facts = replace(PICTURES, task=task, n_classes=1 if task == "regression" else 10, peers=peers)
    if "domains" in objectives.card(name).needs:
        assert "needs samples of a source and a target domain" in refusals(facts, objectives=[name])[0]
        return
    two_views = "two_views" in objectives.card(name).needs
    recipe, _ = resolved(facts, objectives=[name], **({"augment": {"crop": 1}} if two_views else {}))
    assert not autos(recipe.model_dump())
    assert from_text(dump(recipe)) == recipe


def test_networks_that_learn_beside_the_student_learn_from_each_other_by_default():
    alone, beside = replace(PICTURES, teachers=(), peers=("other",)), replace(PICTURES, peers=("other",))
    assert [(name, weight) for name, weight, _ in terms(resolved(alone)[0])] == [("cross_entropy", 1.0), ("dml", 1.0)]
    assert [(name, weight) for name, weight, _ in terms(resolved(beside)[0])] == [("cross_entropy", 0.1), ("kd", 0.9), ("dml", 1.0)]


def test_a_weight_that_is_auto_is_the_papers():
    recipe, reasons = resolved(objectives=["cross_entropy", {"kd": {"weight": "auto"}}])
    assert [(name, weight) for name, weight, _ in terms(recipe)] == [("cross_entropy", 1.0), ("kd", 0.9)]
    assert reasons["objectives.kd.weight"] == "the paper's weight"


def test_the_distribution_of_kd_follows_the_task():
    kd = [{"kd": {"weight": 1.0}}]
    assert terms(resolved(objectives=kd)[0])[0][2]["distribution"] == "softmax"
    assert terms(resolved(replace(PICTURES, task="multilabel"), objectives=kd)[0])[0][2]["distribution"] == "bernoulli"
    assert terms(resolved(replace(PICTURES, n_classes=1), objectives=kd)[0])[0][2]["distribution"] == "bernoulli"


@pytest.mark.parametrize("facts", [replace(PICTURES, task="multilabel"), replace(PICTURES, n_classes=1)])
def test_a_softmax_over_independent_outputs_is_refused(facts):
    (found,) = refusals(facts, objectives=[{"kd": {"distribution": "softmax"}}])
    assert found.startswith("objectives.kd: distribution: softmax doesn't fit")
    assert "bernoulli" in found


def test_an_objective_that_names_no_teacher_gets_the_only_one_or_all():
    one, _ = resolved()
    assert isinstance(one.objectives, list)
    assert [block.teacher for block in one.objectives] == [None, "teacher"]
    changes = {"teacher": None, "teachers": {"a": "run:a", "b": "run:b"}}
    recipe, _ = resolve(
        from_values({key: value for key, value in {**BASE, **changes}.items() if key != "teacher"}), replace(PICTURES, teachers=("a", "b"))
    )
    assert isinstance(recipe, DistillRecipe)
    assert isinstance(recipe.objectives, list)
    assert [block.teacher for block in recipe.objectives] == [None, ["a", "b"]]


@pytest.mark.parametrize(
    ("facts", "objectives", "expected"),
    [
        (replace(PICTURES, teachers=()), ["kd"], "objectives.kd: needs a teacher, and the recipe has none"),
        (replace(PICTURES, n_labelled=0), ["cross_entropy"], "objectives.cross_entropy: needs labels"),
        (
            replace(COLUMNS, task="regression"),
            ["kd"],
            "objectives.kd: is defined for classification and multilabel, and the task is regression",
        ),
        (PICTURES, [{"kd": {"teacher": "techer"}}], "objectives.kd: there is no teacher 'techer' - did you mean 'teacher'?"),
        (PICTURES, [{"cross_entropy": {"teacher": "teacher"}}], "objectives.cross_entropy: asks no teacher"),
        (PICTURES, [{"kd": {"weight": 0}}], "objectives: every weight is 0"),
        (PICTURES, [{"kd": {"weight": {"linear": {"start": 0.0, "end": 0.0}}}}], "objectives: every weight is 0"),
    ],
)
def test_unmet_needs_are_refused_with_the_reason(facts, objectives, expected):
    (found,) = refusals(facts, objectives=objectives)
    assert found.startswith(expected)


def test_a_table_of_predictions_has_no_features():
    card = Card(title="features", needs=("teacher.features",))
    facts = replace(PICTURES, tables=("teacher",), live_cards={"live:Mine": card})
    (found,) = refusals(facts, objectives=["live:Mine"])
    assert "needs inner features of teacher 'teacher', which is a table of predictions" in found
    resolved(replace(facts, tables=()), objectives=["live:Mine"])


def test_an_objective_that_takes_one_teacher_is_refused_where_several_would_answer():
    facts = replace(PICTURES, teachers=("teacher", "other"))
    for name in ("dkd", "fitnet", "dist"):
        (found,) = refusals(facts, objectives=["cross_entropy", name])
        assert found == f"objectives.{name}: takes one teacher, and there are 2: teacher, other; name one: teacher: teacher"
        resolved(facts, objectives=["cross_entropy", {name: {"teacher": "other"}}])
    resolved(facts, objectives=["cross_entropy", "kd", "jsd", "live:Mine"])  # nobody knows about somebody else's before it runs


def test_the_card_of_a_live_objective_decides_its_weight():
    card = Card(title="mine", needs=("teacher.logits",), paper_weight=7.0)
    recipe, _ = resolved(replace(PICTURES, live_cards={"live:Mine": card}), objectives=["live:Mine"])
    assert terms(recipe) == [("live:Mine", 7.0, {})]


def test_several_problems_are_told_at_once():
    assert len(refusals(replace(COLUMNS, teachers=(), n_labelled=0), augment={"flip": True})) == 3


@pytest.mark.parametrize(
    ("augment", "views"), [({}, 1), ({"crop": 2}, 8), ({"flip": True}, 8), ({"flip": True, "views": 3}, 3), ({"views": "fresh"}, "fresh")]
)
def test_views_follow_from_what_is_augmented(augment, views):
    assert resolved(augment=augment)[0].augment.views == views


def test_rows_of_a_table_are_not_flipped():
    (found,) = refusals(COLUMNS, augment={"flip": True})
    assert found.startswith("augment.flip: only pictures")


def test_a_recipe_without_length_trains_30_epochs_and_one_with_steps_does_not():
    assert resolved()[0].train.epochs == 30
    recipe, _ = resolved(train={"steps": 5})
    assert (recipe.train.epochs, recipe.train.steps) == (None, 5)


@pytest.mark.parametrize(
    ("facts", "precision"),
    [
        (PICTURES, "fp32"),
        (replace(PICTURES, bf16_units=True), "bf16"),
        (replace(COLUMNS, bf16_units=True), "fp32"),
        (replace(PICTURES, device="cuda"), "fp32"),
        (replace(PICTURES, device="cuda", bf16_units=True), "bf16"),
    ],
)
def test_precision_follows_the_hardware_and_is_never_fp16_by_itself(facts, precision):
    assert resolved(facts)[0].train.precision == precision


@pytest.mark.parametrize(
    ("facts", "precision", "slow"),
    [
        (PICTURES, "bf16", True),
        (PICTURES, "fp16", True),
        (PICTURES, "fp32", False),
        (PICTURES, "auto", False),
        (replace(PICTURES, bf16_units=True), "bf16", False),
        (replace(PICTURES, device="cuda"), "fp16", False),
    ],
)
def test_a_number_format_that_the_processor_emulates_is_kept_and_called_slow(facts, precision, slow):
    recipe, reasons = resolved(facts, train={"precision": precision})
    assert precision in ("auto", recipe.train.precision)
    assert ("several times faster" in reasons.get("train.precision", "")) == slow


def test_fp16_is_kept_when_it_is_asked_for():
    assert resolved(train={"precision": "fp16"})[0].train.precision == "fp16"


@pytest.mark.parametrize(
    ("facts", "steps", "compiled"),
    [
        (PICTURES, 10**6, False),
        (replace(PICTURES, device="cuda", has_cpp_compiler=True), 2000, False),
        (replace(PICTURES, device="cuda", has_cpp_compiler=True), 2001, True),
        (replace(PICTURES, device="cuda", has_cpp_compiler=False), 2001, False),
    ],
)
def test_compiling_is_for_long_runs_on_a_gpu(facts, steps, compiled):
    assert resolved(facts, train={"steps": steps})[0].train.compile is compiled


def test_data_are_held_in_memory_when_they_fit_in_a_quarter():
    fits = resolved(replace(PICTURES, pool_bytes=249, free_memory_bytes=1000))[0].train
    assert (fits.loader, fits.workers) == ("memory", 0)
    large = resolved(replace(PICTURES, pool_bytes=250, free_memory_bytes=1000))[0].train
    assert (large.loader, large.workers) == ("workers", 4)


def test_a_batch_is_no_larger_than_the_pool_that_it_is_drawn_from():
    recipe, reasons = resolved(train={"batch_size": 5000}, teacher={"source": "builtin:mlp", "train": {"batch_size": 5000}})
    assert recipe.train.batch_size == 1000
    assert recipe.teachers["teacher"].train is not None
    assert recipe.teachers["teacher"].train.batch_size == 800  # learns from labels only
    assert reasons["train.batch_size"] == "the training pool has only 1000 samples"
    assert reasons["teacher.train.batch_size"] == "the training pool has only 800 samples"


def test_more_micro_batches_than_samples_are_refused():
    (found,) = refusals(train={"batch_size": 4, "accumulate": 5})
    assert found.startswith("train.accumulate: ")


def test_pictures_are_held_at_the_largest_size_that_a_model_asks_for():
    assert resolved(replace(PICTURES, model_sizes=(160, 224)))[0].data.size == 224
    assert resolved()[0].data.size == 8
    assert resolved(data={"source": "bundled:digits", "size": 16})[0].data.size == 16
    assert resolved(COLUMNS)[0].data.size is None


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFUSE_CACHE", str(tmp_path / "c"))
    assert resolved()[0].cache.dir == str(tmp_path / "c")
    monkeypatch.delenv("TRANSFUSE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolved()[0].cache.dir == str(tmp_path / ".cache" / "transfuse")
    assert resolved(cache={"dir": "~/mine"})[0].cache.dir == str(tmp_path / "mine")


def test_the_run_folder_is_the_recipes_or_the_jobs():
    assert resolved()[0].out == "runs/here"
    assert resolved(out="runs/mine")[0].out == "runs/mine"


def test_the_stopping_metric_is_the_tasks_first():
    assert resolved()[0].train.stop.metric == "accuracy"
    assert resolved(replace(COLUMNS, task="regression", n_classes=1))[0].train.stop.metric == "rmse"
    assert resolved(train={"stop": {"metric": "nll"}})[0].train.stop.metric == "nll"


def test_decisions_are_told_with_key_value_and_reason():
    said = sentences(*resolved(teacher={"source": "builtin:mlp", "train": {}}))
    assert "train.precision = fp32: the CPU has no matrix units for bf16" in said
    assert "train.channels_last = true: convolutions on pictures are faster so" in said
    assert "objectives = cross_entropy (0.1), kd (0.9): the default for classification: cross_entropy and kd" in said
    assert "objectives.kd.teacher = teacher: the only teacher" in said
    assert not [line for line in said if line.startswith("teacher.train.precision")], "the same as the student's, said once"


@pytest.mark.parametrize(
    ("optimizer", "decay", "words"),
    [
        ("adamw", 0.0, "l2_sp takes its place, as its paper says, for the control too; the optimizer's own is 0.01"),
        ({"sgd": {"lr": 0.5}}, 0.0, "l2_sp takes its place, as its paper says, for the control too; the optimizer's own is 0.0005"),
        ({"sgd": {"weight_decay": 0.1}}, 0.1, "as the recipe says; l2_sp takes its place in the paper"),
        ({"adamw": {"weight_decay": 0}}, 0.0, ""),
    ],
)
def test_weight_decay_gives_way_to_what_holds_weights_at_their_start_and_says_so(optimizer, decay, words):
    recipe, reasons = resolved(objectives=["cross_entropy", "l2_sp"], train={"optimizer": optimizer})
    name, settings = next(iter(recipe.train.optimizer.items()))
    key = f"train.optimizer.{name}.weight_decay"
    assert settings["weight_decay"] == decay
    assert reasons.get(key, "").startswith(words)
    assert bool(words) == any(line.startswith(f"{key} = {decay:g}") for line in sentences(recipe, reasons))
    assert resolve(recipe, PICTURES)[0] == recipe
    without, _ = resolved(objectives=["cross_entropy", {"l2_sp": {"weight": 0}}], train={"optimizer": optimizer})
    assert without.train.optimizer == from_values({**BASE, "train": {"optimizer": optimizer}}).train.optimizer


def test_the_control_learns_from_labels_alone_whatever_share_they_had():
    (only,) = control_objectives(resolved()[0])
    assert (only.name, only.weight) == ("cross_entropy", 1.0)
    assert control_objectives(resolved(objectives=["kd"])[0]) == [only]
    assert control_objectives(resolved(objectives=[{"cross_entropy": {"weight": 0}}, "kd"])[0]) == [only]


def test_several_label_objectives_keep_their_ratio():
    listed = [{"cross_entropy": {"weight": 0.1}}, {"cross_entropy": {"weight": 0.3, "smoothing": 0.1}}, "kd"]
    assert [block.weight for block in control_objectives(resolved(objectives=listed)[0])] == pytest.approx([0.25, 0.75])
    listed[0] = {"cross_entropy": {"weight": {"linear": {"end": 0.5}}}}
    scheduled = control_objectives(resolved(objectives=listed)[0])
    assert isinstance(scheduled[0].weight, dict)
    assert scheduled[1].weight == 0.3


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": "run:other"},
        {"objectives": [{"cross_entropy": {"weight": 0.5}}, {"kd": {"temperature": 2}}]},
        {"out": "runs/elsewhere"},
        {"control": "train"},
        {"cache": {"dir": "/elsewhere"}},
        {"budget": {"bytes": 10}},
        {"samples": False},
    ],
)
def test_what_only_transfers_or_is_output_leaves_the_control_the_same(changes):
    assert control_key_values(resolved(**changes)[0]) == control_key_values(resolved()[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"student": "builtin:convnet"},
        {"data": "bundled:wine"},
        {"train": {"epochs": 3}},
        {"augment": {"crop": 1}},
        {"objectives": [{"cross_entropy": {"smoothing": 0.1}}, "kd"]},
    ],
)
def test_what_decides_the_controls_bits_is_in_its_key(changes):
    assert control_key_values(resolved(**changes)[0]) != control_key_values(resolved()[0])


@pytest.mark.parametrize(
    ("objective", "keys"),
    [
        ({"kd": {"student_tap": "layer3"}}, ["student"]),
        ({"kd": {"student_tap": "layer3", "teacher_tap": "layer3"}}, ["student", "teacher"]),
        ({"cross_entropy": {"student_tap": "layer3"}}, ["student"]),
        ({"ofa": {"student_tap": "layer3", "teacher_tap": "layer3"}}, ["teacher"]),
        ({"fitnet": {"student_tap": "layer3", "teacher_tap": "layer3"}}, []),
        ({"bss": {"student_tap": "layer3"}}, []),
    ],
)
def test_taps_that_an_objective_would_not_read_are_refused(objective, keys):
    changes = {"objectives": ["kd" if "kd" not in objective else "cross_entropy", objective]}
    if not keys:
        assert resolved(**changes)
        return
    name = next(iter(objective))
    assert [line.split(" reads")[0] for line in refusals(**changes)] == [f"objectives.{name}: {whose}_tap:" for whose in keys]
