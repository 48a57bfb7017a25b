"""Lays runs side by side on one offline page."""

from pathlib import Path

import click

from transfuse.cli.session import Session


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE.html", type=click.Path(path_type=Path), help="The page; else runs/compare-DATE-TIME.html.")
@click.option("--teachers", is_flag=True, help="Rows for the runs' teachers, too.")
@click.pass_obj
def command(session: Session, runs: tuple[Path, ...], out: Path | None, teachers: bool) -> None:
    """Compares any number of runs, evaluations and jobs of several runs on one page.

    The page has their table with intervals, accuracy against size and latency, learning curves, what differs in the recipes, calibration,
    robustness, confusions, samples on which they disagree, and the numbers as CSV. Nothing of the runs is changed:

    \b
      transfuse compare runs/a runs/b runs/c
      transfuse compare runs/* --out today.html
    """
    from transfuse.jobs.compare import compare

    found, page = compare(runs, out, teachers)
    from transfuse.report import compare as comparing

    for group in found.groups:
        session.console.table(comparing.rows(group))
        session.console.write(f"\n{comparing.sentence(group)}\n")
    for note in found.notes:
        session.console.say(note)
    session.console.write(f"page: {page}")
