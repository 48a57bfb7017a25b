"""One folder of files = one registry, found by file name, plus entry points.

Names and one-line summaries come from the files as text, so listing a registry imports no method (and no torch). A broken optional
dependency breaks only the file that needs it.
"""

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from transfuse.errors import TransfuseError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns " - did you mean 'x'?" for a near miss, else an empty string."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:  # "resnet_50" for "resnet50", "KD" for "kd"
        squeezed = {name.replace("_", "").replace("-", "").lower(): name for name in known}
        close = [squeezed[key] for key in [word.replace("_", "").replace("-", "").lower()] if key in squeezed]
    return f" - did you mean '{close[0]}'?" if close else ""


class Registry:
    """The methods in one package folder (and its subfolders), one per file.

    Args:
        package: dotted name of the folder, such as "transfuse.objectives"; also the entry-point group of plug-ins.
        kind: what a member is called in messages, such as "objective".
        error: raised for an unknown name.
        skip: file names (without .py) in the folder that are not members.
        nested: whether files in subfolders are members too.
        listed: where all names are listed, for messages about an unknown one; empty: the message names them all.
    """

    def __init__(
        self, package: str, kind: str, error: type[TransfuseError], skip: tuple[str, ...] = (), nested: bool = True, listed: str = ""
    ):
        self.package, self.kind, self.error, self.skip, self.nested, self.listed = package, kind, error, skip, nested, listed
        self._found: dict[str, str] | None = None

    def _files(self) -> dict[str, Path]:
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return {}
        found: dict[str, Path] = {}
        for root in map(Path, spec.submodule_search_locations):
            for path in sorted(root.rglob("*.py") if self.nested else root.glob("*.py")):
                hidden = any(part.startswith("_") for part in path.relative_to(root).with_suffix("").parts)
                if not hidden and path.stem not in self.skip:
                    found[path.stem] = path
        return found

    def _modules(self) -> dict[str, str]:
        if self._found is None:
            found = {}
            for name, path in self._files().items():
                parts = path.with_suffix("").parts
                start = len(parts) - 1 - parts[::-1].index("transfuse")
                found[name] = ".".join(parts[start:])
            for point in importlib.metadata.entry_points(group=self.package):
                found.setdefault(point.name, point.value)
            self._found = found
        return self._found

    def names(self) -> list[str]:
        """All member names, sorted."""
        return sorted(self._modules())

    def module(self, name: str) -> ModuleType:
        """The module that defines a member.

        Raises:
            TransfuseError: the registry's own error, with a suggestion, when there is no such member.
        """
        modules = self._modules()
        if name not in modules:
            fix = f"all of them: {self.listed}" if self.listed else f"known: {', '.join(sorted(modules))}"
            raise self.error(f"unknown {self.kind} '{name}'{did_you_mean(name, modules)}", fix=fix)
        return importlib.import_module(modules[name].split(":")[0])

    def get(self, name: str) -> Any:
        """The class in a member's file: its name without case or underscores is the file's name (`cross_entropy` -> CrossEntropy)."""
        module = self.module(name)
        value = self._modules()[name]
        if ":" in value:  # an entry point says the attribute itself
            return getattr(module, value.split(":")[1])
        wanted = name.replace("_", "").lower()
        for attribute in vars(module).values():
            if isinstance(attribute, type) and attribute.__module__ == module.__name__ and attribute.__name__.lower() == wanted:
                return attribute
        raise self.error(f"{module.__name__} defines no class named like its file", fix=f"name the class '{name}' in CamelCase")

    def attribute(self, attribute: str) -> Any:
        """Finds a public function or class by its own name (`kd_loss`, `KD`) without the caller knowing the file.

        Raises:
            AttributeError: no member defines it.
        """
        stem = attribute.removesuffix("_loss")
        wanted = stem.replace("_", "").lower()
        for name in self._modules():
            if name.replace("_", "").lower() == wanted:
                module = self.module(name)
                if hasattr(module, attribute):
                    return getattr(module, attribute)
        raise AttributeError(f"{self.package} has no '{attribute}'{did_you_mean(stem, self._modules())}")

    def summaries(self) -> dict[str, str]:
        """Name -> first line of the file's docstring, read as text."""
        lines = {}
        files = self._files()
        for name in self.names():
            doc = ast.get_docstring(ast.parse(files[name].read_text(encoding="utf-8"))) if name in files else None
            lines[name] = (doc or "a plug-in").strip().splitlines()[0]
        return lines
