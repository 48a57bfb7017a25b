"""timm's networks by timm's code: folders, tags, channels, refusals."""

import numpy as np
import pytest
import torch
from PIL import Image

from transfuse.core.types import ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.models import open_model, save_model
from transfuse.models.timm import catalog


@pytest.fixture(scope="module")
def timm():
    import_torchvision()
    import timm

    return timm


@pytest.fixture(scope="module")
def folder(timm, tmp_path_factory):
    """What timm itself writes, with weights of seed 0 and names of the classes."""
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=3, drop_rate=0.1).eval()
    place = tmp_path_factory.mktemp("saved")
    config = {"label_names": ["a", "b", "c"], "num_classes": 3}
    timm.models.save_for_hf(network, place, model_config=config, model_args={"drop_rate": 0.1}, safe_serialization=True)
    return place, network


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_that_timm_saved_opens_with_its_weights(folder, prefix):
    place, network = folder
    model = open_model(f"timm:{prefix}{place}", ModelRequest(input_shape=(1, 32, 32)))
    inputs = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.network(inputs), network(inputs))
    assert (model.architecture, model.classes, model.pretrained) == ("timm:resnet10t", ["a", "b", "c"], True)
    assert model.preprocess is not None
    assert model.preprocess.channels == 3


def test_a_folder_with_another_head_is_noted(folder):
    model = open_model(f"timm:{folder[0]}", ModelRequest(outputs=5))
    assert model.network(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    assert "3 outputs, 5 are needed" in model.notes[0]
    assert model.classes is None
    assert [id(value) for value in model.fresh] == [id(value) for value in model.network.get_submodule("fc").parameters()]


def test_what_came_from_a_folder_is_saved_without_needing_it(folder, tmp_path):
    model = open_model(f"timm:{folder[0]}", ModelRequest())
    save_model(model, tmp_path / "m.safetensors", {})
    again = open_model(f"file:{tmp_path}/m.safetensors", ModelRequest())
    inputs = torch.rand(2, 3, 64, 64)
    assert torch.equal(again.network(inputs), model.network(inputs))
    assert again.options["drop_rate"] == 0.1
    assert (again.classes, again.preprocess) == (model.classes, model.preprocess)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_fresh_networks_take_the_datas_channels_and_outputs(channels):
    request = ModelRequest(outputs=4, input_shape=(channels, 64, 64), seed=3)
    model = open_model("timm:mobilenetv3_small_050", request)
    assert model.network(torch.rand(2, channels, 64, 64)).shape == (2, 4)
    assert not model.pretrained
    again = open_model("timm:mobilenetv3_small_050", request).network.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.network.state_dict().items())


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "test_vit"])
def test_evaluation_sees_what_timms_own_transform_gives(timm, name):
    model = open_model(f"timm:{name}", ModelRequest())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    expected = timm.data.create_transform(**timm.data.resolve_model_data_config(model.network), is_training=False)(image)
    assert model.preprocess is not None
    torch.testing.assert_close(model.preprocess.exact_image(image)[0], expected, atol=1e-5, rtol=1e-5)


def test_a_tag_asks_for_trained_weights_and_offline_says_what_to_do(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("resnet18.a1_in1k", "hf-hub:nobody/nothing"):
        with pytest.raises(ModelError, match="can't fetch the weights") as caught:
            open_model(f"timm:{name}", ModelRequest())
        assert "timm:FOLDER" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_18", "did you mean 'resnet18'"),
        ("resnet18.a1_in2k", "did you mean 'a1_in1k'"),
        ("timm/resnet18.a1_in1k", "timm:hf-hub:timm/resnet18"),
        ("local-dir:nowhere", "no such folder"),
    ],
)
def test_what_is_not_there_is_refused(name, message):
    with pytest.raises(ModelError, match=message):
        open_model(f"timm:{name}", ModelRequest())


def test_a_folder_without_timms_description_is_refused(tmp_path):
    with pytest.raises(ModelError, match="timm can't open it"):
        open_model(f"timm:{tmp_path}", ModelRequest())


def test_options_that_timm_refuses_are_told():
    with pytest.raises(ModelError, match="timm can't open it: TypeError"):
        open_model("timm:resnet10t", ModelRequest(options={"depht": 3}))


def test_the_catalogue_lists_names_with_tags():
    assert "a1_in1k" in catalog()["resnet50"]
