"""The teacher cache in whole jobs: a second student pays nothing, large heads are kept as their top, filling before training."""

import gc
import importlib.util
import subprocess
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import transfuse
from transfuse.core.protocols import Silent
from transfuse.data.views import BatchViews
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.order import Order
from transfuse.engine.teacher_cache.listing import entries
from transfuse.errors import RecipeError, RunError
from transfuse.jobs import check, distill
from transfuse.jobs.deliver import finish
from transfuse.jobs.fill import Filling, fill, fill_with_ray
from transfuse.jobs.parts.pools import training_pool
from transfuse.jobs.prepare import refusals
from transfuse.recipe.load import dump, from_values

from .conftest import NO_GPU, lines

POOL, EXACT = 1294, 503  # digits without validation and test samples; those


def recipe(folder, name, **changes):
    return {
        "job": "distill",
        "data": "bundled:digits",
        "student": "builtin:resnet8",
        "objectives": ["cross_entropy", "kd", {"fitnet": {"student_tap": "layer3", "teacher_tap": "layer3"}}],
        "augment": {"crop": 1, "views": 2},
        "train": {"steps": 2, "precision": "fp32", "batch_size": 32},
        "cache": {"dir": str(folder / "cache")},
        "control": "none",
        "samples": False,
        "out": str(folder / name),
        **changes,
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A convolutional teacher, hardly trained, and a cache that was filled for it: folder, teacher, samples asked about."""
    folder = tmp_path_factory.mktemp("taught")
    teacher = {"source": "builtin:resnet8", "train": {"steps": 3}}
    run = distill.run(from_values(recipe(folder, "first", teacher=teacher, cache={"dir": str(folder / "other")}, objectives=["kd"])))
    source = f"run:{run.path}#teacher"
    return folder, source, fill(from_values(recipe(folder, "none", teacher=source)))


def test_filling_asks_about_every_sample_in_every_view_once(first):
    folder, source, asked = first
    assert asked == 2 * POOL + EXACT
    assert fill(from_values(recipe(folder, "none", teacher=source))) == 0
    assert not (folder / "none").exists()
    found = {entry.what: entry for entry in entries(folder / "cache") if entry.about["views"] != "exact"}
    assert {what: (entry.filled, entry.views) for what, entry in found.items()} == {
        "10 logits": (1.0, [0, 1]),
        "layer3 64x2x2": (1.0, [0, 1]),
    }


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"seed": 7}, id="another seed"),
        pytest.param({"train": {"steps": 60, "precision": "fp32", "batch_size": 50}}, id="another batch size, two epochs"),
        pytest.param({"objectives": ["cross_entropy", "dkd", "reverse_kl", {"kd": {"temperature": 2}}]}, id="other objectives"),
        pytest.param({"objectives": [{"attention_transfer": {"student_tap": "layer3", "teacher_tap": "layer3"}}]}, id="other features"),
        pytest.param({"student": {"source": "builtin:mlp"}, "objectives": ["cross_entropy", "kd"]}, id="another student"),
    ],
)
def test_a_second_student_pays_nothing(first, tmp_path, monkeypatch, changes):
    folder, source, _ = first
    monkeypatch.setattr(finish, "report", lambda context: None)
    run = distill.run(from_values({**recipe(folder, "second", teacher=source), **changes, "out": str(tmp_path / "run")}))
    assert run.summary["teacher_forwards"] == 0
    assert run.summary["teachers"]["teacher"]["metrics"]["accuracy"] >= 0
    assert run.summary["teachers"]["teacher"]["macs"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"augment": {"crop": 1, "views": 2, "seed": 1}}, id="augment.seed"),
        pytest.param({"data": {"source": "bundled:digits", "split": {"seed": 1}}}, id="data"),
        pytest.param({"cache": {"precision": "fp32"}}, id="stored precision"),
        pytest.param({"cache": {"top_k": 3}}, id="top k"),
        pytest.param({"cache": {"features": 0}}, id="features that are not kept"),
    ],
)
def test_other_answers_are_asked_for(first, tmp_path, monkeypatch, changes):
    folder, source, _ = first
    monkeypatch.setattr(finish, "report", lambda context: None)
    values = {**recipe(folder, "second", teacher=source), **changes, "out": str(tmp_path / "run")}
    values["cache"] = {"dir": str(folder / "cache"), **changes.get("cache", {})}
    assert distill.run(from_values(values)).summary["teacher_forwards"] >= 64


class Wide(nn.Module):
    def __init__(self, hidden, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, inputs):
        return self.layers(inputs)


@pytest.fixture
def wide(tmp_path, monkeypatch):
    """The digits among 10,000 classes, and a function that runs a job on them."""
    digits = transfuse.data.open_data("bundled:digits", transfuse.core.types.DataRequest())
    arrays = {}
    for part in ("train", "test"):
        samples, count = getattr(digits, part), {"train": 300, "test": 60}[part]
        arrays |= {f"x_{part}": samples.raw(range(count)).numpy(), f"y_{part}": samples.labels.numpy()[:count]}
    np.savez(tmp_path / "wide.npz", classes=np.array([f"class {number}" for number in range(10_000)]), **arrays)
    monkeypatch.setattr(finish, "report", lambda context: None)
    torch.manual_seed(0)
    teacher, student = Wide(32, 10_000), Wide(8, 10_000)

    def run(name, **changes):
        return transfuse.distill(
            f"arrays:{tmp_path / 'wide.npz'}", student, teacher, train={"steps": 5, "batch_size": 64}, out=tmp_path / name,
            cache={"dir": str(tmp_path / "cache"), **changes.pop("cache", {})}, control="none", samples=False, **changes,
        )  # fmt: skip

    return run


def test_of_ten_thousand_classes_the_top_is_kept_and_bounds_the_dense_loss_from_below(wide, tmp_path):
    objectives = [{"kd": {"temperature": 4}}, {"jsd": {"temperature": 1}}]
    kept = wide("top", objectives=objectives)
    dense = wide("dense", objectives=objectives, cache={"top_k": None, "precision": "fp32"})
    resolved = (kept.path / "recipe.resolved.yaml").read_text()
    assert "top_k: 100" in resolved
    assert "lower bound" in (kept.path / "reasons.json").read_text()
    (entry,) = [entry for entry in entries(tmp_path / "cache") if entry.what == "top 100 of 10000"]
    assert entry.about["answers"]["temperatures"] == [1.0, 4.0]
    assert entry.bytes < 0.05 * next(
        entry.bytes for entry in entries(tmp_path / "cache") if entry.what == "10000 logits" and entry.rows > 200
    )
    losses = [lines(run.path / "metrics.jsonl")[0]["terms"] for run in (kept, dense)]  # same weights, same samples
    for term in ("kd", "jsd"):
        top, full = (loss[term] for loss in losses)
        assert 0 < top <= full * 1.001
    again = wide("again", objectives=[{"tvd": {"temperature": 4}}, {"jsd": {"temperature": 1}}], seed=3)
    assert again.summary["teacher_forwards"] == 0


def test_what_the_top_of_the_logits_cannot_teach_is_refused_before_training(wide, tmp_path):
    class Own(nn.Module):
        card = replace(transfuse.objectives.card("kd"), title="own")

        def forward(self, step):
            return step.student.logits.sum(-1)

    for objectives, cache, words in (
        (["dkd"], {}, "needs all of the teacher's logits"),
        ([{"kd": {"temperature": 2}}], {"temperatures": [1.0, 4.0]}, "not among cache.temperatures"),
        ([Own()], {}, r"name it in cache\.temperatures"),
    ):
        with pytest.raises(RecipeError, match=words):
            wide("refused", objectives=objectives, cache=cache)
    assert not (tmp_path / "refused").exists()


def test_several_teachers_of_large_heads_are_refused_where_they_would_be_merged(wide):
    teachers = {"other": Wide(16, 10_000)}
    with pytest.raises(RecipeError, match="combine: losses"):
        wide("refused", objectives=["kd"], teachers=teachers)
    run = wide("run", objectives=[{"kd": {"combine": "losses"}}], teachers=teachers)
    assert run.summary["teacher_forwards"] > 0


def test_filling_is_interrupted_and_goes_on(first, tmp_path):
    _, source, asked = first

    class Impatient(Silent):
        def progress(self, progress):
            if progress.step > 1500:
                raise KeyboardInterrupt

    values = from_values(recipe(tmp_path, "none", teacher=source, objectives=["kd"]))
    with pytest.raises(KeyboardInterrupt):
        fill(values, Impatient())
    stored = sum(entry.stored for entry in entries(tmp_path / "cache"))
    assert 1500 <= stored < 2 * POOL
    assert fill(values) == asked - stored


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": {"source": "builtin:resnet8", "train": {"steps": 3}}}, "trained by the run itself"),
        ({"augment": {"crop": 1, "views": "fresh"}}, "fresh views are asked live"),
    ],
)
def test_what_cannot_be_filled_is_refused(first, tmp_path, changes, words):
    with pytest.raises(RecipeError, match=words):
        fill(from_values({**recipe(tmp_path, "none", teacher=first[1]), **changes}))
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_for_all_answers_is_refused_before_training(first, tmp_path, monkeypatch):
    usage = refusals.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(refusals.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RunError, match="the disk has 1 kB left"):
        distill.run(from_values(recipe(tmp_path, "run", teacher=first[1])))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def read_only(monkeypatch):
    """A function from a cache's folder that makes it one that can't be written."""

    def no_use(path):
        raise PermissionError(13, "Permission denied", str(path))

    def make(folder):
        monkeypatch.setattr("transfuse.engine.teacher_cache.store.in_use", no_use)
        monkeypatch.setattr(refusals.os, "access", lambda path, mode: not str(path).startswith(str(folder)))
        monkeypatch.setattr(finish, "report", lambda context: None)

    return make


def test_a_cache_that_cannot_be_written_teaches_if_nothing_is_missing_and_is_refused_else(first, tmp_path, read_only):
    folder, source, _ = first
    read_only(folder / "cache")
    values = {**recipe(folder, "second", teacher=source), "out": str(tmp_path / "run")}
    assert distill.run(from_values(values)).summary["teacher_forwards"] == 0
    other_feature = {"fitnet": {"student_tap": "layer3", "teacher_tap": "layer2"}}
    for changes in ({"augment": {"crop": 1, "views": 3}}, {"objectives": ["cross_entropy", other_feature]}):
        with pytest.raises(RunError, match="no permission"):
            distill.run(from_values({**values, **changes, "out": str(tmp_path / "more")}))
        assert not (tmp_path / "more").exists()


def test_second_views_are_asked_about_by_objectives_of_two_views_alone_and_with_their_teachers_and_features(first, tmp_path, read_only):
    source, taps = first[1], {"student_tap": "layer3", "teacher_tap": "layer3"}
    changes = {
        "teachers": {"one": source, "two": source.replace("#teacher", "")},
        "objectives": [{"kd": {"teacher": "one"}}, {"mlld": {"teacher": "two"}}, {"fitnet": {"teacher": "two", **taps}}],
        "augment": {"crop": 1, "views": 1, "second": {"crop": 1, "randaugment": 14}},
    }
    values = recipe(tmp_path, "run", **changes)
    assert fill(from_values(values)) == 3 * POOL + 2 * EXACT
    stored = sorted(entry.what for entry in entries(tmp_path / "cache") if entry.about["views"] != "exact")
    assert stored == ["10 logits"] * 3 + ["layer3 64x2x2"]
    read_only(tmp_path / "cache")
    assert distill.run(from_values(values)).summary["teacher_forwards"] == 0
    assert sorted(entry.what for entry in entries(tmp_path / "cache") if entry.about["views"] != "exact") == stored


def test_a_teacher_that_is_asked_about_turned_pictures_alone_is_asked_live_and_nothing_is_stored(first, tmp_path, read_only):
    values = recipe(tmp_path, "run", teacher=first[1], objectives=["cross_entropy", {"sskd": {"preparation": 0.5}}])
    assert fill(from_values(values)) == EXACT
    assert all(entry.about["views"] == "exact" for entry in entries(tmp_path / "cache"))
    shown_upright = {**values, "objectives": ["kd", "sskd"], "cache": {"dir": str(tmp_path / "other")}}
    assert fill(from_values(shown_upright)) == 2 * POOL + EXACT
    read_only(tmp_path / "cache")
    assert distill.run(from_values(values)).summary["teacher_forwards"] > 0


def test_a_teacher_is_counted_and_let_go_with_the_loader_that_it_fetched_from(first, tmp_path):
    filling = Filling(from_values(recipe(tmp_path, "none", teacher=first[1], objectives=["kd"])))
    oracle, pool = filling.oracles["teacher"], training_pool(filling.data)
    loader = MemoryLoader(pool, BatchViews(None, 0), Order(len(pool), 8, 0), filling.context.device)
    asked, batch, held = oracle.asked(), next(iter(loader.batches(0, 1))), weakref.ref(loader)
    oracle.teacher(pool, False, loader).answers(batch.ids, batch.views, batch.inputs)
    del loader
    gc.collect()
    assert held() is None
    assert oracle.asked() == asked + 8


def test_room_is_wanted_for_second_views_of_teachers_that_are_asked_about_them(first, tmp_path):
    source, room = first[1], 450_000  # for 12 views of 31 kB, and 44 kB of validation and test samples
    common = {
        "teachers": {"one": source, "two": source.replace("#teacher", "")},
        "augment": {"crop": 1, "views": 4, "second": {"crop": 1, "randaugment": 14}},
        "cache": {"dir": str(tmp_path / "cache"), "max_bytes": room},
    }
    one, two = ({"mlld": {"teacher": name}} for name in ("one", "two"))
    check.run(from_values(recipe(tmp_path, "run", objectives=["kd", two], **common)))
    with pytest.raises(RunError, match=r"the teachers' answers take 541\.4 kB"):
        check.run(from_values(recipe(tmp_path, "run", objectives=["kd", one, two], **common)))


def test_the_ranks_of_torchrun_share_the_filling(first, tmp_path):
    _, source, asked = first
    (tmp_path / "recipe.yaml").write_text(dump(from_values(recipe(tmp_path, "none", teacher=source, objectives=["kd"]))))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "transfuse", "cache", "fill", "recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=NO_GPU, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{asked:,} samples were asked about now" in done.stderr
    assert all(entry.filled == 1.0 for entry in entries(tmp_path / "cache"))
    assert fill(from_values(recipe(tmp_path, "none", teacher=source, objectives=["kd"]))) == 0


def test_processes_wait_for_each_others_shares_before_they_add_up(monkeypatch):
    class Nothing:
        def __init__(self, recipe, reporter):
            self.context = SimpleNamespace(device="cpu")

        def units(self):
            return []

        def finish(self):
            return 0

    done: list[str] = []
    monkeypatch.setattr("transfuse.jobs.fill.Filling", Nothing)
    monkeypatch.setattr("transfuse.jobs.fill._say_done", lambda filling, total, asked: None)
    monkeypatch.setattr("transfuse.engine.parallel.wait_for_all", lambda: done.append("waited"))
    monkeypatch.setattr("transfuse.core.ranks.sum_over_ranks", lambda values: done.append("added up") or values)
    fill(None)
    assert done == ["waited", "added up"]


def test_what_another_process_is_at_is_left_alone_and_looked_at_last(first, tmp_path, monkeypatch):
    _, source, asked = first
    complete, tried = Filling.complete, []

    def held(self, unit, progress=None, wait=True):
        tried.append((unit.view, wait))
        return complete(self, unit, progress, wait) if wait or unit.view else None

    monkeypatch.setattr(Filling, "complete", held)
    assert fill(from_values(recipe(tmp_path, "none", teacher=source, objectives=["kd"]))) == asked
    assert tried == [(0, False), (1, False), (0, True)]


def test_filling_for_a_sweep_asks_what_its_trials_will_ask(first, tmp_path, monkeypatch):
    _, source, _ = first
    monkeypatch.setattr(finish, "report", lambda context: None)
    common = {"objectives": ["kd"], "cache": {"dir": str(tmp_path / "cache"), "top_k": 3}}
    space = {"objectives.kd.temperature": [1, 2], "augment.seed": [0, 5]}
    said = []

    class Heard(Silent):
        def say(self, text):
            said.append(text)

    assert (
        fill(from_values({**recipe(tmp_path, "none", teacher=source, **common), "job": "sweep", "space": space}), Heard())
        == 2 * POOL + EXACT
    )
    assert "teacher: asked as the recipe has them; for other values of space.augment.seed trials ask themselves" in said
    trial = recipe(tmp_path, "trial", teacher=source, **common)
    trial["cache"]["temperatures"] = [1, 2, 4]
    trial["objectives"] = [{"kd": {"temperature": 2}}]
    assert distill.run(from_values(trial)).summary["teacher_forwards"] == 0


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install transfuse[ray]")
@pytest.mark.filterwarnings("default")
def test_workers_of_ray_share_the_filling(first, tmp_path):
    import ray

    _, source, asked = first
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        values = from_values(recipe(tmp_path, "none", teacher=source, objectives=["kd"]))
        assert fill_with_ray(values, 2) == asked
        assert fill_with_ray(values, 2) == 0
    finally:
        ray.shutdown()
    assert all(entry.filled == 1.0 for entry in entries(tmp_path / "cache"))
