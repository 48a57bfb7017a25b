"""Whatever the source, parts are split, budgeted and measured the same way, on the training part alone."""

import numpy as np
import pytest
import torch

from transfuse.core.types import DataParts, DataRequest
from transfuse.data.assemble import assemble, read
from transfuse.data.samples import ArraySamples
from transfuse.errors import DataError


def part(labels, name="", seed=0, columns=3):
    labels = torch.as_tensor(labels)
    inputs = torch.randn(len(labels), columns, generator=torch.Generator().manual_seed(seed))
    return ArraySamples(inputs, labels, np.array([f"{name}{row}" for row in range(len(labels))]))


def classes(train, **parts):
    return DataParts(train, "classification", "columns", classes=["a", "b"], **parts)


def two_classes(count):
    return [0, 1] * (count // 2)


def ids(samples):
    return set(samples.ids.tolist())


def test_parts_of_one_pool_are_disjoint_complete_and_of_the_asked_for_size():
    dataset = assemble(classes(part(two_classes(200))), DataRequest(val=0.1, test=0.2), "x")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (144, 16, 40)
    assert len(ids(dataset.train) | ids(dataset.val) | ids(dataset.test)) == 200
    for samples in (dataset.train, dataset.val, dataset.test):
        assert (samples.labels == 0).float().mean() == 0.5
    assert dataset.unlabelled is None
    assert dataset.outputs == 2
    assert dataset.input_shape == (3,)
    assert dataset.source == "x"
    assert any("40 samples held out" in note for note in dataset.notes)
    assert any("16 samples carved" in note for note in dataset.notes)


def test_the_split_is_a_function_of_its_seed():
    def of(seed):
        return assemble(classes(part(two_classes(100))), DataRequest(split_seed=seed), "x")

    assert of(0).test.fingerprint == of(0).test.fingerprint
    assert ids(of(0).test) != ids(of(1).test)


def test_the_sources_own_parts_are_kept():
    train, val, test = part(two_classes(50)), part(two_classes(10), "v", 1), part(two_classes(20), "t", 2)
    dataset = assemble(classes(train, val=val, test=test), DataRequest(), "x")
    assert (ids(dataset.train), ids(dataset.val), ids(dataset.test)) == (ids(train), ids(val), ids(test))
    assert not dataset.notes


def test_with_a_test_part_only_validation_is_carved_from_train():
    test = part(two_classes(20), "t", 2)
    dataset = assemble(classes(part(two_classes(100)), test=test), DataRequest(val=0.2), "x")
    assert ids(dataset.test) == ids(test)
    assert (len(dataset.train), len(dataset.val)) == (80, 20)
    assert ids(dataset.val) <= ids(part(two_classes(100)))


def test_without_a_test_part_the_validation_part_becomes_test_said_aloud():
    val = part(two_classes(20), "v", 2)
    dataset = assemble(classes(part(two_classes(100)), val=val), DataRequest(), "x")
    assert ids(dataset.test) == ids(val)
    assert len(dataset.val) == 10
    assert any("validation part became test" in note for note in dataset.notes)


def test_samples_without_labels_become_unlabelled_and_never_val_or_test():
    labels = two_classes(100) + [-1] * 40
    dataset = assemble(classes(part(labels)), DataRequest(), "x")
    assert dataset.unlabelled is not None
    assert len(dataset.unlabelled) == 40
    assert (dataset.unlabelled.labels == -1).all()
    for samples in (dataset.train, dataset.val, dataset.test):
        assert (samples.labels >= 0).all()


def test_unlabelled_rows_of_val_and_test_are_left_out_said_aloud():
    val, test = part([-1] * 6, "v"), part([0, 1, -1, -1], "t")
    dataset = assemble(classes(part(two_classes(100)), val=val, test=test), DataRequest(), "x")
    assert len(dataset.test) == 2
    assert not ids(dataset.val) & ids(val)
    assert sum("have no label and are left out" in note for note in dataset.notes) == 2
    assert dataset.unlabelled is None


def test_a_label_budget_moves_the_rest_to_unlabelled_without_its_labels():
    spare = part([-1] * 7, "u", 5)
    dataset = assemble(classes(part(two_classes(100)), unlabelled=spare), DataRequest(labels_per_class=4), "x")
    assert torch.bincount(dataset.train.labels).tolist() == [4, 4]
    assert dataset.unlabelled is not None
    assert len(dataset.unlabelled) == 72 - 8 + 7
    assert (dataset.unlabelled.labels == -1).all()
    assert not ids(dataset.unlabelled) & (ids(dataset.train) | ids(dataset.val) | ids(dataset.test))
    full = assemble(classes(part(two_classes(100)), unlabelled=spare), DataRequest(), "x")
    assert ids(full.test) == ids(dataset.test)
    assert ids(full.val) == ids(dataset.val)
    assert full.preprocess == dataset.preprocess  # statistics use inputs, which a label budget does not take away


def test_a_budget_larger_than_a_class_says_so():
    dataset = assemble(classes(part([0] * 40 + [1] * 5)), DataRequest(labels_per_class=10), "x")
    assert any("fewer than 10 labels" in note and "b" in note for note in dataset.notes)


def test_a_budget_needs_classes():
    parts = DataParts(part(torch.randn(50, 1)), "regression", "columns", targets=["y"])
    with pytest.raises(DataError, match=r"data\.labels_per_class"):
        assemble(parts, DataRequest(labels_per_class=3), "x")


def test_statistics_come_from_the_training_part_alone():
    parts = classes(part(two_classes(100) + [-1] * 30), test=part(two_classes(20), "t", 9))
    dataset = assemble(parts, DataRequest(), "x")
    assert dataset.unlabelled is not None
    pool = torch.cat([dataset.train.raw(range(90)), dataset.unlabelled.raw(range(30))]).double()
    assert dataset.preprocess.mean == pytest.approx(pool.mean(0).tolist())
    assert dataset.preprocess.std == pytest.approx(pool.std(0, correction=0).tolist())


def test_regression_keeps_original_units_and_scales_by_train():
    labels = torch.arange(100.0)[:, None] * 10 + 500
    dataset = assemble(DataParts(part(labels), "regression", "columns", targets=["price"]), DataRequest(), "x")
    assert dataset.target is not None
    assert dataset.target.names == ["price"]
    assert dataset.target.mean == pytest.approx([float(dataset.train.labels.mean())])
    assert dataset.target.std == pytest.approx([float(dataset.train.labels.std(correction=0))])
    assert float(dataset.train.labels.min()) >= 500
    assert dataset.outputs == 1
    thirds = torch.bucketize(dataset.test.labels[:, 0], torch.tensor([833.0, 1166.0]))
    assert torch.bincount(thirds).min() >= 5  # stratified: 20 test samples, all over the range


def test_more_unlabelled_inputs_come_from_another_source_without_its_labels_and_held_out_parts():
    train = np.random.default_rng(0).normal(size=(60, 3))
    more = np.random.default_rng(1).normal(size=(25, 3))
    request = DataRequest(unlabelled={"train": (more, np.zeros(25, dtype=int)), "test": (more[:5] + 1, np.zeros(5, dtype=int))})
    dataset = assemble(read((train, np.array(two_classes(60))), request), request, "live")
    assert dataset.unlabelled is not None
    assert len(dataset.unlabelled) == 25
    assert (dataset.unlabelled.labels == -1).all()
    assert np.allclose(dataset.unlabelled.raw(range(25)).numpy(), more)
    assert any("left out" in note for note in dataset.notes)


def test_unlabelled_ids_that_clash_are_made_distinct():
    request = DataRequest(unlabelled=np.zeros((5, 3)) + 0.5)
    dataset = assemble(read((np.random.default_rng(0).normal(size=(60, 3)), np.array(two_classes(60))), request), request, "live")
    assert dataset.unlabelled is not None
    assert dataset.unlabelled.ids.tolist() == [f"unlabelled/{row}" for row in range(5)]


@pytest.mark.parametrize("labels", [torch.randn(60, 1), torch.ones(60, 2)], ids=["regression", "multilabel"])
def test_unlabelled_inputs_get_empty_labels_in_the_form_of_the_task(labels):
    request = DataRequest(unlabelled=np.zeros((5, 3)) + 0.5)
    task = "regression" if labels.shape[1] == 1 else "multilabel"
    dataset = assemble(DataParts(part(labels, "r"), task, "columns", classes=["a", "b"], targets=["y"]), request, "x")
    assert dataset.unlabelled is not None
    assert dataset.unlabelled.labels.shape == (5, labels.shape[1])
    assert dataset.unlabelled.labels.isnan().all()


def test_unlabelled_inputs_of_another_shape_are_refused_where_they_were_asked_for():
    request = DataRequest(unlabelled=np.zeros((5, 4)))
    with pytest.raises(DataError, match=r"^data\.unlabelled"):
        assemble(classes(part(two_classes(60))), request, "x")


def test_no_labels_at_all_is_refused():
    with pytest.raises(DataError, match="no sample has a label"):
        assemble(classes(part([-1] * 30)), DataRequest(), "x")


def test_two_samples_of_one_id_are_refused():
    with pytest.raises(DataError, match="two samples have the id 't0'"):
        assemble(classes(part(two_classes(30), "t"), test=part(two_classes(4), "t")), DataRequest(), "x")


def test_parts_of_different_inputs_are_refused():
    with pytest.raises(DataError, match="test part's inputs"):
        assemble(classes(part(two_classes(30)), test=part(two_classes(4), "t", columns=2)), DataRequest(), "x")


def test_too_few_samples_to_split_are_refused():
    with pytest.raises(DataError, match="can't be split"):
        assemble(classes(part([0, 1])), DataRequest(), "x")


@pytest.mark.parametrize(
    ("source", "message"),
    [("digits", "KIND:digits"), ("bundeld:digits", "did you mean 'bundled'"), ("", "KIND:NAME"), ("nothing:x", "unknown data source")],
)
def test_a_string_that_names_no_source_is_explained(source, message):
    with pytest.raises(DataError) as caught:
        read(source, DataRequest())
    assert message in str(caught.value)


def test_a_bare_path_is_told_its_prefix(tmp_path):
    with pytest.raises(DataError, match="write images:"):
        read(str(tmp_path), DataRequest())
    with pytest.raises(DataError, match="write arrays:"):
        read("some/file.npz", DataRequest())
