"""torchvision's networks: preprocessing, local and named weights, refusals."""

import urllib.error

import pytest
import torch

from transfuse.core.types import ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.models import open_model
from transfuse.models.torchvision import catalog


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet", "squeezenet1_1"])
def test_fresh_networks_get_the_datas_outputs(name):
    model = open_model(f"torchvision:{name}", ModelRequest(outputs=3, seed=1))
    assert model.network(torch.rand(2, 3, 96, 96)).shape == (2, 3)
    assert not model.pretrained
    again = open_model(f"torchvision:{name}", ModelRequest(outputs=3, seed=1)).network.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.network.state_dict().items())


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "inception_v3"])
def test_preprocessing_is_that_of_the_weights(name):
    weights = import_torchvision().models.get_model_weights(name).DEFAULT
    transform = weights.transforms()
    found = open_model(f"torchvision:{name}", ModelRequest()).preprocess
    assert found is not None
    assert (found.size, found.mean, found.std) == ((transform.crop_size[0],) * 2, tuple(transform.mean), tuple(transform.std))
    assert round(found.size[0] / found.crop) == transform.resize_size[0]
    assert found.interpolation == transform.interpolation.value


@pytest.fixture
def downloaded(monkeypatch):
    """torchvision's trained ResNet-18, as far as code can tell: its download is answered with seeded weights."""
    torch.manual_seed(0)
    state = import_torchvision().models.resnet18(weights=None).state_dict()
    weights = import_torchvision().models.ResNet18_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda self, *args, **kwargs: state)
    return state


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_named_weights_bring_their_classes(downloaded, name):
    model = open_model(f"torchvision:resnet18@{name}", ModelRequest())
    assert torch.equal(model.network.conv1.weight, downloaded["conv1.weight"])
    assert model.pretrained
    assert model.classes is not None
    assert model.classes[:2] == ["tench", "goldfish"]
    assert model.architecture == "torchvision:resnet18"


def test_another_number_of_outputs_replaces_the_head_and_says_so(downloaded):
    model = open_model("torchvision:resnet18@DEFAULT", ModelRequest(outputs=4, seed=2))
    assert model.network(torch.rand(1, 3, 64, 64)).shape == (1, 4)
    assert (model.options["outputs"], model.classes) == (4, None)
    assert "1000 outputs, 4 are needed" in model.notes[0]
    assert [id(value) for value in model.fresh] == [id(value) for value in model.network.get_submodule("fc").parameters()]


def test_offline_says_what_could_not_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(ModelError, match=r"can't fetch https://download\.pytorch\.org/models/resnet18.*no route") as caught:
        open_model("torchvision:resnet18@DEFAULT", ModelRequest())
    assert "torchvision:resnet18@PATH.pth" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt18", "did you mean 'resnet18'"),
        ("fcn_resnet50", "no network"),
        ("resnet18@IMAGENET1K_V2", "known: IMAGENET1K_V1, DEFAULT"),
        ("resnet18@nothing.pth", "no such file"),
    ],
)
def test_what_is_not_there_is_refused(name, message):
    with pytest.raises(ModelError, match=message):
        open_model(f"torchvision:{name}", ModelRequest())


def test_options_that_torchvision_refuses_are_told():
    with pytest.raises(ModelError, match="refuses the options"):
        open_model("torchvision:resnet18", ModelRequest(options={"depth": 3}))


def test_the_catalogue_states_parameters():
    count = sum(parameter.numel() for parameter in import_torchvision().models.resnet18(weights=None).parameters())
    assert catalog()["resnet18"].startswith(f"{count:,} parameters")
    assert "fcn_resnet50" not in catalog()
