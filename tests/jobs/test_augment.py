"""Augmented jobs: mixtures are remembered like any view, labels are mixed, and what doesn't fit is refused before training."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.jobs.conftest import lines
from transfuse.core.types import DataRequest
from transfuse.data import open_data
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.order import Order
from transfuse.errors import DataError, RecipeError
from transfuse.jobs.fill import fill
from transfuse.jobs.parts.pools import training_pool
from transfuse.jobs.train.training import views_of
from transfuse.recipe.augment import AugmentBlock, MixupBlock
from transfuse.recipe.load import load

EVERYTHING = {
    "views": 2,
    "crop": 1,
    "flip": True,
    "resized_crop": 0.5,
    "rotation": 10,
    "randaugment": True,
    "colour": {"brightness": 0.4, "contrast": 0.4},
    "erasing": True,
    "mixup": 0.4,
    "cutmix": True,
}


def test_a_second_student_pays_nothing_for_mixed_and_augmented_views(job):
    first = job(augment=EVERYTHING, control="none")
    assert first.summary["teacher_forwards"] > 0
    teacher = f"run:{first.path}#teacher"
    second = job(augment=EVERYTHING, teacher=teacher, control="none", seed=7, objectives=["cross_entropy", {"kd": {"temperature": 2}}])
    assert second.summary["teacher_forwards"] == 0


def test_teachers_answer_about_a_second_view_of_its_own_once_and_apart_from_the_first(job, tmp_path):
    stored = tmp_path / "cache" / "answers"
    terms, plain = ["cross_entropy", "mlld"], {"views": 2, "crop": 1}
    first = job(augment=plain, objectives=terms, control="none")
    before, teacher = {path.name for path in stored.iterdir()}, f"run:{first.path}#teacher"
    strong = {**plain, "second": {"crop": 1, "randaugment": 14}}
    changes = [f"teacher={teacher}", "augment.second.crop=1", "augment.second.randaugment=14"]
    assert fill(load(first.path / "recipe.yaml", changes)) > 0
    assert len({path.name for path in stored.iterdir()} - before) == 1
    run = job(augment=strong, objectives=terms, control="none", teacher=teacher, seed=7)
    assert run.summary["teacher_forwards"] == 0


def test_a_mixed_run_learns_and_is_repeatable_to_the_bit(job):
    changes = {"data": "bundled:digits", "augment": {"crop": 1, "mixup": 0.4}, "control": "none"}
    changes["train"] = {"steps": 80, "batch_size": 64, "optimizer": {"adamw": {"lr": 0.01}}, "precision": "fp32", "evaluate_every": 100}
    changes["teacher"] = {"source": "builtin:mlp", "options": {"widths": [64]}, "train": changes["train"]}
    changes["student"] = {"source": "builtin:mlp", "options": {"widths": [32]}}
    one, two = job(**changes), job(**changes)
    assert one.summary["models"]["student"]["metrics"]["accuracy"] > 0.6
    kept = [np.load(run.path / "predictions" / "student.npz")["outputs"] for run in (one, two)]
    assert np.array_equal(*kept)
    losses = [[line["loss"] for line in lines(run.path / "metrics.jsonl") if "loss" in line] for run in (one, two)]
    assert losses[0] == losses[1]


def test_a_table_learns_from_mixed_rows(job):
    run = job(augment={"mixup": 0.4}, data="bundled:wine", objectives=["cross_entropy", "kd"])
    assert run.summary["models"]["student"]["metrics"]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"augment": {"second": {"crop": 8}}, "objectives": ["cross_entropy", "mlld"]}, DataError, r"augment\.second\.crop"),
        ({"augment": {"mixup": True}, "objectives": ["cross_entropy", "dkd"]}, RecipeError, "objectives.dkd: needs one class per sample"),
        ({"augment": {"randaugment": True}, "data": "bundled:wine"}, RecipeError, "augment.randaugment: only pictures"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(job, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        job(**changes)
    assert not (tmp_path / "run0").exists()


def test_changes_of_colour_are_refused_on_pictures_without_8_bit_colours(job, tmp_path):
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "floats.npz", x=generator.normal(size=(80, 8, 8, 3)).astype(np.float32), y=np.arange(80) % 2)
    with pytest.raises(DataError, match="8-bit") as refused:
        job(data=f"arrays:{tmp_path / 'floats.npz'}", augment={"colour": 0.4})
    assert refused.value.where == "augment.colour"
    assert not (tmp_path / "run0").exists()


def test_the_folder_keeps_a_sheet_of_the_views_that_the_networks_saw(job):
    run = job(augment={"crop": 1, "mixup": 0.4, "views": 3}, control="none")
    sheet = np.asarray(Image.open(run.path / "samples" / "views.png"))
    assert sheet.shape[2] == 3
    pool = training_pool(open_data("bundled:digits", DataRequest(labels_per_class=10)))
    views = views_of(AugmentBlock(views=3, crop=1, mixup=MixupBlock(alpha=0.4)))
    loader = MemoryLoader(pool, views, Order(len(pool), 1, 0), classes=10)
    last = len(pool) - 1
    expected = [pool.raw([last])[0], *(loader.fetch(torch.tensor([last]), torch.tensor([view]))[0] for view in range(3))]
    for column, picture in enumerate(expected):  # digits of 8 pixels in tiles of 72: every ninth pixel
        left = column * 76 + (8 if column else 0)
        tile = sheet[5 * 76 : 5 * 76 + 72, left : left + 72]
        assert np.array_equal(tile[4::9, 4::9, 0], picture[0].numpy())
    assert "What the networks saw" in (run.path / "report.html").read_text()


def test_no_sheet_is_kept_where_nothing_is_augmented_or_no_samples_are_kept(job):
    for changes in ({}, {"augment": {"crop": 1}, "samples": False}):
        run = job(control="none", **changes)
        assert not (run.path / "samples" / "views.png").exists()
        assert "What the networks saw" not in (run.path / "report.html").read_text()
