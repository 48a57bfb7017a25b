"""Teachers: asked once per sample and view, answers survive storage, damage and room."""

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.engine.teacher_cache import key
from transfuse.engine.teacher_cache.store import Store, folder_bytes
from transfuse.engine.teacher_cache.teachers import CachedTeacher, LiveTeacher, TableTeacher
from transfuse.errors import RunError

from .conftest import network


def live(problem, module=None) -> LiveTeacher:
    loader = problem.loader()
    return LiveTeacher(module or network(), Preprocess(), loader.fetch)


def ask(teacher, ids, view=0):
    ids = torch.tensor(ids)
    return teacher.answers(ids, torch.full_like(ids, view)).logits


def test_a_live_teacher_is_frozen_in_eval_and_gives_no_gradient(problem):
    module = network(dropout=0.9, batchnorm=True).train()
    teacher = live(problem, module)
    module.train()
    first, second = ask(teacher, [1, 2, 3]), ask(teacher, [1, 2, 3])
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert teacher.forwards == 6


def test_a_cached_teacher_is_asked_once_per_sample_and_view(problem, tmp_path):
    teacher = CachedTeacher(live(problem), Store(tmp_path, "k", 50, 3))
    for _ in range(3):
        for view in range(2):
            for ids in ([0, 5, 7], [8, 9, 49]):
                ask(teacher, ids, view)
    assert teacher.forwards == 12


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 1e-3), ("fp32", 0.0)])
def test_a_step_gets_what_was_stored_also_the_first_time(problem, tmp_path, precision, tolerance):
    teacher = CachedTeacher(live(problem), Store(tmp_path, "k", 50, 3, precision))
    first = ask(teacher, [3, 1, 2])
    again = ask(CachedTeacher(live(problem), Store(tmp_path, "k", 50, 3, precision)), [3, 1, 2])
    assert torch.equal(first, again)
    with torch.no_grad():
        exact = network().eval()(problem.inputs[[3, 1, 2]])
    assert torch.allclose(first, exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("damage", ["flipped bit", "values without their sum", "zeroed page"])
def test_a_damaged_row_is_asked_for_again_and_the_others_are_not(problem, tmp_path, damage):
    ask(CachedTeacher(live(problem), Store(tmp_path, "k", 50, 3)), range(10))
    rows, sums = tmp_path / "answers/k/view_0.rows", tmp_path / "answers/k/view_0.sums"
    content = bytearray(rows.read_bytes())
    if damage == "flipped bit":
        content[4 * 6] ^= 1
    elif damage == "zeroed page":
        content[4 * 6 : 5 * 6] = bytes(6)
    else:
        sums_content = bytearray(sums.read_bytes())
        sums_content[16:20] = bytes(4)
        sums.write_bytes(sums_content)
    rows.write_bytes(content)
    store = Store(tmp_path, "k", 50, 3)
    _, known = store.read(0, np.arange(10))
    assert known.tolist() == [row != 4 for row in range(10)]
    teacher = CachedTeacher(live(problem), store)
    with torch.no_grad():
        assert torch.allclose(ask(teacher, range(10)), network().eval()(problem.inputs[:10]), atol=1e-2)
    assert store.read(0, np.arange(10))[1].all()


def test_swapped_values_do_not_pass_for_the_row(tmp_path):
    store = Store(tmp_path, "k", 2, 4)
    store.write(0, np.array([0]), np.array([[1.0, 2.0, 3.0, 4.0]]))
    values, _ = store._open(0)
    values[0] = values[0][[1, 0, 2, 3]]
    assert not store.read(0, np.array([0]))[1][0]


def test_values_beyond_half_precision_are_clipped_not_infinite(tmp_path):
    store = Store(tmp_path, "k", 1, 2)
    store.write(0, np.array([0]), np.array([[1e6, -1e6]]))
    assert np.isfinite(store.read(0, np.array([0]))[0]).all()


def test_the_cache_makes_room_by_dropping_what_was_not_used_for_longest(tmp_path):
    import os

    for number, name in enumerate(["old", "middle"]):
        Store(tmp_path, name, 1000, 10).write(0, np.array([0]), np.zeros((1, 10)))
        os.utime(tmp_path / "answers" / name, (1000 + number, 1000 + number))
    size = folder_bytes(tmp_path / "answers/old")
    Store(tmp_path, "new", 1000, 10, max_bytes=int(2.5 * size)).write(0, np.array([0]), np.zeros((1, 10)))
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == ["middle", "new"]


def test_a_cache_that_is_too_small_for_one_job_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RunError, match=r"cache.max_bytes"):
        Store(tmp_path, "k", 1000, 10, max_bytes=100).write(0, np.array([0]), np.zeros((1, 10)))


def test_a_table_answers_for_the_samples_it_covers():
    teacher = TableTeacher(torch.tensor([1, -1, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert teacher.covers(torch.tensor([0, 1, 2])).tolist() == [True, False, True]
    assert ask(teacher, [0, 2]).tolist() == [[3.0, 4.0], [1.0, 2.0]]
    assert teacher.forwards == 0


def test_the_teachers_hash_sees_weights_buffers_classes_and_what_no_state_dict_tells():
    base = key.hash_teacher(network(batchnorm=True), (6,))
    assert key.hash_teacher(network(batchnorm=True), (6,)) == base
    weights = network(batchnorm=True)
    with torch.no_grad():
        weights[0].weight[0, 0] += 1e-6
    buffers = network(batchnorm=True)
    buffers[1].running_mean += 1e-6
    slope = network(batchnorm=True)
    slope[2] = nn.LeakyReLU(0.2)  # no parameter, no buffer: only the outputs on the probes differ
    assert len({base, *(key.hash_teacher(module, (6,)) for module in (weights, buffers, slope))}) == 4


def test_a_key_does_not_depend_on_the_order_of_its_parts():
    assert key.combine({"a": 1, "b": {"x": 2, "y": 3}}) == key.combine({"b": {"y": 3, "x": 2}, "a": 1})
    assert key.combine({"a": 1}) != key.combine({"a": 2})
