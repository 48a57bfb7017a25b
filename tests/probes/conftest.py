"""Small problems that heads are fitted to."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from transfuse.probes.problem import Problem


@pytest.fixture(scope="session")
def digits():
    """240 training and 200 other rows of pooled digits in four classes: (problem, features, labels)."""
    bunch = load_digits(n_class=4)
    features = bunch.data.astype(np.float32) / 16
    return Problem(features[:240], bunch.target[:240].astype(np.int64), "classification", 4), features[240:440], bunch.target[240:440]


@pytest.fixture(scope="session")
def several(digits):
    """The same pictures, labelled as even and as more than 1."""
    problem, features, labels = digits

    def marks(numbers):
        return np.stack([numbers % 2 == 0, numbers > 1], axis=1).astype(np.float32)

    return Problem(problem.features, marks(problem.labels), "multilabel", 2), features, marks(labels)


@pytest.fixture(scope="session")
def diabetes():
    """Two targets of the diabetes table, standardised."""
    features, target = load_diabetes(return_X_y=True)
    target = (target - target.mean()) / target.std()
    both = np.stack([target, features[:, 2] / features[:, 2].std()], axis=1).astype(np.float32)
    columns = np.delete(features, 2, axis=1).astype(np.float32) * 20
    return Problem(columns[:300], both[:300], "regression", 2), columns[300:], both[300:]


@pytest.fixture
def rows():
    """Rows of a module's outputs, as float64."""
    from transfuse.probes.assembly import outputs_of

    return outputs_of
