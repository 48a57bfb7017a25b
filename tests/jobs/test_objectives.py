"""Every objective in a real job: it trains, or it is refused before training with the reason."""

import json
import math

import pytest

from transfuse import objectives
from transfuse.errors import RecipeError, TransfuseError
from transfuse.jobs import distill
from transfuse.jobs.deliver import finish
from transfuse.recipe.load import from_values

CLASSIFYING = [name for name in objectives.names() if "classification" in objectives.card(name).tasks]
LEARNT_FIRST = ("ab", "fsp")  # in a stage of their own, and then no more
NOT_FOR_CONVOLUTIONS = {"attention_maps": "can't be found by themselves"}
FOR_MAPS = {"hidden_cosine": {"tokens": "mean"}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Two convolutional networks, the larger one hardly trained: enough to have features."""
    folder = tmp_path_factory.mktemp("teacher")
    return folder, distill.run(from_values(recipe(folder, "first", teacher={"source": "builtin:resnet14", "train": {"steps": 3}})))


def recipe(folder, name, **changes):
    return {
        "job": "distill",
        "data": "bundled:digits",
        "student": "builtin:resnet8",
        "augment": {"crop": 1},
        "train": {"steps": 2, "precision": "fp32", "batch_size": 32},
        "cache": {"dir": str(folder / "cache")},
        "samples": False,
        "out": str(folder / name),
        **changes,
    }


@pytest.mark.parametrize("name", CLASSIFYING)
def test_an_objective_trains_in_a_job_or_is_refused_with_the_reason(teacher, name, monkeypatch):
    folder, first = teacher
    monkeypatch.setattr(finish, "report", lambda context: None)
    terms = list(dict.fromkeys(["cross_entropy", name]))
    terms = [{term: FOR_MAPS[term]} if term in FOR_MAPS else term for term in terms]
    peers = {"peer": "builtin:resnet8"} if "peers" in objectives.card(name).needs else {}
    trained = {"student": f"run:{first.path}"} if "student.start" in objectives.card(name).needs else {}
    values = from_values(recipe(folder, name, teacher=f"run:{first.path}#teacher", objectives=terms, peers=peers, **trained))
    if "domains" in objectives.card(name).needs or name in NOT_FOR_CONVOLUTIONS:
        with pytest.raises(TransfuseError, match=NOT_FOR_CONVOLUTIONS.get(name, "source and a target domain")):
            distill.run(values)
        return
    run = distill.run(values)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    steps = [row["terms"] for row in rows if row["kind"] == "train" and row["run"] == "student"]
    logged = [terms[name] for terms in steps if name in terms]
    assert len(steps) == 2
    assert len(logged) == (1 if name in LEARNT_FIRST else 2)
    assert all(math.isfinite(value) for value in logged)


def test_a_feature_objective_with_a_table_for_a_teacher_is_refused_before_training(teacher, tmp_path):
    import numpy as np

    _, first = teacher
    kept = np.load(first.path / "predictions/teacher.npz")
    np.savez(tmp_path / "table.npz", ids=kept["ids"], logits=kept["outputs"])
    with pytest.raises(RecipeError, match="fitnet"):
        distill.run(from_values(recipe(tmp_path, "run", teacher=f"predictions:{tmp_path / 'table.npz'}", objectives=["fitnet"])))
    assert not (tmp_path / "run").exists()


def test_bridges_are_trained_and_resumed_but_not_shipped(teacher):
    from safetensors.torch import load_file

    folder, first = teacher
    run = distill.run(from_values(recipe(folder, "bridged", teacher=f"run:{first.path}#teacher", objectives=["cross_entropy", "fitnet"])))
    assert load_file(run.path / "student.safetensors").keys() == load_file(run.path / "control/student.safetensors").keys()


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"fitnet": {"student_tap": "layer9", "teacher_tap": "layer3"}}, "layer9"),
        ({"fitnet": {"student_tap": "layer3", "teacher_tap": "layerr3"}}, "did you mean|layer3"),
    ],
)
def test_a_tap_that_is_not_there_is_refused_before_training(teacher, tmp_path, objective, words):
    _, first = teacher
    with pytest.raises(TransfuseError, match=words):
        distill.run(from_values(recipe(tmp_path, "run", teacher=f"run:{first.path}#teacher", objectives=["cross_entropy", objective])))
    assert not (tmp_path / "run").exists()


def test_a_cache_that_cannot_hold_all_views_is_refused_before_training(teacher, tmp_path):
    _, first = teacher
    values = recipe(tmp_path, "run", teacher=f"run:{first.path}#teacher", cache={"dir": str(tmp_path / "cache"), "max_bytes": 1000})
    with pytest.raises(TransfuseError, match=r"cache\.max_bytes"):
        distill.run(from_values(values))
    assert not (tmp_path / "run").exists()
