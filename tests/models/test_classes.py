"""Output k becomes class k of the data, by name or as the recipe says."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core.types import Model, ModelRequest
from transfuse.errors import ModelError
from transfuse.models import fit_to_classes, open_model
from transfuse.models.classes import SelectedOutputs

INPUTS = torch.rand(5, 3)


def model(outputs: int, classes: list[str] | None = None) -> Model:
    opened = open_model("builtin:mlp", ModelRequest(outputs=outputs, input_shape=(3,), options={"widths": [4]}))
    opened.classes = classes
    return opened


def chosen(fitted: Model, original: Model) -> list[int]:
    """Which columns of the original the fitted model gives."""
    before, after = original.network(INPUTS), fitted.network(INPUTS)
    return [next(column for column in range(before.shape[1]) if torch.equal(before[:, column], after[:, k])) for k in range(after.shape[1])]


def test_a_mapping_chooses_outputs():
    original = model(10)
    fitted = fit_to_classes(original, ["ants", "bees"], {"bees": 2, "ants": 7})
    assert chosen(fitted, original) == [7, 2]
    assert fitted.classes == ["ants", "bees"]
    assert not isinstance(original.module, SelectedOutputs)


def test_a_list_names_the_outputs_in_order():
    original = model(4)
    assert chosen(fit_to_classes(original, ["c", "a"], ["a", "b", "c", "d"]), original) == [2, 0]


def test_the_same_names_in_another_order_are_reordered_and_noted():
    original = model(3, ["a", "b", "c"])
    fitted = fit_to_classes(original, ["c", "a", "b"], None)
    assert chosen(fitted, original) == [2, 0, 1]
    assert "reordered" in fitted.notes[-1]
    assert original.notes == []


def test_the_same_names_in_the_same_order_change_nothing():
    original = model(3, ["a", "b", "c"])
    assert fit_to_classes(original, ["a", "b", "c"], None).module is original.module
    assert fit_to_classes(model(1), [], None).classes is None


@pytest.mark.parametrize(("own", "note"), [(None, "names no classes"), (["0", "1", "2"], r"the model's classes (0, 1, 2)")])
def test_other_names_are_taken_in_order_and_noted(own, note):
    fitted = fit_to_classes(model(3, own), ["a", "b", "c"], None)
    assert note in fitted.notes[-1]
    assert fitted.classes == ["a", "b", "c"]


def test_one_logit_serves_two_classes():
    assert chosen(fit_to_classes(model(1), ["no", "yes"], None), model(1)) == [0]


def test_one_logit_for_the_other_class_is_negated():
    original = model(1, ["yes", "no"])
    fitted = fit_to_classes(original, ["no", "yes"], None)
    assert torch.equal(fitted.network(INPUTS), -original.network(INPUTS))
    assert fitted.classes == ["no", "yes"]
    assert "negated" in fitted.notes[-1]
    assert original.notes == []
    assert fitted.network.get_submodule("linear") is original.network.get_submodule("linear")
    table = Model(None, "predictions:x", classes=["yes", "no"], table=(np.array([1, 2]), torch.tensor([[2.0], [-1.0]])))
    negated = fit_to_classes(table, ["no", "yes"], None).table
    assert negated is not None
    assert torch.equal(negated[1], torch.tensor([[-2.0], [1.0]]))


@pytest.mark.parametrize(
    ("own", "mapping", "message"),
    [
        (None, None, r"5 outputs, the data 2 classes.*\n.*classes: {ants: 0, bees: 1"),
        (["w", "bees", "x", "ants", "y"], None, r"choose outputs with classes: {ants: 3, bees: 1}"),
        (None, {"ants": 1}, "no output for 'bees'"),
        (None, {"ants": 1, "bees": 2, "beez": 3}, "'beez' is no class of the data - did you mean 'bees'"),
        (None, {"ants": 1, "bees": 5}, r"'bees' is output 5, the model has 5 \(0 to 4\)"),
        (None, {"ants": 1, "bees": -1}, "output -1"),
        (None, {"ants": 1, "bees": 1}, "one output to two classes"),
        (None, ["ants", "bees"], "names 2 outputs, the model has 5"),
        (None, ["ants", "bee", "c", "d", "e"], "no output 'bees' - did you mean 'bee'"),
        (None, ["ants", "bees", "bees", "d", "e"], "twice"),
    ],
)
def test_what_does_not_fit_says_how_to_fix_it(own, mapping, message):
    with pytest.raises(ModelError, match=message):
        fit_to_classes(model(5, own), ["ants", "bees"], mapping)


def test_tables_are_selected_too():
    logits = torch.rand(2, 4)
    original = Model(None, "predictions:x", classes=["a", "b", "c", "d"], table=(np.array([1, 2]), logits))
    fitted = fit_to_classes(original, ["d", "a"], {"d": 3, "a": 0})
    assert fitted.table is not None
    assert torch.equal(fitted.table[1], logits[:, [3, 0]])
    with pytest.raises(ModelError, match="4 outputs, the data 2"):
        fit_to_classes(original, ["d", "a"], None)


def test_a_choice_can_be_fitted_again():
    original = model(6)
    once = fit_to_classes(original, ["a", "b", "c"], {"a": 5, "b": 3, "c": 1})
    assert chosen(fit_to_classes(once, ["c", "a"], {"c": 2, "a": 0}), original) == [1, 5]


def test_inner_modules_keep_their_paths_and_copies_work():
    original = open_model("builtin:resnet8", ModelRequest(outputs=5))
    fitted = fit_to_classes(original, ["a", "b"], {"a": 1, "b": 4})
    assert fitted.network.get_submodule("layer3.0.conv1") is original.network.get_submodule("layer3.0.conv1")
    assert fitted.network.layer3 is original.network.layer3
    pictures = torch.rand(2, 3, 32, 32)
    assert torch.equal(copy.deepcopy(fitted.network)(pictures), original.network(pictures)[:, [1, 4]])
    with pytest.raises(AttributeError):
        _ = fitted.network.layer9
    with pytest.raises(AttributeError):
        _ = SelectedOutputs.__new__(SelectedOutputs).layer3


def test_a_live_module_of_unknown_size_is_trusted():
    class Opaque(nn.Module):
        def forward(self, inputs):
            return inputs

    fitted = fit_to_classes(open_model(Opaque(), ModelRequest()), ["a", "b"], {"a": 2, "b": 0})
    assert torch.equal(fitted.network(INPUTS), INPUTS[:, [2, 0]])
