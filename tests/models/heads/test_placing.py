"""A new head in any network: its size, the body's bits, saving, opening again; more than 40 networks of different make."""

import copy

import pytest
import torch
from torch import nn

from transfuse.core.grafts import grafts_of
from transfuse.core.last_layers import find_heads
from transfuse.core.outputs import main_name, named_tensors, run
from transfuse.core.types import Model, ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.models import load_weights, open_model, save_model
from transfuse.models.heads.linear import Linear
from transfuse.models.heads.placing import put_head

from .architectures import OWN, TIMM, TORCHVISION, TwoHeads, columns

OUTPUTS = 7


def answer(network, example):
    with torch.no_grad():
        tensors = named_tensors(run(network.eval(), example))
    return tensors[main_name(tensors)]


def round_trip(build, example, path, folder):
    """Replaces the head, saves, loads into a fresh network of the same make; everything that has to hold is checked."""
    network = build()
    before = {id(parameter): parameter.detach().clone() for parameter in network.parameters()}
    old = network.get_submodule(path)
    fresh, notes = put_head(network, Linear(), OUTPUTS, example, seed=3)
    assert any(path in note for note in notes)
    head = network.get_submodule(path)
    assert head is not old
    assert head.weight.shape[0] == OUTPUTS
    assert {id(parameter) for parameter in head.parameters()} <= {id(parameter) for parameter in fresh}
    for parameter in network.parameters():  # the body is the same objects with the same bits
        if id(parameter) in before:
            assert torch.equal(parameter, before[id(parameter)])
        else:
            assert any(parameter is new for new in fresh)
    answers = answer(network, example)
    assert OUTPUTS in (answers.shape[1], answers.shape[-1])

    save_model(Model(network, f"live:{type(network).__name__}"), folder / "m.safetensors", {})
    again = build()
    load_weights(again, folder / "m.safetensors")
    torch.testing.assert_close(answer(again, example), answers, rtol=0, atol=0)
    assert torch.equal(again.get_submodule(path).weight, head.weight)


@pytest.mark.parametrize("name", OWN)
def test_a_network_of_any_make_takes_a_new_head_and_keeps_it(name, tmp_path):
    build, example, path = OWN[name]
    round_trip(build, example(), path, tmp_path)


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_family_of_torchvision_takes_a_new_head_and_keeps_it(name, tmp_path):
    build, example, path = TORCHVISION[name]
    round_trip(build, example(), path, tmp_path)


def test_the_families_are_all_that_torchvision_has():
    models = import_torchvision().models
    families = {models.get_model_builder(name).__module__.rpartition(".")[2] for name in models.list_models(module=models)}
    renamed = {"mobilenetv2": "mobilenet_v2", "mobilenetv3": "mobilenet_v3", "shufflenetv2": "shufflenet", "swin_transformer": "swin"}
    renamed |= {"vision_transformer": "vit"}
    assert {renamed.get(family, family) for family in families} <= set(TORCHVISION)


@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm_take_a_new_head_and_keep_it(name, tmp_path):
    import_torchvision()
    timm = pytest.importorskip("timm")
    options, side, path = TIMM[name]
    round_trip(lambda: timm.create_model(name, num_classes=4, **options), torch.rand(2, 3, side, side), path, tmp_path)


