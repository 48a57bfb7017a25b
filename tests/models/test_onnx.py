import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError
from transfuse.evaluate.cost import latencies, tensor_bytes
from transfuse.models import open_model

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


def write(path, batch="batch", kind=None, shape=(4,), metadata=None):
    """outputs = flattened inputs @ WEIGHT, as anybody could have written it."""
    helper, number = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["pixels"], ["values"], to=number.FLOAT),
        helper.make_node("Flatten", ["values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", kind or number.FLOAT, [batch, *shape])]
    outputs = [helper.make_tensor_value_info("scores", number.FLOAT, [batch, 3])]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, [onnx.numpy_helper.from_array(WEIGHT, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata or {})
    path.write_bytes(model.SerializeToString())
    return f"onnx:{path}"


def test_a_foreign_file_computes_what_its_graph_says(tmp_path):
    model = open_model(write(tmp_path / "net.onnx"))
    inputs = torch.randn(5, 4)
    assert torch.allclose(model.network(inputs), inputs @ torch.from_numpy(WEIGHT), atol=1e-6)
    assert model.options == {"outputs": 3, "input_shape": [4]}
    assert model.pretrained
    assert model.preprocess is None


def test_a_fixed_batch_is_filled_up(tmp_path):
    model = open_model(write(tmp_path / "net.onnx", batch=2))
    inputs = torch.randn(5, 4)
    assert torch.allclose(model.network(inputs), inputs @ torch.from_numpy(WEIGHT), atol=1e-6)


def test_a_graph_of_8_bit_pictures_gets_rounded_pixels(tmp_path):
    model = open_model(write(tmp_path / "net.onnx", kind=onnx.TensorProto.UINT8, shape=(1, 2, 2)))
    outputs = model.network(torch.tensor([[[[0.4, 1.6], [300.0, -5.0]]]]))
    assert np.allclose(outputs.numpy(), np.array([[0, 2, 255, 0]], dtype=np.float32) @ WEIGHT)


def test_copies_and_pickles_open_the_file_again(tmp_path):
    network = open_model(write(tmp_path / "net.onnx")).network
    inputs = torch.randn(3, 4)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(inputs), network(inputs))


def test_two_files_have_different_states(tmp_path):
    first = open_model(write(tmp_path / "a.onnx")).network.state_dict()["digest"]
    second = open_model(write(tmp_path / "b.onnx", metadata={"by": "somebody"})).network.state_dict()["digest"]
    assert not torch.equal(first, second)


def test_metadata_of_transfuse_give_preprocessing_and_class_names(tmp_path):
    told = {"preprocess": json.dumps({"mean": [1.0], "std": [2.0]}), "classes": json.dumps(["a", "<b>", "ü"])}
    model = open_model(write(tmp_path / "net.onnx", metadata=told))
    assert model.classes == ["a", "<b>", "ü"]
    assert model.preprocess.std == (2.0,)


@pytest.mark.parametrize("metadata", ["nonsense", '{"size": -3}'])
def test_metadata_that_make_no_sense_are_refused(tmp_path, metadata):
    with pytest.raises(ModelError):
        open_model(write(tmp_path / "net.onnx", metadata={"preprocess": metadata}))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0anonsense")
    with pytest.raises(ModelError, match="onnxruntime can't open it") as refused:
        open_model(f"onnx:{tmp_path / 'net.onnx'}")
    assert str(tmp_path) in refused.value.where


def test_a_missing_file_and_weights_that_are_none_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        open_model(f"onnx:{tmp_path / 'none.onnx'}")
    write(tmp_path / "net.onnx")
    with pytest.raises(ModelError) as refused:
        open_model(f"file:{tmp_path / 'net.onnx'}")
    assert "onnx:" in refused.value.fix


def test_inputs_that_are_neither_pictures_nor_rows_are_refused(tmp_path):
    with pytest.raises(ModelError, match="neither pictures"):
        open_model(write(tmp_path / "net.onnx", shape=(2, 2)), ModelRequest())


def test_its_size_is_that_of_its_file_with_the_weights_beside_it(tmp_path):
    place = write(tmp_path / "net.onnx")
    alone = (tmp_path / "net.onnx").stat().st_size
    assert tensor_bytes(open_model(place).network) == alone + 32  # and the digest
    (tmp_path / "net.onnx.data").write_bytes(bytes(1000))
    assert tensor_bytes(nn.Sequential(open_model(place).network)) == alone + 1032


def test_inputs_that_a_graph_cannot_take_are_a_runtime_error_as_of_any_network(tmp_path):
    network = open_model(write(tmp_path / "net.onnx")).network
    with pytest.raises(RuntimeError, match="Got: 5 Expected: 4"):
        network(torch.zeros(2, 5))
    with pytest.raises(RuntimeError, match="rank"):
        network(torch.zeros(2, 1, 2, 2))


def test_an_open_batch_around_a_fixed_one_costs_the_larger_batches_their_latency(tmp_path):
    write(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 4], dtype=np.int64), "single"))
    model.graph.node[1].CopyFrom(onnx.helper.make_node("Reshape", ["values", "single"], ["flat"]))
    onnx.save(model, tmp_path / "net.onnx")
    found, reasons = latencies(open_model(f"onnx:{tmp_path / 'net.onnx'}").network, torch.zeros(1, 4), runs=1)
    assert found["batch_1"] is not None
    assert found["batch_8"] is None
    assert "can't take a batch of 8" in reasons["latency_ms.batch_8"]
