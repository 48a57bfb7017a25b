"""Takes a module that the user has built: nothing is known of it but what it is."""

from torch import nn

from transfuse.core.types import Model
from transfuse.errors import ModelError


def open_module(module: nn.Module) -> Model:
    """Wraps a live module, in eval mode; it has no architecture string, so only its user can rebuild it.

    Raises:
        ModelError: not an nn.Module.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(f"a model is a source string or an nn.Module, not {type(module).__name__}", fix="such as builtin:resnet20")
    return Model(module.eval(), source=f"live:{type(module).__name__}", pretrained=True)
