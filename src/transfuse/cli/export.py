"""Ships a student in other formats, each run and compared."""

import click

from transfuse.cli.session import Session


@click.command()
@click.argument("source", metavar="RUN")
@click.argument("arguments", metavar="target=TARGET [KEY=VALUE]...", nargs=-1)
@click.option("--trusted", is_flag=True, help="RUN is a model file that may be unpickled: it can run code, so only for files of your own.")
@click.pass_context
def command(context: click.Context, source: str, arguments: tuple[str, ...], trusted: bool) -> None:
    """Writes RUN's student in one or several formats (transfuse ls targets), opens each file again, runs it on real samples through its own
    preprocessing, compares it with the student and times it. A file that doesn't pass is marked as failed; the exit code is then 2.

    \b
      transfuse export runs/small target=onnx preprocess=graph
      transfuse export runs/small target=[onnx,onnx_int8] \\
                       onnx_int8.calibration=1000
      transfuse export file:net.safetensors target=onnx \\
                       data=images:./photos out=shipped

    Other keys: data (in place of the run's own), out (a folder), and the settings of the target.
    """
    from transfuse.jobs import export as export_run
    from transfuse.recipe.delivery import read_arguments

    asked = read_arguments(arguments)
    session: Session = context.obj
    files = export_run.run(source, asked.targets, asked.data, asked.out, trusted, session.console)
    session.close()
    for file in files.values():
        session.console.write(str(file))
