"""What nobody has said is read from the weights."""

import torch

from transfuse.core.types import ModelRequest
from transfuse.models import open_model
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
