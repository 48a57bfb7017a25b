"""Networks of timm, by its own code: `timm:resnet50.a1_in1k`, `timm:hf-hub:ID`, `timm:FOLDER` (what timm or the hub saved)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.registry import did_you_mean
from transfuse.core.seeds import fresh_weights
from transfuse.core.types import Model, ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.errors import MissingExtra, ModelError

_HUB = ("hf-hub:", "hf_hub:")
_FETCHING = ("huggingface_hub", "httpx", "httpcore", "requests", "urllib3", "urllib")


def _timm() -> ModuleType:
    import_torchvision()  # timm imports it, and fails where it is broken
    try:
        import timm
        import timm.data
    except ModuleNotFoundError as error:
        raise MissingExtra("timm", "vision", "a timm: model") from error
    return timm


def open_model(name: str, request: ModelRequest) -> Model:
    """Opens a network of timm; with trained weights where the name has a tag, or is a folder or a hub id.

    Pretrained networks keep three input channels for grey pictures, which are repeated; others take the data's channels.

    Raises:
        ModelError: unknown network or tag, weights that can't be fetched or read.
        MissingExtra: timm is not installed.
    """
    timm, source = _timm(), f"timm:{name}"
    resolved = _resolve(timm, name, source)
    stored = resolved.startswith(("local-dir:", *_HUB))
    pretrained = stored or "." in resolved
    options = dict(request.options)
    outputs = options.pop("outputs", None)
    outputs = request.outputs if request.outputs is not None else outputs
    channels = request.input_shape[0] if request.input_shape else 3
    options.setdefault("in_chans", 3 if pretrained and channels in (1, 3) else channels)
    arguments = {**options, **({} if outputs is None else {"num_classes": outputs})}
    with fresh_weights(request.seed):
        module = _create(timm, resolved, pretrained, arguments, source)
    config: dict[str, Any] = vars(module)["pretrained_cfg"]
    base = config["architecture"] if stored else resolved.partition(".")[0]
    saved = config.get("model_args") or {}
    found = int(vars(module)["num_classes"])
    model = Model(
        module.eval().float(),
        source,
        architecture=f"timm:{base}",
        options={**_plain(_saved_arguments(timm, resolved) if stored else saved), **options, "outputs": found},
        preprocess=_preprocess(timm, module, options["in_chans"]),
        pretrained=pretrained,
    )
    if pretrained:
        _name_classes(timm, model, config, found)
    return model


def _resolve(timm: ModuleType, name: str, source: str) -> str:
    """timm's own spelling of the name: local-dir: for folders; an unknown name or tag is an error."""
    if name.startswith((*_HUB, "local-dir:")):
        place = name.partition(":")[2]
        if name.startswith("local-dir:") and not Path(place).expanduser().is_dir():
            raise ModelError("no such folder", source)
        return f"local-dir:{Path(place).expanduser()}" if name.startswith("local-dir:") else name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return f"local-dir:{folder}"
    architecture, dot, tag = name.partition(".")
    if not timm.is_model(architecture):
        if "/" in name:
            raise ModelError(f"no such folder '{name}'", source, f"write timm:hf-hub:{name} for the hub")
        raise ModelError(f"timm has no network '{architecture}'{did_you_mean(architecture, timm.list_models())}", source)
    if dot:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        if tag not in tags:
            fix = f"tags: {', '.join(tags) or 'none'}"
            raise ModelError(f"'{architecture}' has no weights '{tag}'{did_you_mean(tag, tags)}", source, fix)
    return name


def _create(timm: ModuleType, name: str, pretrained: bool, arguments: dict[str, Any], source: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:
        if _is_fetching(error) and not name.startswith("local-dir:"):
            raise ModelError(
                f"can't fetch the weights of {name}: {str(error).strip().splitlines()[0]}",
                where=source,
                fix="download the repository once and give its folder (timm:FOLDER), or a weights file: "
                "{source: file:PATH, architecture: timm:NAME}",
            ) from error
        if isinstance(error, (OSError, RuntimeError, TypeError, ValueError, KeyError, AssertionError)):
            raise ModelError(f"timm can't open it: {type(error).__name__}: {error}", source) from error
        raise


def _is_fetching(error: BaseException | None) -> bool:
    """Whether a network error stands somewhere behind this one."""
    while error is not None:
        if type(error).__module__.partition(".")[0] in _FETCHING or isinstance(error, (ConnectionError, TimeoutError)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _saved_arguments(timm: ModuleType, resolved: str) -> dict[str, Any]:
    """Constructor arguments that a folder or hub repository states; they are needed to build the same network without it."""
    kind, _, place = resolved.partition(":")
    load = timm.models.load_model_config_from_hf if kind != "local-dir" else _from_path(timm)
    return load(place)[2] or {}


def _from_path(timm: ModuleType) -> Any:
    from timm.models._hub import load_model_config_from_path  # not exported

    return load_model_config_from_path


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in arguments.items() if isinstance(value, (str, int, float, bool, list, tuple)) and key != "num_classes"
    }


def _preprocess(timm: ModuleType, module: nn.Module, channels: int) -> Preprocess:
    """timm's evaluation transform; its resize rounds down, so the crop is given as the ratio of whole pixels."""
    config = timm.data.resolve_model_data_config(module)
    size = tuple(config["input_size"][-2:])
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if len(mean) != channels:  # the weights of the first layer were summed or repeated, so no channel has its own statistics
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    interpolation = config["interpolation"]
    return Preprocess(
        size=(size[0], size[1]),
        channels=channels if channels in (1, 3) else None,
        mean=mean,
        std=std,
        scale=1 / 255,
        crop=size[0] / math.floor(size[0] / config["crop_pct"]),
        resize="squash" if config["crop_mode"] == "squash" else "short_side",
        interpolation=interpolation if interpolation in ("nearest", "bilinear", "bicubic") else "bilinear",
    )


def _name_classes(timm: ModuleType, model: Model, config: dict[str, Any], outputs: int) -> None:
    """Class names of pretrained weights, or a note where the head is new."""
    labels = config.get("label_names")
    if config.get("num_classes") not in (None, outputs):
        model.notes.append(f"the last layer is new: the weights have {config['num_classes']} outputs, {outputs} are needed")
        named = config.get("classifier") or ()
        heads = tuple(f"{path}." for path in ((named,) if isinstance(named, str) else named))
        model.fresh = tuple(parameter for name, parameter in model.network.named_parameters() if name.startswith(heads))
    elif labels and len(labels) == outputs:
        model.classes = list(labels)
    else:
        subset = timm.data.infer_imagenet_subset(model.network)
        if subset and outputs == 1000:
            model.classes = timm.data.ImageNetInfo(subset).label_descriptions()


@cache
def catalog() -> Mapping[str, str]:
    """Name -> input size and the tags of trained weights."""
    timm = _timm()
    tags: dict[str, list[str]] = {}
    for name in timm.list_pretrained():
        base, _, tag = name.partition(".")
        tags.setdefault(base, []).append(tag)
    lines = {}
    for name in timm.list_models():
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        side = f"{config.input_size[-1]} px; " if config is not None else ""
        lines[name] = f"{side}weights: {', '.join(tags.get(name, [])) or 'none'}"
    return lines
