"""Prints the features of a model that objectives can tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from transfuse.cli.session import Session

if TYPE_CHECKING:
    from transfuse.core.types import Model

PICTURE = (3, 32, 32)  # of a builtin network that is asked for without the size of its inputs


def shape_of(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """3x32x32 -> (3, 32, 32)."""
    if text is None:
        return None
    sides = text.lower().replace(",", "x").split("x")
    if not all(side.strip().isdigit() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"'{text}' is no shape; write 3x32x32 for pictures, 30 for columns", context, parameter)
    return tuple(int(side) for side in sides)


@click.command()
@click.argument("model")
@click.argument("words", nargs=-1)
@click.option("--input", "input_shape", metavar="CxHxW", callback=shape_of, help="Shape of one input; by default the model's own.")
@click.option("--architecture", metavar="SOURCE", help="For a file that doesn't say it: builtin:resnet56.")
@click.option("--trusted", is_flag=True, help="The file may be unpickled: it can run code, so only for files of your own.")
@click.pass_obj
def command(
    session: Session, model: str, words: tuple[str, ...], input_shape: tuple[int, ...] | None, architecture: str | None, trusted: bool
) -> None:
    """Prints every module of MODEL with the shape of its output for one sample, and what `auto` taps. With words: paths with all of them.

    \b
      transfuse taps builtin:resnet20
      transfuse taps timm:resnet18 layer4 --input 3x64x64
    """
    import torch

    from transfuse.core.taps import auto, tree
    from transfuse.core.types import ModelRequest
    from transfuse.errors import ModelError
    from transfuse.models import open_model

    builtin = model.startswith("builtin:")
    given = input_shape or (PICTURE if builtin else None)
    request = ModelRequest(outputs=10 if builtin else None, input_shape=given, architecture=architecture, trusted=trusted)
    opened = open_model(model, request)
    shape = input_shape or own_shape(opened)
    example = torch.zeros(1, *shape)
    try:
        nodes = tree(opened.network, example)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:  # timm and transformers assert the size of pictures
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = f"can't take an input of shape {list(shape)}: {why}"
        raise ModelError(what, where=model, fix="say the shape: --input 3x224x224") from error
    if not nodes:
        fix = "take the network in PyTorch that it was made from"
        raise ModelError("it is run as a whole, so it has no inner features that could be tapped", where=model, fix=fix)
    try:
        chosen = auto(opened.network, example)
    except ModelError:
        chosen = []
    rows = [
        {"path": path, "module": kind, "shape": "x".join(map(str, found[1:])) if found else "-", "auto": "auto" if path in chosen else ""}
        for path, kind, found in nodes
        if all(word in path for word in words)
    ]
    session.console.table(rows)
    if not rows:
        raise ModelError(f"no module path has all of: {' '.join(words)}", where=model, fix=f"transfuse taps {model} prints all")
    session.console.say(f"{len(rows)} modules for an input of {'x'.join(map(str, shape))}; auto: {', '.join(chosen) or 'none'}")


def own_shape(model: Model) -> tuple[int, ...]:
    """Shape of one input, as far as the model tells; else a small picture."""
    if "input_shape" in model.options:
        return tuple(model.options["input_shape"])
    if model.preprocess is not None and model.preprocess.size is not None:
        return (model.preprocess.channels or PICTURE[0], *model.preprocess.size)
    return PICTURE
