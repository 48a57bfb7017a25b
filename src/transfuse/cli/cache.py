"""Shows, checks, clears and fills the cache of teachers' answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from transfuse.cli.session import Session

if TYPE_CHECKING:
    from transfuse.engine.teacher_cache.listing import Entry

SHORT = 12  # characters of a key that listings show; a key's beginning is enough everywhere
place = click.option("--dir", "folder", metavar="FOLDER", help="The cache; else $TRANSFUSE_CACHE, else ~/.cache/transfuse.")


@click.group(subcommand_metavar="ls | verify | clear | fill")
def command() -> None:
    """What teachers have said is kept on disk, so that a second student doesn't ask again."""


def _root(folder: str | None) -> str:
    from transfuse.recipe.caching import default_folder

    return folder or default_folder()


@command.command()
@place
@click.pass_obj
def ls(session: Session, folder: str | None) -> None:
    """Lists what is stored, the last used first."""
    from transfuse.engine.teacher_cache.listing import entries
    from transfuse.engine.teacher_cache.room import in_words

    root = _root(folder)
    found = entries(root)
    session.console.table([_row(entry) for entry in found])
    total = sum(entry.bytes for entry in found)
    session.console.say(f"{len(found)} key{'s' if len(found) != 1 else ''}, {in_words(total)} in {root}")


def _row(entry: Entry) -> dict[str, str]:
    from datetime import datetime

    from transfuse.engine.teacher_cache.room import in_words

    about = entry.about
    views = "exact" if about.get("views") == "exact" else str(len(entry.views))
    return {
        "key": entry.key[:SHORT],
        "teacher": str(about.get("source", "unreadable")),
        "data": str(about.get("data_source", "?")),
        "answers": entry.what if about else "?",
        "samples": f"{entry.rows:,}",
        "views": views,
        "filled": f"{100 * entry.filled:.4g} %",
        "size": in_words(entry.bytes),
        "last use": datetime.fromtimestamp(entry.last_use).strftime("%Y-%m-%d %H:%M"),
    }


@command.command()
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--repair", is_flag=True, help="Forget damaged rows now; they are asked for again at their next use in any case.")
@place
@click.pass_obj
def verify(session: Session, keys: tuple[str, ...], repair: bool, folder: str | None) -> None:
    """Reads every row and compares it with its checksum. Exit code 2 where rows are damaged and not repaired."""
    from transfuse.engine.teacher_cache import listing
    from transfuse.errors import RunError

    damaged, unread = 0, 0
    found = listing.chosen(listing.entries(_root(folder)), keys)
    for entry in found:
        if entry.problem:
            session.console.write(f"{entry.folder}: {entry.problem}")
            unread += 1
            continue
        damages = listing.damages(entry)
        for damage in damages:
            rows = ", ".join(map(str, damage.rows[:5])) + (", ..." if len(damage.rows) > 5 else "")
            session.console.write(f"{damage.path}: {len(damage.rows)} damaged (row {rows})")
            damaged += len(damage.rows)
        if repair:
            listing.repair(entry, damages)
    rows = sum(entry.stored for entry in found)
    if not damaged and not unread:
        session.console.write(f"{rows:,} rows of {len(found)} keys are whole")
    elif repair and not unread:
        session.console.write(f"{damaged:,} of {rows:,} rows are forgotten; they will be asked for again")
    else:
        fix = "they are never used and are asked for again when they are needed; --repair forgets them now"
        raise RunError(f"{damaged:,} of {rows:,} rows are damaged, {unread} keys can't be read", where="cache", fix=fix)


@command.command()
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All keys.")
@click.option("--older-than", "days", type=click.FloatRange(min=0), metavar="DAYS", help="Keys that were not used for so long.")
@place
@click.pass_obj
def clear(session: Session, keys: tuple[str, ...], everything: bool, days: float | None, folder: str | None) -> None:
    """Deletes answers: by key, all, or what was not used for long. What a living process uses stays."""
    import os
    import time

    from transfuse.engine.teacher_cache.listing import chosen, entries
    from transfuse.engine.teacher_cache.room import drop, in_words

    if not keys and not everything and days is None:
        raise click.UsageError("say what: keys (transfuse cache ls), --older-than DAYS, or --all")
    found = chosen(entries(_root(folder)), keys)
    if days is not None:
        found = [entry for entry in found if time.time() - entry.last_use > 86400 * days]
    freed = 0
    for entry in found:
        if drop(entry.folder):
            freed += entry.bytes
        else:
            ours = os.access(entry.folder.parent, os.W_OK) and os.access(entry.folder, os.W_OK)
            session.console.say(f"{entry.key[:SHORT]} stays: " + ("a process is using it" if ours else "no permission to delete it"))
    session.console.write(f"{in_words(freed)} freed")


@command.command()
@click.argument("recipe", metavar="RECIPE.YAML")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--ray", "workers", type=click.IntRange(min=1), metavar="WORKERS", help="Share the work among so many workers of Ray Data.")
@click.pass_obj
def fill(session: Session, recipe: str, overrides: tuple[str, ...], workers: int | None) -> None:
    """Asks a recipe's teachers about all samples in all views, before any training.

    Can be interrupted and called again; the ranks of torchrun share the work:

    \b
      transfuse cache fill recipe.yaml
      torchrun --nproc-per-node 4 -m transfuse cache fill recipe.yaml
      transfuse cache fill recipe.yaml --ray 8
    """
    from transfuse.jobs import fill as filling
    from transfuse.recipe.load import load

    loaded = load(recipe, overrides)
    try:
        if workers is None:
            filling.fill(loaded, session.console)
        else:
            filling.fill_with_ray(loaded, workers, session.console)
    except KeyboardInterrupt:
        session.console.say("what was stored stays; the same command goes on")
        raise
    session.close()
