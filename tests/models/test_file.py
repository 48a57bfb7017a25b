"""Files of weights: for a named architecture, or with the description beside them."""

import pytest
import torch

from transfuse.core.types import ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.models import open_model


def stored(path, source: str, outputs: int, shape=(3, 32, 32), prefix="module.", **options):
    model = open_model(source, ModelRequest(outputs=outputs, input_shape=shape, options=options, seed=1))
    torch.save({"state_dict": {prefix + key: value for key, value in model.network.state_dict().items()}}, path)
    return model.network


def opened(path, architecture=None, **request):
    return open_model(f"file:{path}", ModelRequest(architecture=architecture, **request))


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_state_dict_brings_its_own_outputs_and_channels(tmp_path, shortcut):
    network = stored(tmp_path / "r.th", "builtin:resnet20", 17, (1, 32, 32), shortcut=shortcut)
    model = opened(tmp_path / "r.th", "builtin:resnet20", options={"shortcut": shortcut}, input_shape=(3, 64, 64))
    inputs = torch.rand(2, 1, 32, 32)
    assert torch.equal(model.network(inputs), network(inputs))
    assert (model.options["outputs"], model.pretrained, model.notes) == (17, True, [])


def test_the_other_shortcut_is_told_by_the_table(tmp_path):
    stored(tmp_path / "r.th", "builtin:resnet20", 10, shortcut="B")
    with pytest.raises(ModelError, match=r"0 other shapes, 0 missing, 10 unexpected") as caught:
        opened(tmp_path / "r.th", "builtin:resnet20", options={"shortcut": "A"})
    assert "layer2.0.shortcut.0.weight" in str(caught.value)
    assert "shortcut: B" in str(caught.value)


def test_an_mlp_needs_no_input_shape_from_the_recipe(tmp_path):
    network = stored(tmp_path / "m.pt", "builtin:mlp", 4, (1, 8, 8), widths=[12])
    model = opened(tmp_path / "m.pt", "builtin:mlp", options={"widths": [12]})
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.equal(model.network(inputs), network(inputs))


def test_another_number_of_outputs_replaces_the_last_layer_and_says_so(tmp_path):
    network = stored(tmp_path / "r.th", "builtin:resnet8", 10)
    model = opened(tmp_path / "r.th", "builtin:resnet8", outputs=3)
    assert model.network(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert torch.equal(model.network.conv1.weight, network.conv1.weight)
    assert model.options["outputs"] == 3
    assert "the file has 10 outputs, 3 are needed" in model.notes[0]


def test_networks_of_torchvision_and_timm_take_files_too(tmp_path):
    theirs = import_torchvision().models.resnet18(num_classes=6)
    torch.save(theirs.state_dict(), tmp_path / "r18.pth")
    inputs = torch.rand(2, 3, 64, 64)
    for source, architecture in ((f"file:{tmp_path}/r18.pth", "torchvision:resnet18"), (f"torchvision:resnet18@{tmp_path}/r18.pth", None)):
        model = open_model(source, ModelRequest(architecture=architecture))
        assert torch.equal(model.network(inputs), theirs.eval()(inputs))
        assert (model.source, model.architecture, model.options["outputs"]) == (source, "torchvision:resnet18", 6)
        assert model.preprocess is not None
        assert model.preprocess.size == (224, 224)
    timm_network = stored(tmp_path / "t.pth", "timm:resnet10t", 6, (1, 64, 64), prefix="")
    model = opened(tmp_path / "t.pth", "timm:resnet10t")
    assert torch.equal(model.network(inputs[:, :1]), timm_network(inputs[:, :1]))


def test_a_whole_module_opens_where_the_file_is_trusted(tmp_path):
    network = stored(tmp_path / "x.pt", "builtin:resnet8", 4)
    torch.save(network, tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="trusted: true"):
        opened(tmp_path / "whole.pt")
    model = opened(tmp_path / "whole.pt", trusted=True)
    assert torch.equal(model.network.conv1.weight, network.conv1.weight)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_archives_are_not_run(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(ModelError, match="trusted: true"):
        opened(tmp_path / "x.pt", "builtin:mlp")


def test_a_file_without_architecture_asks_for_it(tmp_path):
    stored(tmp_path / "r.th", "builtin:resnet8", 10)
    with pytest.raises(ModelError, match="doesn't say which network"):
        opened(tmp_path / "r.th")


@pytest.mark.parametrize(
    ("architecture", "message"), [("builtin:resnt8", "did you mean"), ("file:x", "can't be rebuilt"), ("resnet8", "write builtin:resnet8")]
)
def test_a_wrong_architecture_is_refused(tmp_path, architecture, message):
    stored(tmp_path / "r.th", "builtin:resnet8", 10)
    with pytest.raises(ModelError, match=message):
        opened(tmp_path / "r.th", architecture)
