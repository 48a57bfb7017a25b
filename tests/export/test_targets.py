import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.shipping import ExportRequest
from transfuse.core.types import Model
from transfuse.errors import ExportError
from transfuse.export import get, names
from transfuse.export._preprocessing import preprocessing
from transfuse.models import open_model
from transfuse.testing import check_exporter
from transfuse.testing.exporter import CLASSES, example_model, example_regression, example_samples

WITH_TORCHAO = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


def request(model, folder, calibration=None):
    return ExportRequest(model, "classification", example_samples(model).raw([0]), calibration, folder)


PROVED = [
    ("safetensors", {}),
    ("bf16", {}),
    ("torch_export", {}),
    ("onnx", {"preprocess": "graph"}),
    ("onnx_int8", {"calibration": 40}),
    ("onnx_dynamic", {"layers": "all"}),
    pytest.param("torchao_int8", {}, marks=WITH_TORCHAO),
    pytest.param("torchao_weight_only", {}, marks=WITH_TORCHAO),
]


@pytest.mark.parametrize(("name", "arguments"), PROVED)
def test_a_target_gives_the_networks_answers_from_its_files_alone(name, arguments):
    check_exporter(get(name), arguments)


def test_a_regression_on_columns_goes_through_onnx_with_its_scaling():
    check_exporter(get("onnx"), {}, example_regression)


def test_every_target_has_its_proof():
    proved = {getattr(case, "values", case)[0] for case in PROVED}
    assert set(names()) == proved


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """ONNX with preprocessing inside, and safetensors, of one network."""
    folder, model = tmp_path_factory.mktemp("shipped"), example_model()
    for name, arguments in (("onnx", {"preprocess": "graph"}), ("safetensors", {})):
        (folder / name).mkdir()
        get(name)(**arguments).write(request(model, folder / name))
    pixels = (np.random.default_rng(0).random((5, 4, 3)) * 255).astype(np.uint8).repeat(6, 0).repeat(4, 1)
    Image.fromarray(pixels).save(folder / "picture.png")
    with torch.no_grad():
        expected = model.network(model.preprocess.exact_image(Image.open(folder / "picture.png"))).numpy()[0]
    return folder, expected


def run_without(packages, code, *arguments):
    block = f"import sys\nfor name in {packages!r}:\n    sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", block + code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_onnx_file_opens_with_onnxruntime_and_pillow_alone(shipped):
    folder, expected = shipped
    code = """
import json, numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
pixels = np.asarray(Image.open(sys.argv[2]).convert("RGB")).transpose(2, 0, 1)[None]
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
print(json.dumps([classes, session.run(None, {"raw": pixels})[0][0].tolist()]))
"""
    classes, logits = run_without(("transfuse", "torch"), code, folder / "onnx" / "student.onnx", folder / "picture.png")
    assert classes == CLASSES
    assert np.allclose(logits, expected, atol=0.02 * np.abs(expected).max())  # Pillow rounds between its two passes, the graph after both


