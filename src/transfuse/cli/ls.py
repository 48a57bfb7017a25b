"""Lists what there is to choose from, and searches in it."""

from __future__ import annotations

from collections.abc import Callable

import click

from transfuse.cli.session import Session


def objectives() -> dict[str, str]:
    """Terms of the loss."""
    from transfuse.objectives import registry

    return registry.summaries()


def models() -> dict[str, str]:
    """Networks by source, for `teacher` and `student`."""
    from transfuse.models import catalog

    return catalog()


def data() -> dict[str, str]:
    """Data sources, for `data`."""
    from transfuse.data import catalog

    return catalog()


def policies() -> dict[str, str]:
    """Ways to fine-tune, for `policy` of a finetune."""
    return _methods("policy")


def inits() -> dict[str, str]:
    """How a student's weights begin with another network's, for `student.init`."""
    from transfuse.policies.init import registry

    return registry.summaries()


def heads() -> dict[str, str]:
    """What is fitted to a frozen network's features, for `head` of transfuse extract."""
    from transfuse.probes import registry

    return registry.summaries()


def recipes() -> dict[str, str]:
    """Recipes that come with transfuse: transfuse new --from NAME."""
    from transfuse.recipe.shipped import summaries

    return summaries()


def optimizers() -> dict[str, str]:
    """For `train.optimizer`, with their settings."""
    return _methods("optimizer")


def schedules() -> dict[str, str]:
    """Learning rates over a run, for `train.schedule`."""
    return _methods("schedule")


def targets() -> dict[str, str]:
    """Formats in which a student is shipped, for `export` and `transfuse export`."""
    from transfuse.export import summaries

    return summaries()


def ways() -> dict[str, str]:
    """Ways to fuse several models, for `how` of transfuse fuse."""
    from transfuse.recipe.ways import summaries

    return summaries()


def weights() -> dict[str, str]:
    """Objectives' weights over a run, for `objectives.NAME.weight`."""
    return _methods("weight")


_LISTED = (objectives, policies, inits, heads, models, data, recipes, optimizers, schedules, weights, targets, ways)
KINDS: dict[str, Callable[[], dict[str, str]]] = {function.__name__: function for function in _LISTED}


def _methods(kind: str) -> dict[str, str]:
    from transfuse.core.signature import parameters
    from transfuse.recipe.methods import GIVEN_BY_THE_ENGINE, TABLES

    lines = {}
    for name, method in TABLES[kind].items():  # type: ignore[index]
        settings = [f"{entry.name}={entry.default}" for entry in parameters(method) if entry.name not in GIVEN_BY_THE_ENGINE]
        lines[name] = f"{(method.__doc__ or name).strip().splitlines()[0]} {', '.join(settings)}"
    return lines


def matching(entries: dict[str, str], words: tuple[str, ...]) -> dict[str, str]:
    """The entries that hold every word in their name or line, whatever the case."""
    return {name: line for name, line in entries.items() if all(word.lower() in f"{name} {line}".lower() for word in words)}


@click.command()
@click.argument("kind", required=False)
@click.argument("words", nargs=-1)
@click.pass_obj
def command(session: Session, kind: str | None, words: tuple[str, ...]) -> None:
    """Lists what there is to choose from. Without KIND: the kinds. With words: what holds all of them.

    \b
      transfuse ls objectives
      transfuse ls models resnet 20
      transfuse ls digits              searches in every kind
    """
    console = session.console
    beginnings = [name for name in KINDS if kind and name.startswith(kind.lower())]
    if len(beginnings) == 1:  # `objective`, `obj`
        kind = beginnings[0]
    if kind is None:
        console.listing([(name, (function.__doc__ or "").strip()) for name, function in KINDS.items()])
    elif kind in KINDS:
        found = matching(KINDS[kind](), words)
        console.listing(found.items())
        if not found:
            console.say(f"no {kind} with: {' '.join(words)}" if words else f"no {kind} yet")
    else:
        search_all(session, (kind, *words))


def search_all(session: Session, words: tuple[str, ...]) -> None:
    """Looks for words in every kind.

    Raises:
        click.UsageError: nothing has them; a near miss of a kind is named.
    """
    from transfuse.core.registry import did_you_mean

    shown = 0
    for name, function in KINDS.items():
        found = matching(function(), words)
        if found:
            session.console.write("") if shown else None
            session.console.listing(found.items(), heading=name)
            shown += 1
    if not shown:
        near = did_you_mean(words[0], KINDS)
        raise click.UsageError(f"nothing has '{' '.join(words)}'{near or '; kinds: ' + ', '.join(KINDS)}")
