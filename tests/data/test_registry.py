"""A data source is a file with two functions; the list of what there is needs no list to edit."""

import subprocess
import sys

import pytest

from transfuse import data
from transfuse.core.types import DataRequest
from transfuse.errors import DataError


def test_every_name_is_a_source_that_opens_and_lists():
    assert {"arrays", "bundled", "idx", "images", "torchvision"} <= set(data.names())
    for name in data.names():
        module = data.registry.module(name)
        assert callable(module.open_data)
        assert module.catalog()


def test_the_catalog_says_what_there_is_in_a_line_each():
    lines = data.catalog()
    assert lines["bundled:digits"] == "1,797 8x8 greyscale digits, 10 classes"
    assert all(":" in source and line and "\n" not in line for source, line in lines.items())


def test_listing_names_imports_no_torch():
    code = "import sys; from transfuse import data; data.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_source_is_suggested():
    with pytest.raises(DataError, match="did you mean 'images'"):
        data.open_data("image:./photos", DataRequest())
