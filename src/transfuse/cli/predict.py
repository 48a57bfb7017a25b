"""Predicts pictures, tables and arrays with a trained student."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from transfuse.cli.session import Session

NAMED = 10  # inputs that can't be read that the last message lists


@click.command()
@click.argument("model", metavar="RUN_OR_FILE")
@click.argument("inputs", metavar="INPUT...", nargs=-1)
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", help="JSON lines (default), or CSV.")
@click.option("--out", metavar="FILE", help="Where to write; else standard output. A file that is there is left alone.")
@click.option("--top", type=click.IntRange(min=1), metavar="K", help="Only the K largest probabilities; all by default.")
@click.option("--columns", metavar="A,B,...", help="A table's columns, in the model's order; else all but id.")
@click.option("--trusted", is_flag=True, help="The model's file may hold pickles: it can run code, so only for files of your own.")
@click.pass_obj
def command(
    session: Session,
    model: str,
    inputs: tuple[str, ...],
    form: str,
    out: str | None,
    top: int | None,
    columns: str | None,
    trusted: bool,
) -> None:
    """Predicts INPUTs with a run folder, an export or a file: pictures, CSV files, arrays (.npy, .npz), folders and patterns.

    An input that can't be read is named, gets a row with its error, and the others are done; the exit code is then 2.

    \b
      transfuse predict runs/small photos/ > answers.jsonl
      transfuse predict runs/small/exports/onnx 'photos/*.jpg' \\
                        --format csv --out answers.csv
      transfuse predict runs/table new.csv --columns age,height,weight
    """
    from transfuse.errors import DataError
    from transfuse.jobs import predict as predicting
    from transfuse.jobs.deliver import predictions as writing

    student = predicting.Student.open(model, trusted)
    paths = predicting.found(inputs, student)
    wanted = [name.strip() for name in columns.split(",")] if columns else None
    rows = predicting.answers(student, paths, columns=wanted)
    count, failed = 0, list[str]()

    def _watched(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        nonlocal count
        for row in rows:
            count += 1
            if "error" in row:
                session.console.say(f"{row['input']}: {row['error']}")
                failed.append(row["input"])
            yield row

    with writing.destination(out, session.console.write) as line:
        for text in writing.lines(_watched(rows), form, top):
            line(text)
    if failed:
        more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        what = f"{len(failed)} of {count:,} inputs could not be predicted: {', '.join(failed[:NAMED])}{more}"
        raise DataError(what, fix="the others are done; repair or leave out these")
