"""Two data sets become comparable by name, size and colour, or are refused with what differs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from transfuse import data
from transfuse.core.types import DataRequest
from transfuse.data.check import check
from transfuse.data.domains import common_side, paired, training_pools
from transfuse.errors import DataError

RANDOM = np.random.default_rng(0)


def pictures(side=8, channels=1, names=("a", "b", "c"), seed=0, tmp_path=None, **request):
    random = np.random.default_rng(seed)
    inputs, labels = random.integers(0, 256, (60, side, side, channels), dtype=np.uint8), np.arange(60) % len(names)
    path = tmp_path / f"set{seed}.npz"
    np.savez(path, x_train=inputs[:40], y_train=labels[:40], x_test=inputs[40:], y_test=labels[40:], classes=np.array(names))
    return data.open_data(f"arrays:{path}", DataRequest(**request))


def test_the_targets_labels_are_renumbered_by_name(tmp_path):
    source, target = pictures(tmp_path=tmp_path), pictures(tmp_path=tmp_path, names=("c", "a", "b"), seed=1)
    _, changed, notes = paired(source, target)
    assert changed.classes == ["a", "b", "c"]
    for before, after in ((target.train, changed.train), (target.val, changed.val), (target.test, changed.test)):
        assert ["cab"[label] for label in before.labels] == ["abc"[label] for label in after.labels]
        assert torch.equal(before.raw([3]), after.raw([3]))
    assert any("another order" in note for note in notes)


def test_columns_of_several_labels_and_of_targets_follow_their_names():
    tables = [RANDOM.normal(size=(40, 4)) for _ in range(2)]
    labels = [RANDOM.integers(0, 2, (40, 3)) for _ in range(2)]
    source, target = (data.open_data(pair, DataRequest()) for pair in zip(tables, labels, strict=True))
    source, target = replace(source, classes=["x", "y", "z"]), replace(target, classes=["z", "x", "y"])
    _, changed, _ = paired(source, target)
    assert torch.equal(changed.test.labels, target.test.labels[:, [1, 2, 0]])


def test_a_missing_label_stays_missing(tmp_path):
    source, target = pictures(tmp_path=tmp_path), pictures(tmp_path=tmp_path, names=("b", "c", "a"), seed=1, labels_per_class=2)
    _, changed, _ = paired(source, target)
    _, pool = training_pools(source, changed, target_labels=True)
    assert (pool.labels >= 0).sum() == 6
    _, pool = training_pools(source, changed, target_labels=False)
    assert (pool.labels == -1).all()
    assert len(pool) == len(target.train) + len(target.unlabelled)


def test_grey_pictures_beside_coloured_ones_become_coloured(tmp_path):
    for channels in ((1, 3), (3, 1)):
        source, target = (pictures(tmp_path=tmp_path, channels=count, seed=seed) for seed, count in enumerate(channels))
        first, second, notes = paired(source, target)
        assert first.input_shape == second.input_shape == first.train.raw([0]).shape[1:] == (3, 8, 8)
        grey, before = (first, source) if channels[0] == 1 else (second, target)
        assert torch.equal(grey.test.raw([1, 2]), before.test.raw([1, 2]).expand(-1, 3, -1, -1))
        assert grey.test.raw([1]).dtype == torch.uint8
        assert second.test.exact([0], second.preprocess).shape == first.train.exact([0], first.preprocess).shape == (1, 3, 8, 8)
        assert len(notes) == 1
        assert first.train.fingerprint != second.train.fingerprint


def test_both_domains_get_the_sources_normalisation_and_nothing_of_the_targets(tmp_path):
    source, target = pictures(tmp_path=tmp_path), pictures(tmp_path=tmp_path, seed=1)
    first, second, _ = paired(source, target)
    assert first.preprocess == second.preprocess == source.preprocess


def test_pictures_of_other_sizes_are_held_at_the_longest_side(tmp_path):
    assert common_side([pictures(8, tmp_path=tmp_path), pictures(12, tmp_path=tmp_path, seed=1)]) == 12
    assert common_side([pictures(8, tmp_path=tmp_path), pictures(8, channels=3, tmp_path=tmp_path, seed=1)]) is None


def test_other_classes_are_refused_and_shown(tmp_path):
    source, target = (
        pictures(tmp_path=tmp_path, names=("ant", "bee", "cat")),
        pictures(tmp_path=tmp_path, names=("ant", "bees", "dog"), seed=1),
    )
    with pytest.raises(DataError, match=r"only in the source: bee, cat; only in the target: bees, dog") as caught:
        paired(source, target)
    assert "did you mean 'bee'" in str(caught.value)


def test_what_can_not_be_one_data_set_is_refused(tmp_path):
    grey = pictures(tmp_path=tmp_path)
    table = data.open_data((RANDOM.normal(size=(40, 4)), np.arange(40) % 3), DataRequest())
    wider = data.open_data((RANDOM.normal(size=(40, 5)), np.arange(40) % 3), DataRequest())
    floats = data.open_data((RANDOM.normal(size=(40, 1, 8, 8)), np.arange(40) % 3), DataRequest())
    amounts = data.open_data((RANDOM.normal(size=(40, 4)), RANDOM.normal(size=40)), DataRequest())
    for source, target, words in (
        (grey, replace(table, classes=grey.classes), "inputs are image, the target's columns"),
        (table, amounts, "task is classification, the target's regression"),
        (table, wider, r"\(4,\), the target's \(5,\)"),
        (grey, replace(floats, classes=grey.classes), "8-bit numbers, the target's floats"),
        (table, table, "the same samples"),
        (grey, pictures(12, tmp_path=tmp_path, seed=1), "pictures of one size"),
    ):
        with pytest.raises(DataError, match=words):
            paired(source, target)


def test_a_training_part_without_any_label_beside_a_labelled_test_part(tmp_path):
    inputs, labels = RANDOM.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "t.npz", x_train=inputs[:40], y_train=np.full(40, -1), x_test=inputs[40:], y_test=labels[40:])
    with pytest.raises(DataError, match="no sample has a label"):
        data.open_data(f"arrays:{tmp_path / 't.npz'}", DataRequest())
    opened = data.open_data(f"arrays:{tmp_path / 't.npz'}", DataRequest(train_labels=False, val=0.3))
    assert len(opened.train) == 40
    assert len(opened.val) + len(opened.test) == 20
    assert (opened.train.labels == -1).all()
    assert check(opened, train_labels=False) == []
    np.savez(tmp_path / "u.npz", x_train=inputs[:40], y_train=np.full(40, -1))
    with pytest.raises(DataError, match=r"no sample of any part has a label[\s\S]*report"):
        data.open_data(f"arrays:{tmp_path / 'u.npz'}", DataRequest(train_labels=False))
