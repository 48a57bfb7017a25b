"""State dicts as they lie about: prefixes, wrappings, other names, damage, pickles."""

import os
import pickle

import pytest
import torch
from torch import nn

from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError
from transfuse.models import load_weights, open_model
from transfuse.models.weights import fit_names, load_into, read_state


def resnet(seed: int = 0, shortcut: str = "B") -> nn.Module:
    return open_model("builtin:resnet8", ModelRequest(outputs=5, options={"shortcut": shortcut}, seed=seed)).network


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "_orig_mod.module.", "module.model.", "model.net."])
@pytest.mark.parametrize("wrapping", [(), ("state_dict",), ("model_state_dict",), ("model",), ("net",), ("checkpoint_of", "model")])
def test_prefixes_and_wrapping_keys_are_found(tmp_path, prefix, wrapping):
    trained, fresh = resnet(1), resnet(2)
    content: dict = {prefix + key: value for key, value in trained.state_dict().items()}
    if wrapping[:1] == ("checkpoint_of",):
        content = {"state_dict": {"model": content}, "epoch": 3}
    elif wrapping:
        content = {wrapping[0]: content, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "weights.pth")
    load_into(fresh, read_state(tmp_path / "weights.pth", trusted=False), "weights.pth")
    assert same(trained, fresh)


def test_other_names_of_the_same_layers_are_known():
    trained, fresh = resnet(1), resnet(2)
    renamed = {key.replace(".shortcut.", ".downsample.").replace("linear.", "fc."): value for key, value in trained.state_dict().items()}
    load_into(fresh, {f"module.{key}": value for key, value in renamed.items()}, "x")
    assert same(trained, fresh)


def test_a_network_that_really_has_the_prefix_keeps_it():
    wrapped = nn.ModuleDict({"model": nn.Linear(2, 3)})
    assert set(fit_names(dict(wrapped.state_dict()), wrapped)) == {"model.weight", "model.bias"}


def test_counters_that_older_files_lack_are_not_missed():
    trained, fresh = resnet(1), resnet(2)
    old = {key: value for key, value in trained.state_dict().items() if not key.endswith("num_batches_tracked")}
    load_into(fresh, old, "x")
    assert same(trained, fresh)


def test_a_mismatch_is_a_table_and_changes_nothing():
    other = open_model("builtin:resnet8", ModelRequest(outputs=5, options={"shortcut": "A", "width": 2.0})).network
    fresh, before = resnet(2), resnet(2)
    with pytest.raises(ModelError) as caught:
        load_into(fresh, dict(other.state_dict()), "r8.th")
    text = str(caught.value)
    assert "r8.th" in text
    assert "conv1.weight" in text
    assert "file (32, 3, 3, 3), network (16, 3, 3, 3)" in text
    assert "more" in text
    assert same(fresh, before)


def test_missing_and_unexpected_names_are_told_apart():
    state = dict(resnet(1).state_dict())
    state["extra.weight"] = state.pop("linear.weight")
    with pytest.raises(ModelError, match=r"0 other shapes, 1 missing, 1 unexpected") as caught:
        load_into(resnet(), state, "x")
    assert "linear.weight  missing" in str(caught.value)
    assert "extra.weight" in str(caught.value)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": Trap(sprung)}, tmp_path / "trap.pth")
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("trap.pth", "trap.pkl"):
        with pytest.raises(ModelError, match="trusted: true"):
            read_state(tmp_path / name, trusted=False)
    assert not sprung.exists()


def test_a_trusted_file_may_hold_the_whole_module(tmp_path):
    module = resnet(1)
    torch.save(module, tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="pickled Python objects"):
        read_state(tmp_path / "whole.pt", trusted=False)
    assert same(read_state(tmp_path / "whole.pt", trusted=True), module)


@pytest.mark.parametrize("name", ["weights.pth", "legacy.pth", "weights.safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, name, keep):
    from safetensors.torch import save_file

    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(resnet().state_dict(), path)
    else:
        torch.save(resnet().state_dict(), path, _use_new_zipfile_serialization=name == "weights.pth")
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ModelError, match=r"truncated") as caught:
        read_state(path, trusted=False)
    assert name in str(caught.value)


@pytest.mark.parametrize("content", [b"not weights at all\n", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04 no zip"])
def test_other_files_are_named(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.pt: truncated, damaged or not a torch file"):
        read_state(tmp_path / "x.pt", trusted=False)


def test_what_is_no_state_dict_is_described(tmp_path):
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "x.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="a dict with 'epoch', 'names'"):
        read_state(tmp_path / "x.pt", trusted=False)
    with pytest.raises(ModelError, match="a list"):
        read_state(tmp_path / "list.pt", trusted=False)


def test_missing_files_and_folders_are_told(tmp_path):
    (tmp_path / "resnet20.pth").touch()
    with pytest.raises(ModelError, match=r"did you mean 'resnet20\.pth'"):
        read_state(tmp_path / "resnet2.pth", trusted=False)
    with pytest.raises(ModelError, match="run:FOLDER"):
        read_state(tmp_path, trusted=False)


def test_a_live_module_takes_weights_from_a_file(tmp_path):
    trained, fresh = resnet(1), resnet(2)
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    load_weights(fresh, tmp_path / "x.pth")
    assert same(trained, fresh)
