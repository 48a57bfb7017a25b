"""Uploads a run's student to a model hub, after asking."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from transfuse.cli.session import Session

if TYPE_CHECKING:
    from transfuse.jobs.push import Parcel


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="A repository that is made for it can be seen by everybody; else it is private.")
@click.option("--no-report", is_flag=True, help="Leave out report.html, which may show pictures of your data.")
@click.option("--yes", is_flag=True, help="Don't ask; for scripts.")
@click.pass_obj
def command(session: Session, run: Path, repository: str, public: bool, no_report: bool, yes: bool) -> None:
    """Uploads the student of a finished run with its card, recipe and report to the Hugging Face Hub.

    It lists what would be uploaded and asks once. Predictions, samples and checkpoints stay here. Log in first: hf auth login

    \b
      transfuse push runs/small me/small-net
    """
    from transfuse.jobs.push import push

    def confirm(parcel: Parcel) -> bool:
        for name, size in parcel.files.items():
            session.console.write(f"  {name}  {words.size(size)}")
        for name in parcel.left_out:
            session.console.write(f"  ({name} stays here: it didn't pass its verification)")
        if parcel.shows_data:
            session.console.write("  (report.html shows pictures of your data; --no-report leaves it out)")
        return yes or click.confirm(f"Upload these to {parcel.repository} ({'public' if public else 'private'})?", default=False)

    from transfuse.report import words

    address = push(run, repository, confirm, private=not public, report=not no_report)
    session.console.write("nothing was uploaded" if address is None else f"uploaded: {address}")
