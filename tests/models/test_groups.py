"""Layer groups: every parameter once, by identity, in the order of running; blocks of many networks without naming any."""

import copy

import pytest
import torch
from torch import nn

from tests.models.heads.architectures import OWN
from transfuse.core.types import ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.models import open_model
from transfuse.models.groups import layer_groups

NETWORKS = {  # source: (input shape, groups, the first and the last before the head)
    "builtin:resnet20": ((3, 32, 32), 11, "conv1", "layer3.2"),
    "builtin:vgg8": ((3, 32, 32), 6, "block0.0", "block4.0"),
    "builtin:mlp": ((64,), 3, "layers.0.linear", "layers.1.linear"),
    "torchvision:resnet18": ((3, 64, 64), 10, "conv1", "layer4.1"),
    "torchvision:vit_b_16": ((3, 224, 224), 14, "conv_proj", "encoder.layers.encoder_layer_11"),
    "torchvision:mobilenet_v3_small": ((3, 64, 64), 15, "features.0", "classifier.0"),
    "torchvision:squeezenet1_0": ((3, 64, 64), 10, "features.0", "features.12"),
    "timm:resnet18": ((3, 64, 64), 10, "conv1", "layer4.1"),
    "timm:vit_tiny_patch16_224": ((3, 224, 224), 14, "cls_token", "blocks.11"),
}


@pytest.mark.parametrize("source", NETWORKS)
def test_every_parameter_is_in_one_group_and_blocks_are_found(source):
    import_torchvision()  # which other packages import, and fail where it is broken
    pytest.importorskip(source.split(":")[0] if not source.startswith("builtin") else "torch")
    shape, count, first, last = NETWORKS[source]
    with torch.device("meta") if "vit_b" in source else torch.device("cpu"):  # 86 million numbers that nobody looks at
        model = open_model(source, ModelRequest(outputs=5, input_shape=shape))
    with torch.device("meta") if "vit_b" in source else torch.device("cpu"):
        example = torch.zeros(1, *shape)
    groups = layer_groups(model.network, example, model.fresh)
    assert (len(groups), groups[0].name, groups[-2].name, groups[-1].name) == (count, first, last, "head")
    found = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(found) == sorted(id(parameter) for parameter in model.network.parameters())
    assert {parameter.shape[0] for parameter in groups[-1].parameters} == {5}


def test_a_transformer_of_the_hub_is_opened_to_its_layers():
    import_torchvision()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.DistilBertConfig(vocab_size=1000, dim=16, n_layers=3, n_heads=2, hidden_dim=32, num_labels=4)
    network = transformers.DistilBertForSequenceClassification(config)
    names = [group.name for group in layer_groups(network, torch.zeros(1, 5, dtype=torch.int64))]
    assert [name for name in names if ".layer." in name] == [f"distilbert.transformer.layer.{number}" for number in range(3)]


class OutOfOrder(nn.Module):
    """Registers its layers against the order in which they run, and holds a token of its own."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.head = nn.Linear(4, 2)
        self.second = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)

    def forward(self, inputs):
        return self.head(self.second(self.first(inputs + self.token)))


def test_groups_come_in_the_order_in_which_layers_run():
    network = OutOfOrder()
    groups = layer_groups(network, torch.zeros(1, 4), tuple(network.head.parameters()))
    assert [group.name for group in groups] == ["first", "second", "head"]
    assert any(parameter is network.token for parameter in groups[0].parameters), "what a parent holds itself counts as the stem"


def test_equal_values_are_told_apart_and_tied_weights_counted_once():
    tied = nn.Linear(4, 4)
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), tied, nn.ReLU(), tied, nn.Linear(4, 4))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    groups = layer_groups(network, torch.zeros(1, 4))
    assert [len(group.parameters) for group in groups] == [2, 2, 2]
    assert len({id(parameter) for group in groups for parameter in group.parameters}) == 6


def test_a_normalisation_joins_the_layer_before_it():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = layer_groups(network, torch.zeros(1, 3, 5, 5))
    assert [(group.name, len(group.parameters)) for group in groups] == [
        ("0", 4),
        ("2", 4),
        ("head", 2),
    ]


def test_a_copy_has_the_same_groups_of_its_own_parameters():
    model = open_model("builtin:resnet8", ModelRequest(outputs=3))
    copied = copy.deepcopy(model.network)
    own, other = (layer_groups(network, torch.zeros(1, 3, 16, 16)) for network in (model.network, copied))
    assert [group.name for group in own] == [group.name for group in other]
    assert not {id(one) for group in own for one in group.parameters} & {id(one) for group in other for one in group.parameters}


def test_a_network_without_parameters_or_head_is_refused():
    with pytest.raises(ModelError, match="no parameters"):
        layer_groups(nn.Sequential(nn.ReLU()), torch.zeros(1, 3))
    with pytest.raises(ModelError, match="can't find the last layer"):
        layer_groups(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize("name", OWN)
def test_the_head_of_a_network_of_any_make_is_its_last_group(name):
    build, example, path = OWN[name]
    network = build()
    head = layer_groups(network, example())[-1]
    own = {id(parameter) for parameter in network.get_submodule(path).parameters()}
    assert own <= {id(parameter) for parameter in head.parameters}
    assert len(head.parameters) - len(own) == (1 if name == "twins that share a weight" else 0)
