"""Goes on with an interrupted run."""

from pathlib import Path

import click

from transfuse.cli.session import Session


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.pass_obj
def command(session: Session, folder: Path) -> None:
    """Goes on with an interrupted run, given its folder.

    The result has the same bits as that of a run that was never interrupted.
    """
    from transfuse.jobs.resume import resume

    session.folder = folder
    resume(folder, session.console)
