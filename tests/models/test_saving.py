"""What is saved opens again with the same bits, whole or not at all."""

import json
import os
import stat

import pytest
import torch
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Model, ModelRequest, Target
from transfuse.errors import ModelError
from transfuse.models import fit_to_classes, open_model, save_model

SOURCES = [
    ("builtin:resnet8x4", {"width": 0.25}, (1, 16, 16)),
    ("builtin:mlp", {"widths": [5], "dropout": 0.1}, (4,)),
    ("builtin:mobilenetv1", {"width": 0.25, "norm": "folded"}, (3, 64, 64)),
    ("timm:resnet10t", {"drop_path_rate": 0.1}, (1, 64, 64)),
    ("torchvision:squeezenet1_1", {"dropout": 0.2}, (3, 64, 64)),
    ("torchvision:googlenet", {}, (3, 96, 96)),
]


@pytest.mark.parametrize(("source", "options", "shape"), SOURCES, ids=[row[0] for row in SOURCES])
def test_a_saved_model_opens_again_with_the_same_bits(tmp_path, source, options, shape):
    model = open_model(source, ModelRequest(outputs=3, input_shape=shape, options=options, seed=7))
    model.classes = ["a", "b", "ü"]
    model.preprocess = Preprocess(size=(8, 8), mean=(0.1,), std=(0.3,), scale=1 / 255)
    save_model(model, tmp_path / "m.safetensors", {"trained_on": "x"})
    again = open_model(f"file:{tmp_path}/m.safetensors", ModelRequest())
    inputs = torch.rand(2, *shape)
    with torch.no_grad():
        assert torch.equal(model.network(inputs), again.network(inputs))
    assert (again.architecture, again.options, again.preprocess, again.classes) == (
        model.architecture,
        model.options,
        model.preprocess,
        model.classes,
    )
    assert again.pretrained
    assert not again.network.training
    assert json.loads((tmp_path / "m.json").read_text())["trained_on"] == "x"


def test_regression_targets_travel(tmp_path):
    model = open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(3,)))
    model.target = Target(["y"], [152.1], [77.0])
    save_model(model, tmp_path / "m.safetensors", {})
    assert open_model(f"file:{tmp_path}/m.safetensors", ModelRequest()).target == model.target


def test_selected_outputs_travel(tmp_path):
    model = open_model("builtin:mlp", ModelRequest(outputs=4, input_shape=(3,)))
    chosen = fit_to_classes(model, ["x", "y"], {"x": 3, "y": 1})
    save_model(chosen, tmp_path / "m.safetensors", {})
    again = open_model(f"file:{tmp_path}/m.safetensors", ModelRequest())
    inputs = torch.rand(5, 3)
    assert torch.equal(again.network(inputs), model.network(inputs)[:, [3, 1]])
    assert again.classes == ["x", "y"]
    assert open_model(f"file:{tmp_path}/m.safetensors", ModelRequest(outputs=6)).network(inputs).shape == (5, 6)


def test_a_single_logit_keeps_the_names_of_its_two_classes_in_their_order(tmp_path):
    model = open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(3,)))
    model.classes = ["yes", "no"]
    save_model(model, tmp_path / "m.safetensors", {})
    again = open_model(f"file:{tmp_path}/m.safetensors", ModelRequest())
    assert again.classes == ["yes", "no"]
    inputs = torch.rand(5, 3)
    assert torch.equal(fit_to_classes(again, ["no", "yes"], None).network(inputs), -model.network(inputs))


def test_a_negated_logit_is_not_written_as_the_plain_network_that_it_is_not(tmp_path):
    model = open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(3,)))
    model.classes = ["yes", "no"]
    save_model(fit_to_classes(model, ["no", "yes"], None), tmp_path / "m.safetensors", {})
    with pytest.raises(ModelError, match="doesn't say which network it belongs to"):
        open_model(f"file:{tmp_path}/m.safetensors", ModelRequest())


def test_a_live_model_is_saved_and_says_how_to_open_it(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight

    save_model(open_model(Tied(), ModelRequest()), tmp_path / "m.safetensors", {})
    with pytest.raises(ModelError, match=r"rebuild Tied in Python and use transfuse\.models\.load_weights"):
        open_model(f"file:{tmp_path}/m.safetensors", ModelRequest())


def test_files_have_the_usual_permissions_and_leave_no_temporary(tmp_path):
    save_model(open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(3,))), tmp_path / "deep" / "m.safetensors", {})
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "deep").iterdir()}
    assert modes == {stat.S_IMODE((tmp_path / "plain").stat().st_mode)}
    assert sorted(os.listdir(tmp_path / "deep")) == ["m.json", "m.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model = open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(3,)))
    save_model(model, tmp_path / "m.safetensors", {})
    before = (tmp_path / "m.safetensors").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left"):
        save_model(open_model("builtin:mlp", ModelRequest(outputs=2, input_shape=(3,))), tmp_path / "m.safetensors", {})
    assert (tmp_path / "m.safetensors").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["m.json", "m.safetensors"]


def test_what_can_not_be_saved_is_refused(tmp_path):
    model = open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(3,)))
    with pytest.raises(ModelError, match=r"\.safetensors"):
        save_model(model, tmp_path / "m.pt", {})
    with pytest.raises(ModelError, match="table of predictions"):
        save_model(Model(None, "predictions:x"), tmp_path / "m.safetensors", {})
    with pytest.raises(ValueError, match="classes"):
        save_model(model, tmp_path / "m.safetensors", {"classes": []})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"preprocess": {"sizes": 3}}', '{"format": 99}'])
def test_a_damaged_description_is_named(tmp_path, text):
    save_model(open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(3,))), tmp_path / "m.safetensors", {})
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ModelError):
        open_model(f"file:{tmp_path}/m.safetensors", ModelRequest())


def test_weights_are_never_there_without_what_says_how_to_open_them(tmp_path):
    """Whoever finds the weights of a killed run takes them for whole."""
    (tmp_path / "m.json").mkdir()  # can't be replaced by a file
    with pytest.raises(ModelError, match="can't write"):
        save_model(open_model("builtin:mlp", ModelRequest(outputs=3, input_shape=(4,))), tmp_path / "m.safetensors", {})
    assert not (tmp_path / "m.safetensors").exists()
