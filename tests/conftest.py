"""Makes the tests importable as a package from the repository root (`tests.reference`), however pytest is started."""

import jaxtyping
import pytest


@pytest.fixture
def without_runtime_types():
    """Calls as users make them: without the runtime shape checks of the tests, which would refuse wrong shapes first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