TEXT = {"vocab_size": 13, "num_labels": 4, "pad_token_id": 0}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TRANSFORMERS = {
    "ViT": (SMALL | {"image_size": 16, "patch_size": 8, "num_labels": 4}, "classifier"),
    "Bert": (SMALL | TEXT, "classifier"),
    "Roberta": (SMALL | TEXT | {"max_position_embeddings": 16}, "classifier.out_proj"),
    "DistilBert": ({"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16} | TEXT, "classifier"),
    "GPT2": ({"n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1} | TEXT, "score"),
    "ResNet": ({"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 4}, "classifier.1"),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_classifiers_of_transformers_take_a_new_head_and_keep_it(name, tmp_path):
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    settings, path = TRANSFORMERS[name]
    pictures = name in ("ViT", "ResNet")
    config = getattr(transformers, f"{name}Config")(**settings)
    kind = getattr(transformers, f"{name}For{'Image' if pictures else 'Sequence'}Classification")
    example = torch.rand(2, 3, 16, 16) if pictures else {"input_ids": torch.randint(2, 13, (2, 6)), "attention_mask": torch.ones(2, 6)}
    round_trip(lambda: kind(copy.deepcopy(config)), example, path, tmp_path)
    network = kind(config)
    put_head(network, Linear(), OUTPUTS, example)
    assert network.config.num_labels == OUTPUTS  # by which its own loss reshapes the logits


@pytest.mark.parametrize("source", ["builtin:resnet8", "torchvision:mobilenet_v3_small", "timm:resnet10t"])
def test_a_saved_network_opens_from_its_file_with_the_new_head(source, tmp_path):
    model = open_model(source, ModelRequest(outputs=4, input_shape=(3, 32, 32)))
    inputs = torch.rand(2, 3, 32, 32)
    put_head(model.network, Linear(), OUTPUTS, inputs)
    model.options["outputs"] = OUTPUTS
    save_model(model, tmp_path / "m.safetensors", {})
    again = open_model(f"file:{tmp_path}/m.safetensors")
    assert torch.equal(answer(again.network, inputs), answer(model.network, inputs))


def test_a_number_replaces_twins_and_auxiliary_heads_and_leaves_other_outputs():
    network = TwoHeads()
    side = network.side
    _, notes = put_head(network, Linear(), OUTPUTS, columns())
    assert [answers.shape[1] for answers in network(columns())] == [OUTPUTS, 3]
    assert network.side is side
    assert any("'side' stays" in note for note in notes)
    build, example, _ = TORCHVISION["googlenet"]
    network = build()
    put_head(network, Linear(), OUTPUTS, example())
    assert [tensor.shape[1] for tensor in network.train()(example())] == [OUTPUTS] * 3


def test_each_of_several_outputs_can_be_named():
    network = TwoHeads()
    put_head(network, Linear(), {"0": 9, "1": 2}, columns())
    assert [answers.shape[1] for answers in network(columns())] == [9, 2]
    with pytest.raises(ModelError, match="no output '2'"):
        put_head(network, Linear(), {"2": 4}, columns())


def test_a_weight_that_twins_share_is_shared_again():
    build, example, _ = OWN["twins that share a weight"]
    network = build()
    fresh, _ = put_head(network, Linear(), OUTPUTS, example())
    assert network.twin.weight is network.head.weight
    assert len(fresh) == 3  # one weight, two biases


def test_a_layer_under_two_names_stays_one():
    build, example, _ = OWN["one layer under two names"]
    network = build()
    put_head(network, Linear(), OUTPUTS, example())
    assert network.first is network.last


def test_an_embedding_keeps_the_weight_that_the_head_shared():
    build, example, _ = OWN["tied to an embedding"]
    network = build()
    embedding = network.embedding.weight
    _, notes = put_head(network, Linear(), OUTPUTS, example())
    assert network.embedding.weight is embedding
    assert network.decoder.weight.shape == (OUTPUTS, 6)
    assert any("shared its weight" in note for note in notes)


def test_a_zero_bias_equal_to_another_parameter_is_told_apart_by_identity():
    network = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    for layer in network:
        nn.init.zeros_(layer.bias)
    fresh, _ = put_head(network, Linear(), 4, columns())
    assert {id(parameter) for parameter in fresh} == {id(parameter) for parameter in network[1].parameters()}


def test_the_new_head_is_a_function_of_the_seed():
    heads = []
    for seed in (1, 1, 2):
        network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
        put_head(network, Linear(), OUTPUTS, columns(), seed)
        heads.append(network[1].weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_layer_may_be_named_and_a_wrong_name_lists_the_candidates():
    network = TwoHeads()
    put_head(network, Linear(at="side"), OUTPUTS, columns())
    assert network.side.weight.shape[0] == OUTPUTS
    with pytest.raises(ModelError, match=r"'body.1' is ReLU") as caught:
        put_head(TwoHeads(), Linear(at="body.1"), OUTPUTS, columns())
    assert "body.0 (Linear 6 -> 8)" in str(caught.value)
    with pytest.raises(ModelError, match="did you mean 'classes'"):
        put_head(TwoHeads(), Linear(at="clases"), OUTPUTS, columns())


def test_a_network_that_does_not_run_with_the_new_head_is_as_it_was():
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4), nn.BatchNorm1d(4))  # the norm holds on to four outputs
    layers, state = list(network), {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ModelError, match="doesn't run with the new head"):
        put_head(network, Linear(), OUTPUTS, columns())
    assert all(one is other for one, other in zip(network, layers, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert grafts_of(network) == []


def test_a_head_can_be_replaced_again_and_again():
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    for outputs in (7, 3, 5):
        put_head(network, Linear(), outputs, columns())
    assert [record["layers"][0][1]["out_features"] for record in grafts_of(network)] == [5]
    assert find_heads(network, columns())[0].outputs == 5
