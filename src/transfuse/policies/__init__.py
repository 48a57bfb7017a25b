"""Policies: one file = one way to fine-tune a pretrained network: what is trained, when, and how fast.

`get("gradual")` gives the class, `names()` lists all. A policy is told the layer groups and answers with phases (`core.policy`); the one
training loop does the rest.
"""

from typing import Any

from transfuse.core.registry import Registry
from transfuse.errors import RecipeError

registry = Registry("transfuse.policies", "policy", RecipeError, nested=False)


def get(name: str) -> Any:
    """The policy's class by its file's name.

    Raises:
        RecipeError: no such policy; names the nearest.
    """
    return registry.get(name)


def names() -> list[str]:
    """All policies, plug-ins included."""
    return registry.names()
