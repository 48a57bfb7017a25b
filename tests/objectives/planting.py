"""Peers' wrong implementations, planted to show that the proof finds them."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from transfuse.core.types import Step
from transfuse.testing import ObjectiveDefect, check_objective


def assert_caught(
    objective_class: type[nn.Module],
    wrong: Callable[[Any, Step], Tensor],
    reference: Callable[..., Any],
    check: str = "value",
    **settings: Any,
) -> None:
    """The objective with this forward instead of its own fails the check."""
    namespace = {"forward": wrong, "__doc__": objective_class.__doc__, "__module__": objective_class.__module__}
    planted = type(objective_class.__name__, (objective_class,), namespace)
    with pytest.raises(ObjectiveDefect, match=f"^{check}:"):
        check_objective(planted, reference, checks=[check], **settings)
