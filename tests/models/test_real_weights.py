"""Trained weights as their authors published them, where the test data is at hand.

All stated accuracies: python -m benchmarks.real_weights --out FOLDER --check
"""

import importlib.util

import pytest
import torch
from benchmarks import real_weights

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import ModelRequest
from transfuse.models import open_model

TWO_HUNDRED = slice(0, 200)


def test_resnet20_opens_as_its_authors_wrote_it(test_data):
    cifar = test_data.cifar10()
    raw = torch.from_numpy(cifar["x_test"][TWO_HUNDRED].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(cifar["y_test"][TWO_HUNDRED])
    for place, shortcut, preprocess in (
        ("akamaster_cifar10/resnet20-12fca82f.th", "A", real_weights.IMAGENET),
        ("distiller_cifar10/checkpoint_trained_dense.pth.tar", "B", real_weights.CENTRED),
    ):
        request = ModelRequest(architecture="builtin:resnet20", options={"shortcut": shortcut})
        model = open_model(f"file:{test_data.weights(place)}", request)
        assert model.options["outputs"] == 10
        with torch.inference_mode():
            right = model.network(preprocess.exact_batch(raw)).argmax(1) == labels
        assert right.float().mean() > 0.87  # about 92 % on all pictures; 0.87 is more than two standard errors below


@pytest.mark.parametrize("name", ["mobilenetv2_100_224", "mobilenetv1_050_160"])
def test_folded_mobilenets_compute_what_the_reference_computes(test_data, tmp_path, name):
    place = test_data.weights("imagenet_npz/reference_forward.py")
    spec = importlib.util.spec_from_file_location("reference_forward", place)
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    import numpy as np

    model = open_model(f"file:{real_weights.convert(name, test_data.weights('.'), tmp_path)}", ModelRequest())
    with np.load(test_data.weights(real_weights.WEIGHTS[name].place)) as archive:
        weights = {key: archive[key] for key in archive.files}
    forward = reference.mobilenet_v2 if "v2" in name else reference.mobilenet_v1
    for side in (96, 97):
        pictures = torch.rand(2, 3, side, side) * 2 - 1
        with torch.inference_mode():
            torch.testing.assert_close(model.network(pictures), forward(pictures, weights), atol=1e-4, rtol=1e-4)


def test_converted_weights_bring_their_preprocessing_and_classes(test_data, tmp_path):
    pytest.importorskip("h5py")
    model = open_model(f"file:{real_weights.convert('mlperf_tiny_resnet8', test_data.weights('.'), tmp_path)}", ModelRequest())
    assert model.preprocess == Preprocess(size=(32, 32), channels=3)
    assert model.classes is not None
    assert model.classes[0] == "airplane"
    values = sum(value.numel() for key, value in model.network.state_dict().items() if not key.endswith("num_batches_tracked"))
    assert values == 78_666
