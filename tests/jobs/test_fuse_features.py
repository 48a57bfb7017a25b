"""Fused features of small networks on real digits: what is remembered, what ships, what each source is worth, who is refused."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from transfuse import data as sources_of_data
from transfuse.core.heads import read_ending
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import DataRequest, Model, ModelRequest
from transfuse.data.samples import no_labels, relabel
from transfuse.errors import DataError, ModelError
from transfuse.evaluate.predict import predict
from transfuse.jobs.context import Context
from transfuse.jobs.fusing.features import contributions, fuse_features, open_backbones
from transfuse.jobs.rundir import RunDir
from transfuse.models import open_model, save_model
from transfuse.recipe.blocks import CacheBlock, TrainBlock
from transfuse.recipe.fused_features import FeaturesBlock

HEADS = TrainBlock(steps=40, batch_size=64, optimizer={"adamw": {"lr": 0.01}})
OWN = {"conv": Preprocess(scale=1 / 16, mean=(0.3,), std=(0.4,)), "mlp": Preprocess(scale=1 / 8, mean=(1.0,))}


@pytest.fixture(scope="module")
def digits():
    return sources_of_data.open_data("bundled:digits", DataRequest(labels_per_class=20))


@pytest.fixture(scope="module")
def networks(digits):
    """Untrained: random features tell digits apart well enough, and are at hand at once."""
    found = {}
    for seed, (name, source, options) in enumerate(
        [("conv", "builtin:convnet", {"widths": [8, 16]}), ("mlp", "builtin:mlp", {"widths": [24]})]
    ):
        request = ModelRequest(outputs=10, input_shape=digits.input_shape, options=options, seed=seed)
        found[name] = open_model(source, request)
        found[name].preprocess = OWN[name]
    return found


def opened(folder, digits, networks, cache=None, **settings):
    context = Context(RunDir(folder / "run"))
    context.rundir.path.mkdir(parents=True, exist_ok=True)
    block = FeaturesBlock(**{"train": HEADS, **settings})
    return open_backbones(context, networks, digits, block, CacheBlock(dir=str(cache or folder / "cache")), 0)


def test_what_ships_says_what_the_heads_learnt_and_opens_from_its_file(tmp_path, digits, networks):
    ready = opened(tmp_path, digits, networks)
    fused = fuse_features(ready, "weighted_sum", {"width": 16})
    outputs = predict(fused.model.network, digits.val, fused.model.preprocess)
    assert (outputs.argmax(1) == digits.val.labels).float().mean().item() == pytest.approx(fused.score)
    assert fused.score > 0.6
    assert sum(fused.figures["alpha"].values()) == pytest.approx(2.0)
    save_model(fused.model, tmp_path / "student.safetensors", {})
    again = open_model(f"file:{tmp_path}/student.safetensors")
    assert torch.equal(predict(again.network, digits.val, again.preprocess), outputs)


def at_start(folder, digits, networks, rule="concat", **settings):
    """What is fused without any training worth the name."""
    still = HEADS.model_copy(update={"steps": 1, "optimizer": {"adamw": {"lr": 1e-12}}})
    return fuse_features(opened(folder, digits, networks, train=still, contributions=False, **settings), rule, {"width": 24})


def test_before_the_first_step_fused_features_say_what_the_mean_of_the_sources_logits_says(tmp_path, digits, networks):
    expected = torch.stack([predict(model.network, digits.val, OWN[name]) for name, model in networks.items()]).mean(0)
    for rule in ("concat", "attention"):
        fused = at_start(tmp_path / rule, digits, networks, rule)
        said = predict(fused.model.network, digits.val, fused.model.preprocess)
        torch.testing.assert_close(said.log_softmax(1), expected.log_softmax(1), rtol=1e-5, atol=1e-5)
        assert fused.figures["reached"]["start"] == fused.figures["reached"]["heads"] == fused.score


def test_a_head_at_random_is_there_where_it_is_asked_for_or_a_source_has_none_over_the_same_classes(tmp_path, digits, networks):
    assert "start" not in at_start(tmp_path / "random", digits, networks, start="random").figures["reached"]
    options = {"widths": [8]}
    narrow = open_model("builtin:mlp", ModelRequest(outputs=4, input_shape=digits.input_shape, options=options, seed=9))
    narrow.preprocess = OWN["mlp"]
    others = {"conv": networks["conv"], "narrow": narrow}
    assert "start" not in at_start(tmp_path / "auto", digits, others).figures["reached"]
    with pytest.raises(ModelError, match=r"features.start \(sources.narrow\): .* a layer of 4 outputs, and the data have 10"):
        opened(tmp_path / "sources", digits, others, start="sources")


def test_sources_are_asked_once_however_many_rules_are_tried_and_stay_as_they_are(tmp_path, digits, networks):
    before = {name: copy.deepcopy(model.network.state_dict()) for name, model in networks.items()}
    ready = opened(tmp_path, digits, networks)
    assert ready.forwards == 2 * (len(digits.train) + len(digits.val))
    for rule in ("concat", "gated_sum", "attention"):
        assert fuse_features(ready, rule, {"width": 8}).score > 0.3
    assert opened(tmp_path / "other", digits, networks, cache=tmp_path / "cache").forwards == 0
    for name, model in networks.items():
        assert all(torch.equal(value, before[name][key]) for key, value in model.network.state_dict().items())
        assert model.network(torch.zeros(1, *digits.input_shape)).shape == (1, 10)


def test_contributions_add_up_to_what_the_sources_are_worth_together(tmp_path, digits, networks):
    ready = opened(tmp_path, digits, networks)
    fused = fuse_features(ready, "concat", {"width": 8})
    worth = fused.figures["contributions"]
    everyone = fused.score
    assert worth["leave_one_out"]["mlp"] == pytest.approx(everyone - worth["alone"]["conv"])
    chance = torch.bincount(digits.train.labels[digits.train.labels >= 0]).argmax()
    floor = (digits.val.labels == chance).float().mean().item()
    assert sum(worth["shapley"].values()) == pytest.approx(everyone - floor)


def test_a_head_that_is_trained_is_not_trained_again(tmp_path, digits, networks):
    first = fuse_features(opened(tmp_path, digits, networks), "gated_sum", {"width": 8})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    again = fuse_features(opened(tmp_path, digits, networks), "gated_sum", {"width": 8})
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines
    for key, value in first.model.network.state_dict().items():
        assert torch.equal(value, again.model.network.state_dict()[key])


def test_only_the_head_learns_where_only_the_head_is_asked_for(tmp_path, digits, networks):
    plain = {"contributions": False, "standardise": "none"}
    head = fuse_features(opened(tmp_path, digits, networks, tune="head", **plain), "concat", {"width": 8}).model.network
    still = HEADS.model_copy(update={"steps": 1, "optimizer": {"adamw": {"lr": 1e-12}}})
    untrained = fuse_features(opened(tmp_path / "u", digits, networks, train=still, **plain), "concat", {"width": 8}).model.network
    for first, second in zip(head.top.rule.parameters(), untrained.top.rule.parameters(), strict=True):
        torch.testing.assert_close(first, second)
    assert not torch.allclose(head.top.head.weight, untrained.top.head.weight, atol=1e-3)


def test_everything_is_trained_where_it_is_asked_for_and_validation_gets_no_worse(tmp_path, digits, networks):
    whole = TrainBlock(steps=40, batch_size=64, optimizer={"adamw": {"lr": 0.003}})
    ready = opened(tmp_path, digits, networks, tune="all", finetune=whole, contributions=False)
    fused = fuse_features(ready, "concat", {"width": 8})
    assert fused.figures["reached"]["all"] >= fused.figures["reached"]["heads"]
    moved = [not torch.equal(new, old) for new, old in zip(fused.model.network.members.parameters(), _all(ready), strict=True)]
    assert all(moved)


def _all(ready):
    return [parameter for member in ready.members.values() for parameter in member.parameters()]


class Same(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 10)

    def forward(self, inputs):
        return self.last(inputs.new_ones(len(inputs), 4))


def test_sources_without_features_are_refused_by_name(tmp_path, digits, networks):
    broken = copy.deepcopy(networks["mlp"])
    with torch.no_grad():
        next(broken.network.parameters())[0, 0] = torch.nan
    table = Model(None, "predictions:a.csv", table=(digits.train.ids, torch.zeros(len(digits.train), 10)))
    constant = Model(Same(), "live:Same", preprocess=Preprocess())
    cases = {
        "NaN or infinity": broken,
        "is a table of predictions and has no features": table,
        "the same for all": constant,
        "the very weights of source 'conv'": copy.deepcopy(networks["conv"]),
    }
    for words, model in cases.items():
        with pytest.raises(ModelError, match=words) as caught:
            opened(tmp_path / "refused", digits, {"conv": networks["conv"], "other": model})
        assert "sources.other" in str(caught.value)


def test_without_any_label_it_says_what_needs_none(tmp_path, digits, networks):
    silent = replace(digits, train=relabel(digits.train, no_labels(digits.train.labels)))
    with pytest.raises(DataError, match="how: distill or amalgamate"):
        opened(tmp_path, silent, networks)


def test_pictures_in_files_reach_every_backbone_as_its_own_evaluation_path_shows_them(tmp_path):
    random = np.random.default_rng(0)
    for name in ("ants", "bees"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            size = (int(random.integers(20, 40)), int(random.integers(20, 40)), 3)
            Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / "pictures" / name / f"{number}.png")
    data = sources_of_data.open_data(f"images:{tmp_path / 'pictures'}", DataRequest(size=16))
    paths = {
        "wide": Preprocess(size=(16, 16), scale=1 / 255, crop=0.875, resize="short_side"),
        "small": Preprocess(size=(8, 8), channels=1),
    }
    found = {}
    for seed, (name, preprocess) in enumerate(paths.items()):
        shape = (preprocess.channels or 3, *(preprocess.size or ()))
        found[name] = open_model("builtin:convnet", ModelRequest(outputs=2, input_shape=shape, options={"widths": [4, 4]}, seed=seed))
        found[name].preprocess = preprocess
    ready = opened(tmp_path, data, found)
    wide = found["wide"].network
    expected = read_ending(wide, data.train.exact(range(4), paths["wide"])).inputs
    torch.testing.assert_close(ready.train.raw(range(4))[:, : ready.dims["wide"]], expected, rtol=1e-4, atol=1e-5)
    assert fuse_features(ready, "concat", {"width": 4}).model.preprocess == Preprocess(size=(18, 18), channels=3, resize="short_side")


def test_contributions_of_many_sources_are_alone_and_left_out(tmp_path, digits, networks, monkeypatch):
    monkeypatch.setattr("transfuse.fusion.contribution.MOST_SOURCES", 1)
    ready = opened(tmp_path, digits, networks, contributions=False)
    found = contributions(ready, "concat", {"width": 8}, fuse_features(ready, "concat", {"width": 8}).score)
    assert found.keys() == {"alone", "leave_one_out"}
