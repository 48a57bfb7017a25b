"""YAML text -> plain values and the line on which each key stands. Nothing but data can come out of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from transfuse.errors import RecipeError

Key = tuple[str | int, ...]
_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
         |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
         |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
         |[-+]?\.(?:inf|Inf|INF)
         |\.(?:nan|NaN|NAN))$""",
    re.X,
)
_PLAIN_TAGS = ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge")
_DEEPEST = 50  # blocks in blocks; a recipe has six
_LARGEST = 100_000  # nodes after aliases are followed; a recipe has a few hundred


def _with_plain_floats(base: Any) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Implicit resolvers in which 1e-3 is a number: YAML 1.1, and so PyYAML, reads it as text for want of a dot."""
    resolvers = {
        first: [(tag, pattern) for tag, pattern in entries if tag != "tag:yaml.org,2002:float"]
        for first, entries in base.yaml_implicit_resolvers.items()
    }
    for first in "-+0123456789.":
        resolvers[first] = [("tag:yaml.org,2002:float", _FLOAT), *resolvers.get(first, [])]
    return resolvers


class Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number."""

    yaml_implicit_resolvers = _with_plain_floats(yaml.SafeLoader)


class Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the text '1e-3', since `Loader` would read it as a number; writes no aliases."""

    yaml_implicit_resolvers = _with_plain_floats(yaml.SafeDumper)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # list items further in than their key, as people write them


@dataclass
class Document:
    """A recipe as it was written.

    Attributes:
        values: the top-level mapping.
        lines: line of each key and list item, by path.
        name: the file, as messages call it; empty for values that came from Python or the command line.
        overrides: path -> the override that set it.
    """

    values: dict[str, Any]
    lines: dict[Key, int] = field(default_factory=dict)
    name: str = ""
    overrides: dict[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """`recipe.yaml:12` or `override 'a.b=1'`: what set the key, or the nearest block around it."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.overrides:
                return f"override '{self.overrides[key[:length]]}'"
            if key[:length] in self.lines and length:
                return f"{self.name}:{self.lines[key[:length]]}"
        return self.name

    def line(self, key: Key) -> int:
        """For sorting messages: the line of the key or of the block around it; overrides come last."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.overrides:
                return _LARGEST
            if key[:length] in self.lines:
                return self.lines[key[:length]]
        return 0


def read_file(path: str | Path) -> Document:
    """Reads a recipe file.

    Raises:
        RecipeError: it can't be read, is no YAML, or holds anything but plain values.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = sorted(str(found) for found in path.parent.glob("[!.]*.y*ml"))[:5] if path.parent.is_dir() else []
        fix = f"recipes there: {', '.join(near)}" if near else "write one with: transfuse new distill recipe.yaml"
        raise RecipeError("no such file", where=str(path), fix=fix) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not a text file in UTF-8 (byte {error.start})", where=str(path), fix="give a recipe in YAML") from None
    except OSError as error:
        raise RecipeError(f"can't be read: {error.strerror}", where=str(path)) from error
    return read_text(text, str(path))


def read_text(text: str, name: str) -> Document:
    """Parses YAML by the rules of `yaml.safe_load`, and keeps line numbers.

    Raises:
        RecipeError: with file and line.
    """
    node = _compose(text, name)
    if node is None:
        raise RecipeError("is empty", where=name, fix="write one with: transfuse new distill recipe.yaml")
    if not isinstance(node, yaml.MappingNode):
        where = f"{name}:{node.start_mark.line + 1}"
        raise RecipeError("is not a recipe: its top level has no keys", where=where, fix="begin with: job: distill")
    lines: dict[Key, int] = {}
    _walk(node, (), name, lines, ())
    return Document(_construct(node, name), lines, name)


def read_value(text: str, name: str) -> Any:
    """The value of an override, parsed as YAML.

    Raises:
        RecipeError: it is no YAML, or not plain.
    """
    try:
        node = _compose(text, name)
        if node is None:
            return None
        _walk(node, (), name, {}, ())
        return _construct(node, name)
    except RecipeError as error:  # a line number says nothing about one line
        raise RecipeError(error.what, where=name, fix=error.fix) from None


def lines_of(text: str) -> dict[Key, int]:
    """Path -> line number of each key in a YAML text of our own."""
    lines: dict[Key, int] = {}
    node = _compose(text, "recipe")
    if node is not None:
        _walk(node, (), "recipe", lines, ())
    return lines


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader)
    except RecursionError:
        raise RecipeError("is nested far too deeply for a recipe", where=name, fix="check the brackets") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise RecipeError(f"is not YAML: {_problem(error)}", where=where, fix=_hint(error, text)) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"is not YAML: {error}", where=name) from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join((error.problem or "can't be parsed").split())
    return "a tab where spaces are needed" if "'\\t'" in problem else problem


def _hint(error: yaml.MarkedYAMLError, text: str) -> str | None:
    mark = error.problem_mark
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "indent with spaces"
    if error.problem and "mapping values are not allowed" in error.problem:
        return "check the indentation, and put quotes around text that has ': ' in it"
    return None


def _construct(node: yaml.Node, name: str) -> Any:
    loader = Loader("")
    try:
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RecipeError(f"can't be read: {error.problem}", where=f"{name}:{mark.line + 1}" if mark else name) from None
    except ValueError as error:  # 2026-13-45 looks like a date and isn't one
        raise RecipeError(f"can't be read: {error}", where=name, fix="put quotes around text that looks like a date or a number") from None
    finally:
        loader.dispose()


def _walk(node: yaml.Node, key: Key, name: str, lines: dict[Key, int], above: tuple[int, ...]) -> None:
    """Notes lines; refuses tags, duplicate keys, keys that aren't text, and aliases that go round or explode."""
    where = f"{name}:{node.start_mark.line + 1}"
    if node.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN_TAGS:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        what = f"the tag {tag} is not allowed: a recipe holds plain values and never runs code"
        raise RecipeError(what, where=where, fix="remove the tag")
    if id(node) in above or len(lines) > _LARGEST:
        raise RecipeError("aliases (*name) that contain themselves, or far too many of them", where=where, fix="write the values out")
    if len(above) > _DEEPEST:
        raise RecipeError("is nested far too deeply for a recipe", where=where, fix="check the brackets")
    if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
        raise RecipeError("a text with a NUL character, which no file name or option has", where=where, fix="remove the \\0")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*key, index)] = item.start_mark.line + 1
            _walk(item, (*key, index), name, lines, above)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for entry, value in node.value:
            line = entry.start_mark.line + 1
            if not isinstance(entry, yaml.ScalarNode):
                raise RecipeError("a key has to be a word", where=f"{name}:{line}")
            if entry.value in seen:
                fix = f"keep one; the first is on line {seen[entry.value]}"
                raise RecipeError(f"the key '{entry.value}' is there twice", where=f"{name}:{line}", fix=fix)
            seen[entry.value] = line
            merged = entry.tag == "tag:yaml.org,2002:merge"
            if not merged:
                lines[(*key, entry.value)] = line
            _walk(value, key if merged else (*key, entry.value), name, lines, above)
