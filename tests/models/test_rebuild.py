"""What nobody has said is read from the weights."""

import pytest
import torch

from transfuse.core.types import ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.models import open_model, save_model
from transfuse.models.rebuild import rebuild


def test_outputs_and_channels_are_the_weights_own():
    network = open_model("builtin:convnet", ModelRequest(outputs=23, input_shape=(5, 16, 16), seed=2)).network
    model = rebuild("builtin:convnet", dict(network.state_dict()), ModelRequest(), "x")
    inputs = torch.rand(2, 5, 16, 16)
    assert torch.equal(model.network(inputs), network(inputs))
    assert (model.options["outputs"], model.options["input_shape"]) == (23, [5, 32, 32])


def test_a_new_head_is_told_from_what_was_trained():
    state = dict(open_model("builtin:convnet", ModelRequest(outputs=5, input_shape=(3, 16, 16))).network.state_dict())
    model = rebuild("builtin:convnet", state, ModelRequest(outputs=2), "x")
    assert [id(value) for value in model.fresh] == [id(value) for value in model.network.get_submodule("linear").parameters()]
    assert rebuild("builtin:convnet", state, ModelRequest(outputs=5), "x").fresh == ()


def test_a_new_head_is_a_function_of_the_seed():
    state = dict(open_model("builtin:convnet", ModelRequest(outputs=5, input_shape=(3, 16, 16))).network.state_dict())
    heads = [rebuild("builtin:convnet", state, ModelRequest(outputs=2, seed=seed), "x").network.linear.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_both_heads_of_a_distilled_transformer_are_renewed(tmp_path):
    import_torchvision()
    pytest.importorskip("timm")
    options = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}
    model = open_model("timm:deit_tiny_distilled_patch16_224", ModelRequest(outputs=4, input_shape=(3, 32, 32), options=options))
    save_model(model, tmp_path / "deit.safetensors", {})
    found = open_model(f"file:{tmp_path / 'deit.safetensors'}", ModelRequest(outputs=5, input_shape=(3, 32, 32)))
    assert {id(value) for value in found.fresh} == {
        id(value) for head in ("head", "head_dist") for value in getattr(found.network, head).parameters()
    }
    assert found.network(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    save_model(found, tmp_path / "five.safetensors", {})
    inputs = torch.rand(2, 3, 32, 32)
    again = open_model(f"file:{tmp_path / 'five.safetensors'}")
    assert torch.equal(again.network(inputs), found.network(inputs))
