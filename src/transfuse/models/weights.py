"""Reads state dicts as they are found in the wild and fits their names to a network."""

from __future__ import annotations

import pickle
import pickletools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from transfuse.core.registry import did_you_mean
from transfuse.errors import ModelError

WRAPPING_KEYS = ("state_dict", "model_state_dict", "model", "net", "module", "network", "weights", "params")
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "backbone.", "student.")
_ROWS = 12  # of a mismatch table


def read_state(path: Path, trusted: bool) -> Any:
    """A file's state dict; or the whole module, where a trusted file holds one.

    Raises:
        ModelError: no such file, damaged, not weights, or in need of unpickling without being trusted.
    """
    path = path.expanduser()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else f"no such file{_near(path)}"
        raise ModelError(what, where=str(path), fix="run:FOLDER opens a run, timm:FOLDER a timm folder" if path.is_dir() else None)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"truncated or not a safetensors file ({error})", str(path), "get or write the file again") from error
    return _unwrap(_load(path, trusted), path)


def _near(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return did_you_mean(path.name, siblings)


def _load(path: Path, trusted: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's hints about foreign files; what matters of them is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        if not _needs_unpickling(error, path):
            raise ModelError(
                f"truncated, damaged or not a torch file ({_first_line(error)})", str(path), "get or write it again"
            ) from error
        if not trusted:
            raise ModelError(
                "the file holds pickled Python objects or TorchScript, which can run code when opened",
                where=str(path),
                fix="save the state dict alone (torch.save(model.state_dict(), …)), or say trusted: true if the file is your own",
            ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs what the file says: anything can go wrong there
        raise ModelError(f"can't be unpickled: {type(error).__name__}: {_first_line(error)}", str(path)) from error


def _needs_unpickling(error: BaseException, path: Path) -> bool:
    """Whether the safe loader met an object that it doesn't build, rather than a damaged file."""
    text = str(error).lower()
    if "unsupported operand" in text:  # an instruction that torch.save doesn't write: another program's pickle, or no pickle at all
        try:
            with open(path, "rb") as file:
                return all(True for _ in pickletools.genops(file))  # reads instructions without following them
        except ValueError:
            return False
    return any(words in text for words in ("unsupported global", "unsupported class", "torchscript"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _unwrap(value: Any, path: Path) -> Any:
    """Follows wrapping keys down to a dict of tensors (or a module)."""
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, dict):
        for key in WRAPPING_KEYS:
            if isinstance(value.get(key), (dict, nn.Module)):
                return _unwrap(value[key], path)
        tensors = {str(key): entry for key, entry in value.items() if isinstance(entry, Tensor)}
        if tensors:
            return tensors
    held = f"a dict with {', '.join(map(repr, list(value)[:8]))}" if isinstance(value, dict) else f"a {type(value).__name__}"
    raise ModelError(f"holds no state dict, but {held}", str(path), f"looked under {', '.join(WRAPPING_KEYS)}")


def _is_bookkeeping(key: str) -> bool:
    """Values that older files lack or that profilers leave behind; no network's outputs depend on them in eval mode."""
    return key.rsplit(".", 1)[-1] in ("num_batches_tracked", "total_ops", "total_params")


def _renamings(state: dict[str, Tensor], aliases: tuple[tuple[str, str], ...]) -> Iterator[dict[str, Tensor]]:
    """The state dict with prefixes taken off, level by level, each with and without the architecture's other names."""
    levels, seen = [state], {tuple(state)}
    for level in levels:
        yield level
        renamed = level
        for old, new in aliases:
            renamed = {_renamed(key, old, new): value for key, value in renamed.items()}
        yield renamed
        for prefix in PREFIXES:
            if any(key.startswith(prefix) for key in level):
                stripped = {key.removeprefix(prefix): value for key, value in level.items()}
                if tuple(stripped) not in seen and len(seen) < 64:
                    seen.add(tuple(stripped))
                    levels.append(stripped)


def _renamed(key: str, old: str, new: str) -> str:
    if old.startswith("."):
        return key.replace(old, new)
    return new + key.removeprefix(old) if key.startswith(old) else key


def fit_names(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The state dict under the names of the module, as far as known prefixes and other names go."""
    wanted = {key for key in module.state_dict() if not _is_bookkeeping(key)}
    aliases: tuple[tuple[str, str], ...] = getattr(type(module), "aliases", ())
    return max(_renamings(state, aliases), key=lambda candidate: len(wanted & set(candidate)))


def differences(module: nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Names that a state dict lacks, names that the module doesn't have, and names under which both have other shapes."""
    own = module.state_dict()
    missing = [key for key in own if key not in state and not _is_bookkeeping(key)]
    unexpected = [key for key in state if key not in own and not _is_bookkeeping(key)]
    return missing, unexpected, [key for key in own if key in state and own[key].shape != state[key].shape]


class Misfit(ModelError):
    """Weights and a network don't go together.

    Attributes:
        counts: how many names differ in which way, in words.
        example: the first of them.
    """

    counts = example = ""


def load_into(module: nn.Module, state: dict[str, Tensor], where: str, name: str | None = None) -> None:
    """Loads a state dict whose names already fit, or fit after `fit_names`; nothing is changed when something doesn't.

    Args:
        module: takes the weights.
        state: the weights.
        where: they come from.
        name: of the network in messages; None: its class's.

    Raises:
        Misfit: names or shapes differ; lists them.
    """
    state = fit_names(state, module)
    own = module.state_dict()
    missing, unexpected, shapes = differences(module, state)
    if missing or unexpected or shapes:
        rows = [(f"{key}", "shape", f"file {tuple(state[key].shape)}, network {tuple(own[key].shape)}") for key in shapes]
        rows += [(key, "missing", f"network {tuple(own[key].shape)}") for key in missing]
        rows += [(key, "unexpected", f"file {tuple(state[key].shape)}") for key in unexpected]
        counts = f"{len(shapes)} other shapes, {len(missing)} missing, {len(unexpected)} unexpected"
        what = f"the weights don't fit {name or type(module).__name__}: {counts}\n{_table(rows)}"
        misfit = Misfit(what, where, "check architecture and options (such as options: {shortcut: B})")
        misfit.counts, misfit.example = counts, " ".join(rows[0])
        raise misfit
    own.update({key: state[key] for key in own if key in state})  # keeps the versions that some networks (MNASNet) ask for
    module.load_state_dict(own)


def _table(rows: list[tuple[str, str, str]]) -> str:
    width = max(len(row[0]) for row in rows[:_ROWS])
    lines = [f"    {name:<{width}}  {kind:<10}  {detail}" for name, kind, detail in rows[:_ROWS]]
    if len(rows) > _ROWS:
        lines.append(f"    … and {len(rows) - _ROWS} more")
    return "\n".join(lines)