def test_the_safetensors_open_with_torch_alone(shipped):
    folder, expected = shipped
    prepared = example_model().preprocess.exact_image(Image.open(folder / "picture.png"))
    np.save(folder / "prepared.npy", prepared.numpy())
    code = """
import json, numpy as np, torch
from safetensors.torch import load_file
sys.path.insert(0, sys.argv[1])
from network import forward
inputs = torch.from_numpy(np.load(sys.argv[2]))
print(json.dumps(forward(load_file(sys.argv[1] + "/student.safetensors"), inputs)[0].tolist()))
"""
    logits = run_without(("transfuse",), code, folder / "safetensors", folder / "prepared.npy")
    assert np.allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_file_tells_nothing_of_the_machine_it_was_made_on(shipped):
    folder, _ = shipped
    content = (folder / "onnx" / "student.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content


def test_class_names_lie_beside_the_file_too(shipped):
    folder, _ = shipped
    for name in ("onnx", "safetensors"):
        assert json.loads((folder / name / "student.json").read_text(encoding="utf-8"))["classes"] == CLASSES


class Bessel(nn.Module):
    def forward(self, inputs):
        return torch.special.i1(inputs)


class Deciding(nn.Module):
    def forward(self, inputs):
        return inputs if inputs.sum() > 0 else -inputs


def odd(layer):
    network = nn.Sequential()
    network.add_module("first", nn.Linear(6, 4))
    network.add_module("odd", layer)
    return Model(network.eval(), "live:Odd", options={"input_shape": [6]}, preprocess=Preprocess(std=(1.0,) * 6))


def test_an_operator_that_onnx_lacks_is_named_with_its_module(tmp_path):
    with pytest.raises(ExportError) as refused:
        get("onnx")().write(request(odd(Bessel()), tmp_path))
    assert "bessel_i1" in refused.value.what
    assert refused.value.where == "module 'odd'"
    assert not list(tmp_path.iterdir())


def test_a_network_that_decides_by_values_is_named_with_its_module_and_still_goes_to_safetensors(tmp_path):
    model = odd(Deciding())
    with pytest.raises(ExportError) as refused:
        get("torch_export")().write(request(model, tmp_path))
    assert refused.value.where == "module 'odd'"
    written = get("safetensors")().write(request(model, tmp_path))
    assert written.file.exists()
    assert "network.py" in written.notes[0]


def test_static_quantisation_without_samples_is_refused(tmp_path):
    with pytest.raises(ExportError, match="no training samples"):
        get("onnx_int8")().write(request(example_model(), tmp_path))


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_histograms_count_every_sample_though_the_last_batch_is_smaller(tmp_path, method):
    model, inputs = example_model(), torch.randn(100, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    inputs[96:] *= 5  # the smaller batch has the widest range
    outputs = []
    for size in (32, 100):
        (tmp_path / str(size)).mkdir()
        given = request(model, tmp_path / str(size), lambda most, part, size=size: iter(inputs[:most].split(size)))
        written = get("onnx_int8")(method=method).write(given)
        assert written.facts["calibration"] == {"samples": 100, "part": "train", "method": method}
        outputs.append(open_model(f"onnx:{written.file}").network(inputs))
    assert torch.equal(*outputs)


def test_an_onnx_file_is_a_model_source_with_a_hash_of_its_own(shipped):
    folder, expected = shipped
    model = open_model(f"onnx:{folder / 'onnx' / 'student.onnx'}")
    outputs = model.network(model.preprocess.exact_image(Image.open(folder / "picture.png")))
    assert np.allclose(outputs.numpy()[0], expected, atol=0.02 * np.abs(expected).max())
    assert model.classes == CLASSES
    assert list(model.network.state_dict()) == ["digest"]


@pytest.mark.parametrize("resize", ["squash", "short_side", "crop_first"])
@pytest.mark.parametrize("crop", [0.8, 1.0])
def test_pictures_that_have_the_networks_size_are_left_alone_or_cropped_as_arrays_or_files_are(resize, crop):
    onnxruntime = pytest.importorskip("onnxruntime")
    preprocess = Preprocess((12, 10), 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.3), 1 / 255, crop, resize)

    def prepared(pixels, arrays):
        graph = preprocessing(preprocess, pixels.shape[1:], False, 18, 9, arrays)
        return onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"raw": pixels})[0]

    coarse = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4), dtype=np.uint8).repeat(3, 2).repeat(5, 3)
    same, wider, lower = coarse[..., :10], coarse, coarse[:, :, :11, :10]
    for pixels in (same, wider, lower):
        assert np.allclose(prepared(pixels, True), preprocess.exact_batch(torch.from_numpy(pixels)), atol=0.05)
        image = Image.fromarray(pixels[0].transpose(1, 2, 0))
        assert np.allclose(prepared(pixels, False), preprocess.exact_image(image), atol=0.05)  # Pillow rounds twice, the graph once
    assert np.allclose(prepared(same, True), prepared(same, False)) == (crop == 1)
