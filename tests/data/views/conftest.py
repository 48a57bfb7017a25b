"""torchvision's functions on single pictures, which ours on batches are compared with."""

import importlib

import pytest

from transfuse.core.vision import import_torchvision


@pytest.fixture(scope="session")
def functional():
    import_torchvision()
    return importlib.import_module("torchvision.transforms.v2.functional")
