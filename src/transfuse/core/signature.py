"""Constructor signature + docstring -> parameter list: the only source from which a method's recipe block is made."""

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import docstring_parser


@dataclass(frozen=True)
class Parameter:
    """One constructor parameter: its type as annotated (constraints included), default and description."""

    name: str
    annotation: Any
    default: Any
    description: str

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


def parameters(constructor: Callable[..., Any]) -> list[Parameter]:
    """Parameters of a class's constructor or of a function, in order, `self` left out.

    Raises:
        TypeError: a parameter has no annotation, or hides others behind *args or **kwargs: such a signature can't be a schema.
    """
    target = constructor.__init__ if isinstance(constructor, type) else constructor
    if target is object.__init__ or target.__module__.startswith("torch.nn"):  # nn.Module's own: the class has no constructor
        return []
    hints = typing.get_type_hints(target, include_extras=True)
    described = {entry.arg_name: entry.description or "" for entry in docstring_parser.parse(inspect.getdoc(constructor) or "").params}
    found = []
    for name, parameter in inspect.signature(target).parameters.items():
        if name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{constructor.__qualname__} takes *{name}: a recipe can't describe it")
        if name not in hints:
            raise TypeError(f"{constructor.__qualname__}: parameter '{name}' has no type")
        text = " ".join(described.get(name, "").split())
        found.append(Parameter(name, hints[name], parameter.default, text))
    return found
