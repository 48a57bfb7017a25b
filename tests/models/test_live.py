"""Live modules are taken as they are."""

import pytest
from torch import nn

from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError
from transfuse.models import open_model


class MyNetwork(nn.Linear):
    pass


def test_a_live_module_is_named_by_its_class_and_put_into_eval_mode():
    module = MyNetwork(3, 2).train()
    model = open_model(module, ModelRequest())
    assert (model.module, model.source, model.architecture, model.pretrained) == (module, "live:MyNetwork", None, True)
    assert not module.training


def test_other_objects_are_refused():
    with pytest.raises(ModelError, match="not dict"):
        open_model({"a": 1}, ModelRequest())  # type: ignore[arg-type]
