"""The CIFAR pair's verdicts, pairing and plan; the runs themselves are the product's."""

import json

import numpy as np
import pytest
from benchmarks import cifar_pairs

from transfuse import objectives


def finished(folder, student, control, seconds=1.0, order=None):
    """A run folder as `collect` reads it: every picture's label is 0, a right answer is output 0."""
    (folder / "predictions").mkdir(parents=True)
    order = np.arange(len(student)) if order is None else order
    ids = np.array([f"test/{number:03}" for number in range(len(student))])
    for model, right in (("student", student), ("control", control), ("teacher", np.ones_like(student))):
        outputs = np.where(right[:, None], [1.0, 0.0], [0.0, 1.0])
        rows = order if model == "student" else np.arange(len(student))
        np.savez(folder / "predictions" / f"{model}.npz", ids=ids[rows], labels=np.zeros(len(ids), int), outputs=outputs[rows])
    (folder / "summary.json").write_text(json.dumps({"seconds": {"train": seconds}}))
    folder.with_suffix(".json").write_text(json.dumps({"commit": "c"}))
    return folder


@pytest.mark.parametrize(
    ("interval", "expected"), [((0.01, 0.02), "helps"), ((-0.01, 0.02), "no evidence"), ((-0.02, -0.01), "hurts"), ((0, 1), "no evidence")]
)
def test_a_verdict_needs_the_whole_interval_on_one_side_of_zero(interval, expected):
    assert cifar_pairs.verdict(interval) == expected


def test_a_gain_is_paired_by_picture_and_averaged_over_seeds(tmp_path):
    random, n = np.random.default_rng(0), cifar_pairs.REPORTING
    control = random.random(n) < 0.5
    better = control | (random.random(n) < 0.5)
    folders = {
        0: finished(tmp_path / "kd-0", better, control, order=random.permutation(n)),
        1: finished(tmp_path / "kd-1", control, control),
    }
    row = cifar_pairs.row({str(seed): cifar_pairs.found_in(folder) for seed, folder in folders.items()})
    gain = (better.mean() - control.mean()) / 2
    assert row["gain"] == pytest.approx(gain, abs=1e-5)
    assert row["gains"] == pytest.approx([2 * gain, 0], abs=1e-5)
    # paired by hand: the bootstrap's width is that of the per-picture differences, far below that of two independent accuracies
    width = 2 * 1.96 * ((better.astype(float) - control) / 2).std() / np.sqrt(n)
    assert row["interval"][1] - row["interval"][0] == pytest.approx(width, rel=0.15)
    assert row["verdict"] == "helps"


def test_seeds_of_another_day_are_kept_and_new_ones_join_them(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_pairs.results, "FOLDER", tmp_path)
    random, n = np.random.default_rng(0), cifar_pairs.REPORTING
    rights = [random.random((2, n)) < 0.5 for _ in range(2)]
    for seed, (student, control) in enumerate(rights):
        work = tmp_path / f"day {seed}"
        finished(cifar_pairs.folder_of(work, "kd", seed), student, control)
        collected = cifar_pairs.collect(work)
        cifar_pairs.results.write("cifar_pairs", collected)
    row = collected["objectives"]["kd"]
    assert row["seeds"] == [0, 1]
    assert row["accuracies"] == pytest.approx([student.mean() for student, _ in rights], abs=1e-5)
    assert row["controls"] == pytest.approx([control.mean() for _, control in rights], abs=1e-5)
    assert "kd-2" in collected["pending"]
    assert "kd-1" not in collected["pending"]


def test_every_objective_is_planned_or_has_a_reason_against_it():
    planned = {name for name, _ in cifar_pairs.plan()}
    reasons = {name for name in objectives.names() if cifar_pairs.reason_against(name)}
    assert planned | reasons == set(objectives.names())
    assert not planned & reasons


def test_the_most_cited_run_first_and_their_further_seeds_last():
    plan = cifar_pairs.plan()
    assert [name for name, _ in plan[: len(cifar_pairs.CITED)]] == list(cifar_pairs.CITED)
    first_seed = [seed == cifar_pairs.SEEDS[0] for _, seed in plan]
    assert first_seed == sorted(first_seed, reverse=True)
    assert sum(not first for first in first_seed) == 2 * len(cifar_pairs.CITED) == 24


def test_pictures_for_training_choosing_and_reporting_share_none(test_data, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_pairs.real_weights, "convert", lambda *arguments: None)
    cifar_pairs.prepare(tmp_path)
    with np.load(tmp_path / "data.npz") as kept:
        parts = {part: (set(kept[f"ids_{part}"]), np.bincount(kept[f"y_{part}"])) for part in ("train", "val", "test")}
        pictures = [{picture.tobytes() for picture in kept[f"x_{part}"]} for part in ("train", "val", "test")]
    for kind in (pictures, [names for names, _ in parts.values()]):
        assert len(set.union(*kind)) == sum(map(len, kind)) == cifar_pairs.PICTURES + 2000
    whole = np.bincount(test_data.cifar10()["y_test"])
    assert np.abs(parts["val"][1] - whole / 2).max() <= 1
    assert np.abs(parts["test"][1] - whole / 2).max() <= 1
    assert parts["train"][1].sum() == cifar_pairs.PICTURES


def test_an_objective_without_a_teacher_is_held_against_the_others_control(tmp_path):
    assert cifar_pairs.recipe(tmp_path, "tf_kd", 1)["control"].endswith("kd-1")
    assert cifar_pairs.recipe(tmp_path, "rkd", 1)["control"] == "reuse"


def test_an_unfinished_run_of_another_commit_begins_anew(tmp_path, monkeypatch):
    began = []
    monkeypatch.setattr("transfuse.distill", lambda **values: began.append(values["out"].name), raising=False)
    monkeypatch.setattr("transfuse.resume", lambda folder: began.append(f"resumed {folder.name}"), raising=False)
    monkeypatch.setattr(cifar_pairs.results, "commit", lambda: "one")
    cifar_pairs.run_one(tmp_path, "kd", 0)
    folder = cifar_pairs.folder_of(tmp_path, "kd", 0)
    folder.mkdir()
    (folder / "recipe.resolved.yaml").write_text("job: distill")
    cifar_pairs.run_one(tmp_path, "kd", 0)
    monkeypatch.setattr(cifar_pairs.results, "commit", lambda: "two")
    cifar_pairs.run_one(tmp_path, "kd", 0)
    assert began == ["kd-0", "resumed kd-0", "kd-0"]
    assert not folder.exists()
