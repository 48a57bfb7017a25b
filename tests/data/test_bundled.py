"""The bundled sets are scikit-learn's, unchanged but for the digits' grey levels."""

import numpy as np
import pytest
from sklearn import datasets

from transfuse import data
from transfuse.core.types import DataRequest
from transfuse.data.bundled import catalog, open_data
from transfuse.data.check import check
from transfuse.errors import DataError


def test_digits_are_8_bit_pictures_of_one_channel():
    parts = open_data("digits", DataRequest())
    raw = parts.train.raw(range(len(parts.train)))
    assert raw.shape == (1797, 1, 8, 8)
    reference = datasets.load_digits()
    levels = np.asarray(raw[:, 0]).astype(float) * 16 / 255
    assert np.array_equal(np.round(levels), reference.images)  # nothing of the 17 levels is lost
    assert raw.max() == 255
    assert parts.train.labels.tolist() == reference.target.tolist()
    assert parts.classes == [str(number) for number in range(10)]


@pytest.mark.parametrize(
    ("name", "task", "outputs", "columns"),
    [("wine", "classification", 3, 13), ("breast_cancer", "classification", 2, 30), ("diabetes", "regression", 1, 10)],
)
def test_tables_keep_their_columns_and_task(name, task, outputs, columns):
    dataset = data.open_data(f"bundled:{name}", DataRequest())
    assert dataset.task == task
    assert dataset.outputs == outputs
    assert dataset.input_shape == (columns,)
    assert not check(dataset)
    bunch = getattr(datasets, f"load_{name}")()
    rows = dataset.train.ids
    assert np.allclose(dataset.train.raw(range(len(rows))).numpy(), bunch.data[rows].astype(np.float32))
    assert np.allclose(dataset.train.labels.numpy().reshape(-1), bunch.target[rows])


def test_every_set_of_the_catalog_opens_with_the_stated_number_of_samples():
    for name, line in catalog().items():
        parts = open_data(name, DataRequest())
        assert int(line.split()[0].replace(",", "")) == len(parts.train)


def test_an_unknown_name_is_suggested():
    with pytest.raises(DataError, match="did you mean 'digits'"):
        open_data("digit", DataRequest())
