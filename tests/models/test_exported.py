import json

import pytest
import torch
from torch import nn

from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError
from transfuse.models import open_model


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    network, path = nn.Linear(4, 3).eval(), tmp_path_factory.mktemp("program") / "student.pt2"
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 4),), dynamic_shapes=({0: batch},)), path)
    path.with_suffix(".json").write_text(json.dumps({"classes": ["a", "b", "c"], "preprocess": {"mean": [1.0]}, "options": {"outputs": 3}}))
    return network, path


def test_a_program_opens_only_with_trust(program):
    _, path = program
    with pytest.raises(ModelError, match="pickled objects"):
        open_model(f"file:{path}")


def test_a_program_gives_the_networks_answers_whatever_mode_it_is_told(program):
    network, path = program
    model = open_model(f"file:{path}", ModelRequest(trusted=True))
    inputs = torch.randn(5, 4)
    assert torch.allclose(model.network.train()(inputs), network(inputs), atol=1e-6)
    assert not model.network.training
    assert model.network.eval()(inputs[:1]).shape == (1, 3)
    assert model.classes == ["a", "b", "c"]
    assert model.preprocess.mean == (1.0,)


def test_a_damaged_program_is_named(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="can't be opened as a program"):
        open_model(f"file:{tmp_path / 'net.pt2'}", ModelRequest(trusted=True))
