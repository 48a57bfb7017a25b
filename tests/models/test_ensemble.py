"""An ensemble as one module: what its members see, that it is opened from its file, and that a description can't do harm."""

import json

import pytest
import torch

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import ModelRequest, Target
from transfuse.errors import ModelError
from transfuse.fusion import outputs as rules
from transfuse.models import open_model, save_model
from transfuse.models.ensemble import Inputs, Member, Rule, ensemble

RAW = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
CLASSES = list("abcd")
PICTURES = Inputs((3, 32, 32), Preprocess(), True)
PLACES = [
    Preprocess(size=(32, 32), channels=3, scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    Preprocess(size=(16, 16), channels=1, scale=1 / 127.5, mean=(1.0,)),
    Preprocess(),
]


def members(**last):
    found = []
    for seed, (name, place) in enumerate(zip(("resnet20", "convnet", "resnet8_tiny"), PLACES, strict=True)):
        shape = (place.channels or 3, *(place.size or (32, 32)))
        model = open_model(f"builtin:{name}", ModelRequest(outputs=4 if seed < 2 else 6, input_shape=shape, seed=seed))
        model.preprocess = place
        found.append(Member(name, model, **(last if seed == 2 else {})))
    return found


def made(rule="weighted", parts=None):
    parts = parts or members(select=[5, 0, 2, 1])
    module = rules.get(rule)()
    module.build(len(parts), 4)
    if rule == "weighted":
        module.weights.copy_(torch.tensor([0.5, 0.3, 0.2]))
    return ensemble(parts, Rule(rule, {"task": "classification", "calibrate": False}, module), CLASSES, None, PICTURES)


@torch.no_grad()
def test_each_member_sees_its_own_size_channels_and_normalisation_and_its_outputs_are_put_in_order():
    parts, model = members(select=[5, 0, 2, 1]), made()
    said = [part.model.network(place.exact_batch(RAW)) for part, place in zip(parts, PLACES, strict=True)]
    said[2] = said[2][:, [5, 0, 2, 1]]
    expected = (torch.tensor([0.5, 0.3, 0.2])[:, None, None] * torch.stack(said).softmax(-1)).sum(0)
    found = model.network(model.preprocess(RAW)).exp()
    assert torch.allclose(found, expected, atol=1e-6)
    alone = ensemble(parts[:1], Rule("mean_logits", {}, rules.get("mean_logits")()), CLASSES, None, PICTURES)
    alone.network.rule.build(1, 4)
    assert torch.allclose(alone.network(alone.preprocess(RAW)), said[0].log_softmax(-1), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("rule", rules.names())
def test_it_opens_from_its_file_to_the_same_bits(tmp_path, rule):
    model = made(rule)
    save_model(model, tmp_path / "student.safetensors", {})
    again = open_model(f"file:{tmp_path / 'student.safetensors'}")
    assert torch.equal(again.network(again.preprocess(RAW)), model.network(model.preprocess(RAW)))
    assert (again.classes, again.preprocess, again.network.names) == (CLASSES, model.preprocess, model.network.names)


@torch.no_grad()
def test_an_ensemble_can_be_a_member_of_another_one(tmp_path):
    inner = made()
    outer = made("mean_logits", [Member("both", inner), members()[0]])
    save_model(outer, tmp_path / "student.safetensors", {})
    again = open_model(f"file:{tmp_path / 'student.safetensors'}")
    assert torch.equal(again.network(again.preprocess(RAW)), outer.network(outer.preprocess(RAW)))


@torch.no_grad()
def test_a_single_logit_becomes_a_pair_and_a_regression_gets_its_scaling():
    one = open_model("builtin:mlp", ModelRequest(outputs=1, input_shape=(7,)))
    one.preprocess, columns = Preprocess(), torch.randn(4, 7)
    for parts, classes, target, expected in (
        (Member("a", one, pair=True), ["no", "yes"], None, torch.nn.functional.logsigmoid(one.network(columns))[:, 0]),
        (Member("a", one, affine=([3.0], [1.0])), [], Target(["y"], [0.0], [1.0]), one.network(columns)[:, 0] * 3 + 1),
    ):
        task = "regression" if target else "classification"
        rule = rules.get("mean_probabilities")(task)
        rule.build(1, 2 if classes else 1)
        model = ensemble([parts], Rule("mean_probabilities", {"task": task}, rule), classes, target, Inputs((7,), Preprocess(), False))
        assert torch.allclose(model.network(model.preprocess(columns))[:, -1], expected, atol=1e-6)


def test_a_live_member_can_not_be_opened_again_and_the_file_says_so(tmp_path):
    parts = members(select=[5, 0, 2, 1])
    parts[0].model.architecture = None
    model = made(parts=parts)
    assert model.source == "live:Ensemble"
    save_model(model, tmp_path / "student.safetensors", {})
    with pytest.raises(ModelError, match="given as an object"):
        open_model(f"file:{tmp_path / 'student.safetensors'}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "file:/etc/passwd"}, "is no architecture"),
        ({"preprocess": {"size": -3}}, "preprocess.size"),
        ({"grafts": None}, "description can't be read"),
    ],
)
def test_a_description_that_was_changed_is_refused(tmp_path, change, message):
    save_model(made(), tmp_path / "student.safetensors", {})
    about = json.loads((tmp_path / "student.json").read_text())
    about["options"]["members"][0] |= change
    (tmp_path / "student.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match=message):
        open_model(f"file:{tmp_path / 'student.safetensors'}")


def test_other_numbers_of_outputs_and_a_name_without_a_run_are_refused(tmp_path):
    save_model(made(), tmp_path / "student.safetensors", {})
    with pytest.raises(ModelError, match="keeps its 4 outputs, 7 were asked for"):
        open_model(f"file:{tmp_path / 'student.safetensors'}", ModelRequest(outputs=7))
    with pytest.raises(ModelError, match="opened from the run that made it"):
        open_model("ensemble:weighted")
    with pytest.raises(ModelError, match="did you mean 'weighted'"):
        open_model("ensemble:wieghted")
