"""`bundled:NAME`: four small real data sets that come with scikit-learn, so that everything can be tried without a network."""

from __future__ import annotations

import numpy as np

from transfuse.core.registry import did_you_mean
from transfuse.core.types import DataParts, DataRequest
from transfuse.data.array_parts import ArrayPart, parts_of_arrays
from transfuse.errors import DataError


def catalog() -> dict[str, str]:
    """Name -> one line."""
    return {
        "digits": "1,797 8x8 greyscale digits, 10 classes",
        "wine": "178 wines, 13 columns of chemistry, 3 classes",
        "breast_cancer": "569 tumours, 30 columns of measurements, 2 classes",
        "diabetes": "442 patients, 10 columns, regression of disease progression after a year",
    }


def open_data(name: str, request: DataRequest) -> DataParts:
    """Reads one of scikit-learn's own data sets.

    Digits have 17 grey levels, 0 to 16; they are held as round(level * 255 / 16).

    Args:
        name: digits, wine, breast_cancer or diabetes.
        request: gives task and picture size.

    Raises:
        DataError: another name.
    """
    if name not in catalog():
        hint = did_you_mean(name, catalog())
        raise DataError(f"there is no bundled '{name}'{hint}", where=f"bundled:{name}", fix=f"known: {', '.join(catalog())}")
    from sklearn import datasets

    loaders = {
        "digits": datasets.load_digits,
        "wine": datasets.load_wine,
        "breast_cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
    }
    bunch = loaders[name]()
    if name == "digits":
        inputs = np.round(bunch.images * 255 / 16).astype(np.uint8)
    else:
        inputs = bunch.data
    classes = [str(entry) for entry in bunch.target_names] if "target_names" in bunch else None
    return parts_of_arrays({"train": ArrayPart(inputs, bunch.target)}, request, classes, targets=["disease_progression"])
