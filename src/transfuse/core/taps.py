"""Reads inner features of any network by module path, in the forward pass that gives its outputs, without editing the network."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transfuse.core.registry import did_you_mean
from transfuse.errors import ModelError

AUTO = "auto"
MOST_PREFIX_TOKENS = 5  # a class token and four registers in front of the patches
_GRAMMAR = re.compile(r"(?P<module>[^\[\]@]+)(\[(?P<item>\w+)\])?(?P<input>@input)?")


class Node(NamedTuple):
    """One module of a network: its path, its type and the shape of what it gave for one sample (None: no tensor, or not reached)."""

    path: str
    type: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Tap:
    """One place in a network, as a path names it.

    `layer3` is a module's output, `layer3.0.relu@input` its first argument, `encoder.0[1]` an entry of an output that is a tuple or a
    dictionary (without brackets: its first tensor). A module that is called more than once is read at its last call.

    Attributes:
        path: as the user wrote it.
        module: path of the module.
        item: which entry, or None.
        input: whether the argument is meant.
        copied: the tensor is changed in place after the module gave it, so it has to be copied.
        channels_last: the feature is [batch, height, width, channels].
        sequence: the feature is [batch, channels, positions].
    """

    path: str
    module: str
    item: str | None = None
    input: bool = False
    copied: bool = False
    channels_last: bool = False
    sequence: bool = False

    @classmethod
    def parse(cls, path: str) -> Tap:
        """
        Raises:
            ModelError: it is not a path.
        """
        match = _GRAMMAR.fullmatch(path.strip())
        if match is None:
            raise ModelError(f"'{path}' is not a module path", fix="write layer3, layer3.0.relu@input or encoder.0[1]")
        return cls(path, match["module"], match["item"], match["input"] is not None)

    def read(self, value: Any) -> Tensor | None:
        """The feature in what a module took or gave; None where there is no such tensor."""
        if isinstance(value, dict):
            value = value.get(self.item) if self.item is not None else _first_tensor(value.values())
        elif isinstance(value, (tuple, list)):
            if self.item is None:
                value = _first_tensor(value)
            else:
                value = value[int(self.item)] if self.item.isdigit() and int(self.item) < len(value) else None
        if not isinstance(value, Tensor):
            return None
        if self.channels_last:
            value = value.permute(0, 3, 1, 2)
        if self.sequence:
            value = value.transpose(1, 2)
        return value.clone() if self.copied else value


def _first_tensor(values: Any) -> Any:
    for value in values:
        if isinstance(value, Tensor):
            return value
    return None


class _Hook:
    """Puts a feature into a dictionary; an object rather than a closure, so that nothing of it is shared between taps."""

    def __init__(self, tap: Tap, found: dict[str, Tensor]):
        self.tap, self.found = tap, found

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any = None) -> None:
        feature = self.tap.read(arguments if self.tap.input else output)
        if feature is not None:
            self.found[self.tap.path] = feature


def _forward(module: nn.Module, found: dict[str, Tensor], inputs: Tensor) -> tuple[Any, dict[str, Tensor]]:
    found.clear()
    output = module(inputs)
    return output, dict(found)


class Taps:
    """Reads features of one network; however many there are, they cost one forward pass.

    Hooks sit on the network only while it runs, so it can be copied, saved, exported and evaluated as if nobody looked. Compiled, the
    hooks are part of the compiled code. Features in the layout [batch, height, width, channels] (Swin) are given as
    [batch, channels, height, width]; that layout is taken for granted where the first two of three sizes are equal and the third is larger.
    What a one-dimensional convolution takes and gives, [batch, channels, positions], is given as tokens, [batch, positions, channels].

    Args:
        module: the network; may be wrapped by DistributedDataParallel. Of a compiled one the original is run, since code that was compiled
            before has no hooks; `compile` compiles it anew.
        paths: module paths (see `Tap`), or "auto": the last feature of each spatial resolution, from large maps to small ones.
        example: inputs of one forward pass, run once without gradient and in eval mode; one sample does.
        compile: whether the pass runs through torch.compile, or with which of its backends.

    Attributes:
        paths: the module paths, `auto` replaced.
        shapes: each feature's shape for the example.

    Raises:
        ModelError: an unknown path (the nearest are named), one that a forward pass doesn't reach, or one that gives no tensor.
    """

    def __init__(self, module: nn.Module, paths: str | Sequence[str], example: Tensor, compile: bool | str = False):
        self.module = unwrapped(module) if isinstance(module, torch._dynamo.OptimizedModule) else module
        self._read = torch.compile(_forward, backend=compile if isinstance(compile, str) else "inductor") if compile else _forward
        wanted = [paths] if isinstance(paths, str) else list(paths)
        wanted = [found for path in wanted for found in (auto(unwrapped(module), example) if path == AUTO else [path])]
        taps = [Tap.parse(path) for path in dict.fromkeys(wanted)]
        for tap in taps:
            _require_module(unwrapped(module), tap)
        self._taps, self.shapes = _tried(unwrapped(module), taps, example)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(tap.path for tap in self._taps)

    def channels_last(self, path: str) -> bool:
        """Whether the module gives this feature as [batch, height, width, channels]."""
        return next(tap.channels_last for tap in self._taps if tap.path == path)

    def sequence(self, path: str) -> bool:
        """Whether the module gives this feature as [batch, channels, positions]."""
        return next(tap.sequence for tap in self._taps if tap.path == path)

    def __call__(self, inputs: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """The network's output and its features by path, in the order of `paths`.

        Raises:
            ModelError: this forward pass didn't reach a module that the example's did.
        """
        found: dict[str, Tensor] = {}
        with _attached(unwrapped(self.module), self._taps, found):
            output, features = self._read(self.module, found, inputs)
        for tap in self._taps:
            if tap.path not in features:
                raise ModelError(f"this forward pass of {type(self.module).__name__} didn't reach '{tap.path}'")
        return output, {tap.path: features[tap.path] for tap in self._taps}


@contextmanager
def _attached(module: nn.Module, taps: Sequence[Tap], found: dict[str, Tensor]) -> Iterator[None]:
    with ExitStack() as hooks:
        for tap in taps:
            # found anew each time: converting to SyncBatchNorm, say, replaces modules
            target = module.get_submodule(tap.module)
            attach = target.register_forward_pre_hook if tap.input else target.register_forward_hook
            hooks.callback(attach(_Hook(tap, found)).remove)
        yield


def _tried(module: nn.Module, taps: Sequence[Tap], example: Tensor) -> tuple[list[Tap], dict[str, tuple[int, ...]]]:
    """The taps, with what a forward pass shows: which features are changed in place afterwards, and which layout and shape they have."""
    found: dict[str, Tensor] = {}
    versions: dict[str, int] = {}

    def note(tap: Tap) -> Any:
        def hook(*_: Any) -> None:
            if tap.path in found:
                versions[tap.path] = found[tap.path]._version

        return hook

    # what is made in inference mode, or there already, counts no changes
    with torch.inference_mode(False), torch.no_grad(), undisturbed(module), _attached(module, taps, found), ExitStack() as hooks:
        for tap in taps:
            target = module.get_submodule(tap.module)
            attach = target.register_forward_pre_hook if tap.input else target.register_forward_hook
            hooks.callback(attach(note(tap)).remove)
        module(example.clone())
    seen, shapes = [], {}
    for tap in taps:
        if tap.path not in found:
            what = f"a forward pass of {type(module).__name__} gets no tensor from '{tap.path}'"
            raise ModelError(what, fix=f"choose a module that runs and gives one: {', '.join(_given(module, example)[-5:])}")
        shape = tuple(found[tap.path].shape)
        last, sequence = _is_channels_last(shape), len(shape) == 3 and isinstance(module.get_submodule(tap.module), nn.Conv1d)
        seen.append(Tap(tap.path, tap.module, tap.item, tap.input, found[tap.path]._version > versions[tap.path], last, sequence))
        shapes[tap.path] = (shape[0], shape[2], shape[1]) if sequence else _channels_first(shape)
    return seen, shapes


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and torch.compile, in whose paths taps are named."""
    while True:
        if isinstance(module, torch._dynamo.OptimizedModule):
            module = module._orig_mod
        elif isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            module = module.module
        else:
            return module


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """No gradient, eval mode inside, and every module's own mode again afterwards."""
    modes = {layer: layer.training for layer in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def _require_module(module: nn.Module, tap: Tap) -> None:
    known = [path for path, _ in module.named_modules() if path]
    if tap.module in known or _reached(module, tap.module):
        return
    near = difflib.get_close_matches(tap.module, known, n=5, cutoff=0.5)
    if not near:  # what lies beneath the part of the path that is right, or at the top
        parent = tap.module
        while parent and parent not in known:
            parent = parent.rpartition(".")[0]
        near = [f"{parent}.{name}" if parent else name for name, _ in module.get_submodule(parent).named_children()]
    what = f"{type(module).__name__} has no module '{tap.module}'{did_you_mean(tap.module, known)}"
    raise ModelError(what, fix=f"near it: {', '.join(near[:8])}; `transfuse taps MODEL` prints all")


def _reached(module: nn.Module, path: str) -> bool:
    """Whether the path works although no module is registered under it: a wrapper may lead on to what is inside."""
    try:
        return bool(path) and isinstance(module.get_submodule(path), nn.Module)
    except AttributeError:
        return False


def _observed(module: nn.Module, example: Tensor) -> dict[str, tuple[int, ...] | None]:
    """Module path -> shape of what it gave, in the order in which modules finished (their last call); the network itself is ''."""
    shapes: dict[str, tuple[int, ...] | None] = {}
    first = Tap("", "")

    def note(path: str) -> Any:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            feature = first.read(output)
            shapes.pop(path, None)  # to the end, as this is its last call so far
            shapes[path] = None if feature is None else _channels_first(tuple(feature.shape))

        return hook

    with undisturbed(module), ExitStack() as hooks:
        for path, layer in module.named_modules():
            hooks.callback(layer.register_forward_hook(note(path)).remove)
        module(example)
    return shapes


def _given(module: nn.Module, example: Tensor) -> list[str]:
    return [path for path, shape in _observed(module, example).items() if path and shape is not None]


def tree(module: nn.Module, example: Tensor) -> list[Node]:
    """Every module of a network in the order of registration, with the shape of its output for the example."""
    module = unwrapped(module)
    shapes = _observed(module, example)
    return [Node(path, type(layer).__name__, shapes.get(path)) for path, layer in module.named_modules() if path]


def auto(module: nn.Module, example: Tensor) -> list[str]:
    """Paths of the last feature of each spatial resolution, from the input to the output.

    Tokens count as the resolution of the patches that they come from. What a block computes on its way to a smaller resolution is
    not a stage's last feature: of all features of a resolution those are looked at that lie in the fewest modules with another one.

    Raises:
        ModelError: there is no feature with positions.
    """
    module = unwrapped(module)
    observed = _observed(module, example)  # windows of a shifted-window attention are laid along the batch, and are no feature
    shapes = {path: shape for path, shape in observed.items() if shape is not None and shape[0] == len(example)}
    keys = _resolutions(shapes)
    steps = {path for path in keys if any(_inside_tokens(shapes[path], shapes.get(above, ())) for above in _above(path))}
    best: dict[tuple[int, ...], tuple[int, str]] = {}
    for path, key in keys.items():
        if steps & {path, *_above(path)}:
            continue
        others = sum(1 for above in _above(path) if keys.get(above, key) != key)
        if key not in best or others <= best[key][0]:
            best.pop(key, None)
            best[key] = (others, path)
    if not best:
        what = f"{type(module).__name__} has no feature with spatial positions, so 'auto' finds nothing to tap"
        raise ModelError(what, fix=f"name module paths: {', '.join(_given(module, example)[:8])}")
    chosen = {path for _, path in best.values()}
    return [path for path in shapes if path in chosen]


def _above(path: str) -> list[str]:
    return [path[:end] for end, letter in enumerate(path) if letter == "."]


def _inside_tokens(shape: tuple[int, ...], outer: tuple[int, ...]) -> bool:
    """Whether a feature is a step inside a block of tokens rather than a map: heads of an attention, or channels mixed along tokens."""
    return len(outer) == 3 and (len(shape) == 4 or shape[1:] == outer[:0:-1])


def _resolutions(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Path -> resolution, for maps of more than one position and for tokens."""
    keys: dict[str, tuple[int, ...]] = {}
    grids: dict[int, tuple[int, ...]] = {}
    for path, shape in shapes.items():
        if path and len(shape) == 4 and shape[2] * shape[3] > 1:
            keys[path] = shape[2:]
            grids.setdefault(shape[2] * shape[3], shape[2:])
        elif path and len(shape) == 3:
            patches = next((shape[1] - extra for extra in range(MOST_PREFIX_TOKENS + 1) if shape[1] - extra in grids), None)
            keys[path] = (shape[1],) if patches is None else grids[patches]
    return keys


def _is_channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1] == shape[2] < shape[3]


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[3], shape[1], shape[2]) if _is_channels_last(shape) else shape


def paired(student_paths: Sequence[str], teacher_paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """As many paths of either, from the last backwards: what `auto` compares where networks have different numbers of resolutions."""
    count = min(len(student_paths), len(teacher_paths))
    return list(student_paths[len(student_paths) - count :]), list(teacher_paths[len(teacher_paths) - count :])
