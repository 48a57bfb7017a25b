"""A whole distillation on small real data, in about a minute."""

import click

from transfuse.cli.session import Session


@click.command()
@click.option("--out", metavar="FOLDER", help="The run folder.  [default: runs/demo-DATE-TIME]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of initialisation, order and dropout.")
@click.pass_obj
def command(session: Session, out: str | None, seed: int) -> None:
    """Trains a teacher on scikit-learn's digits, distils it into a student with at most a tenth of its parameters, and trains the same
    student from labels only for comparison. Needs no network and no files of yours.
    """
    from pathlib import Path

    from transfuse.jobs import demo
    from transfuse.jobs.rundir import default_out

    out = out or default_out("demo")
    session.folder = Path(out)
    demo.run(out, seed, session.console)
