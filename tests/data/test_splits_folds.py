"""Folds of the training part: stratified, disjoint, a function of the seed; what stands in the test part's place."""

import numpy as np
import pytest
import torch

from transfuse.core.types import DataRequest
from transfuse.data import open_data
from transfuse.data.splits import folds, refuse_single
from transfuse.errors import DataError


@pytest.mark.parametrize("count", [2, 3, 7])
def test_classes_and_folds_are_as_even_as_they_go(count):
    groups = np.repeat([4, 0, 2], [23, 10, 7])
    found = folds(groups, count, 5, "test")
    assert set(found) == set(range(count))
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 1
    for group in (0, 2, 4):
        held = np.bincount(found[groups == group], minlength=count)
        assert held.max() - held.min() <= 1


def test_they_are_a_function_of_seed_and_purpose():
    groups = np.arange(60) % 3
    assert (folds(groups, 5, 1, "a") == folds(groups, 5, 1, "a")).all()
    assert (folds(groups, 5, 1, "a") != folds(groups, 5, 2, "a")).any()
    assert (folds(groups, 5, 1, "a") != folds(groups, 5, 1, "b")).any()


@pytest.mark.parametrize(("samples", "count"), [(3, 4), (5, 1), (0, 2)])
def test_what_can_not_be_dealt_is_refused(samples, count):
    with pytest.raises(DataError, match=f"{samples} samples can't be put into {count} fold"):
        folds(np.zeros(samples, int), count, 0, "test")


def test_a_class_with_a_single_sample_is_named():
    with pytest.raises(DataError, match=r"single training sample: bee.*nothing of its class is left to learn from") as caught:
        refuse_single(np.array([0, 0, 1, 2, 2, -1]), ["ant", "bee", "fly"], "validate.folds")
    assert "validate.folds" in str(caught.value)
    refuse_single(np.array([0, 0, 2, 2]), ["ant", "bee", "fly"], "validate.folds")


def test_every_training_sample_is_held_out_once_and_the_test_part_never_seen():
    plain = open_data("bundled:digits", DataRequest())
    parts = [open_data("bundled:digits", DataRequest(fold=(number, 4))) for number in range(1, 5)]
    held = [str(name) for part in parts for name in part.test.ids]
    assert sorted(held) == sorted(map(str, plain.train.ids))
    tested = set(map(str, plain.test.ids))
    for part in parts:
        seen = {str(name) for samples in (part.train, part.val, part.test) for name in samples.ids}
        assert not seen & tested
        assert list(part.val.ids) == list(plain.val.ids)
        assert not set(map(str, part.train.ids)) & set(map(str, part.test.ids))
        assert any("test part's place" in note for note in part.notes)


def test_statistics_are_those_of_the_samples_that_are_learnt_from():
    part = open_data("bundled:diabetes", DataRequest(fold=(2, 3)))
    raw = part.train.raw(torch.arange(len(part.train)))
    assert part.preprocess.mean == pytest.approx(raw.double().mean(0).tolist(), rel=1e-5)
    assert part.target.mean == pytest.approx(part.train.labels.double().mean(0).tolist(), rel=1e-5)


def test_a_label_budget_is_spent_before_folds_are_dealt():
    part = open_data("bundled:digits", DataRequest(labels_per_class=6, fold=(1, 3)))
    assert len(part.test) == 20
    assert np.bincount(part.train.labels.numpy()).tolist() == [4] * 10
    with pytest.raises(DataError, match="single training sample"):
        open_data("bundled:digits", DataRequest(labels_per_class=1, fold=(1, 3)))
