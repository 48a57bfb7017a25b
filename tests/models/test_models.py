"""The sources as one room: names, catalogue, search, and what is said about unknown strings."""

import subprocess
import sys

import pytest

from transfuse import models
from transfuse.core.types import ModelRequest
from transfuse.errors import MissingExtra, ModelError


def test_every_source_is_found_by_its_file():
    assert {"builtin", "file", "predictions", "run", "timm", "torchvision"} <= set(models.names())
    assert "mlp" not in models.names()


def test_the_catalogue_names_what_can_be_opened():
    lines = models.catalog()
    assert lines["builtin:resnet20"].startswith("269,722 parameters")
    assert {"torchvision:resnet18", "timm:resnet18", "file:PATH", "run:PATH", "predictions:FILE"} <= set(lines)
    assert all("\n" not in line for line in lines.values())


def test_search_wants_every_word():
    found = models.search("CIFAR wide")
    assert {"builtin:wrn_16_1", "builtin:resnet8x4"} <= set(found)
    assert "builtin:resnet20" not in found
    assert models.search("nothing-like-this") == {}


def test_a_missing_package_only_empties_its_own_source(monkeypatch):
    def missing():
        raise MissingExtra("timm", "vision", "a timm: model")

    monkeypatch.setattr("transfuse.models.timm._timm", missing)
    models.registry.module("timm").catalog.cache_clear()
    lines = models.catalog()
    assert "transfuse[vision]" in lines["timm:NAME"]
    assert "builtin:resnet20" in lines


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tim:resnet18", "did you mean 'timm'"),
        ("resnet20", "write builtin:resnet20"),
        ("vit_b_16", "write torchvision:vit_b_16"),
        ("timm", "write timm:NAME"),
        ("builtin:", "write builtin:NAME"),
        ("nonsense", "write one of"),
    ],
)
def test_strings_that_name_no_model_are_refused_with_a_suggestion(source, message):
    with pytest.raises(ModelError, match=message):
        models.open_model(source, ModelRequest())


def test_a_path_without_its_prefix_is_recognised(tmp_path):
    (tmp_path / "x.pth").touch()
    with pytest.raises(ModelError, match="write file:"):
        models.open_model(str(tmp_path / "x.pth"), ModelRequest())


def test_listing_the_sources_imports_no_torch():
    code = "import sys, transfuse.models as m; m.names(); m.registry.summaries(); assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
