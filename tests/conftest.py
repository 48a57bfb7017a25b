"""Makes the tests importable as a package from the repository root (`tests.reference`), and finds real data where it is at hand."""

import os
import signal

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before a GPU's first product, as jobs set it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the tests run side by side, one process a core

import jaxtyping
import pytest
from benchmarks import data

# a shell's background job ignores Ctrl-C, and so would every run that the tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def test_data():
    """benchmarks/data.py; tests that ask for it are skipped where the test data is absent."""
    reason = data.requires_test_data()
    if reason:
        pytest.skip(reason)
    return data


@pytest.fixture
def without_runtime_types():
    """Calls as users make them: without the runtime shape checks of the tests, which would refuse wrong shapes first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
