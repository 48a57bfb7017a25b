"""Writes a run's report and card anew."""

from pathlib import Path

import click

from transfuse.cli.session import Session


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_obj
def command(session: Session, runs: tuple[Path, ...]) -> None:
    """Writes report.html and README.md of finished runs anew, from what their folders hold.

    \b
      transfuse report runs/small
    """
    from transfuse.jobs.compare import rewrite

    for run in runs:
        for path in rewrite(run):
            session.console.write(f"wrote {path}")
