"""A fused network written and opened again."""

import json

import pytest
import torch

from tests.core.fused_networks import fused
from tests.core.test_fused import RAW
from transfuse.core.fused import described
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError
from transfuse.fusion.standardise import whitening
from transfuse.models import open_model, save_model

RULES = {
    "concat": {"projection": "none"},
    "weighted_sum": {"width": 6, "weights": "free"},
    "gated_sum": {"width": 6, "projection": "mlp"},
    "attention": {"width": 8, "heads": 2},
}


def saved(folder, rule="concat"):
    network = fused(rule, RULES[rule])
    network.top.standardise([whitening(part) for part in network.columns(RAW).split(network.top.dims, 1)])
    network.top.fold()
    architecture, options = described(network)
    model = Model(network, str(architecture), architecture, options, Preprocess(), list("abcde"))
    save_model(model, folder / "student.safetensors", {})
    return network


@pytest.mark.parametrize("rule", RULES)
def test_it_opens_to_the_same_bits_with_any_rule(tmp_path, rule):
    network = saved(tmp_path, rule)
    model = open_model(f"file:{tmp_path}/student.safetensors")
    assert torch.equal(model.network(RAW), network(RAW))
    assert model.network.names == network.names
    assert (model.classes, model.preprocess, model.pretrained) == (list("abcde"), Preprocess(), True)


def test_another_number_of_outputs_replaces_the_last_layer_and_says_so(tmp_path):
    network = saved(tmp_path)
    model = open_model(f"file:{tmp_path}/student.safetensors", ModelRequest(outputs=3))
    assert model.network(RAW).shape == (6, 3)
    assert torch.equal(model.network.columns(RAW), network.columns(RAW))
    assert "the file has 5 outputs, 3 are needed" in model.notes[0]


def test_a_description_that_names_a_file_or_nothing_is_refused(tmp_path):
    saved(tmp_path)
    place = tmp_path / "student.json"
    facts = json.loads(place.read_text())
    options = facts["options"]
    for change in ({"members": [{**options["members"][0], "architecture": "file:other.pt"}]}, {"members": None}, {"dims": [1]}):
        place.write_text(json.dumps({**facts, "options": {**options, **change}}))
        with pytest.raises(ModelError, match="description can't be read"):
            open_model(f"file:{tmp_path}/student.safetensors")
    place.write_text(json.dumps({**facts, "architecture": "fused:conkat"}))
    with pytest.raises(ModelError, match="did you mean 'concat'"):
        open_model(f"file:{tmp_path}/student.safetensors")


def test_without_a_description_it_says_where_fused_networks_come_from():
    with pytest.raises(ModelError, match="opened from the run that made it"):
        open_model("fused:concat")
