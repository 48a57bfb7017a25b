"""The command `transfuse`: finds its verbs by file name and turns what happens into exit codes. Imports click and nothing heavy."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from transfuse import __version__
from transfuse.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NOT_VERBS = ("__init__", "main", "session", "console")
INTERRUPTED, CLOSED_PIPE = 130, 141  # as a shell reports SIGINT and SIGPIPE
WIDEST_HELP = 100
HERE = os.path.dirname(__file__)  # not pathlib: importing it takes as long as half an interpreter


class Verbs(click.Group):
    """One file beside this one = one verb; a file is imported only when its verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        stems = (name[:-3] for name in os.listdir(HERE) if name.endswith(".py"))
        return sorted(stem.replace("_", "-") for stem in stems if stem not in NOT_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return importlib.import_module(f"transfuse.cli.{cmd_name.replace('-', '_')}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0].replace("_", "-") in self.list_commands(ctx):
            args = [args[0].replace("_", "-"), *args[1:]]  # a job is called born_again in recipes
        elif args and not args[0].startswith("-"):
            from transfuse.core.registry import did_you_mean

            verbs = self.list_commands(ctx)
            raise click.UsageError(f"no verb '{args[0]}'{did_you_mean(args[0], verbs) or '; there are: ' + ', '.join(verbs)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, first_line(verb)) for verb in self.list_commands(ctx)])


def first_line(verb: str) -> str:
    """A verb's line of help: the first line of its file, without importing it."""
    with open(os.path.join(HERE, f"{verb.replace('-', '_')}.py"), encoding="utf-8") as file:
        return file.readline().strip().strip('"')


EPILOG = """\b
Begin with:
  transfuse demo                  a whole distillation in about a minute
  transfuse new distill           a commented recipe to fill in
  transfuse ls                    what there is to choose from
"""


@click.group(
    cls=Verbs,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="VERB ...",
)
@click.version_option(__version__, prog_name="transfuse")
@click.pass_context
def main(context: click.Context) -> None:
    """Moves what trained neural networks know into the network that you will ship."""
    if context.obj is None:
        context.obj = Session()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """The entry point: runs a verb and returns the exit code.

    0 done; 1 a defect of ours, traceback kept; 2 the user's input is wrong; 130 interrupted.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  closed by the shell (>&-); open as long as we run
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    session = Session()
    stop_on_sigterm()
    try:
        given = None if arguments is None else list(arguments)
        status = main.main(given, "transfuse", standalone_mode=False, obj=session, terminal_width=help_width())
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        session.close()
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        session.close()
        click.echo(interruption(session.folder), err=True)
        return INTERRUPTED
    except BrokenPipeError:
        return _closed_pipe()
    except SystemExit as exit_:  # click leaves this way when its own output meets a closed pipe
        return _closed_pipe() if exit_.code == 1 else int(exit_.code or 0)
    except Exception as error:
        session.close()
        return failure(error, session.folder, session.console.say)


def stop_on_sigterm() -> None:
    """Lets SIGTERM end a job as Ctrl-C does: whatever it is at, it says how to go on."""
    import signal
    import threading

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def help_width() -> int:
    """Columns for help. click would ask shutil, whose import takes as long as half an interpreter."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return max(50, min(int(columns), WIDEST_HELP) - 2)
    try:
        return max(50, min(os.get_terminal_size(sys.stdout.fileno()).columns, WIDEST_HELP) - 2)
    except (OSError, ValueError):  # not a terminal
        return 78


def interruption(folder: Path | None) -> str:
    """What to say after Ctrl-C."""
    if folder is not None and (folder / "recipe.resolved.yaml").exists() and not (folder / "summary.json").exists():
        return f"interrupted; resume with: transfuse resume {folder}"
    return "interrupted"


def failure(error: Exception, folder: Path | None, say: Callable[[str], None]) -> int:
    """Says what went wrong and returns the exit code: the user's to mend (2), or a defect of ours (1)."""
    from transfuse.errors import TransfuseError

    if isinstance(error, TransfuseError):
        say(str(error))
        return error.exit_code
    if (text := disk_trouble(error)) is not None:
        say(text)
        return TransfuseError.exit_code
    where = keep_traceback(error, folder)
    summary = " ".join(f"{type(error).__name__}: {error}".split())
    say(f"transfuse failed, and this is a defect of ours: {summary[:300]}\n  the traceback is in {where}")
    return 1


def disk_trouble(error: Exception) -> str | None:
    """A message where the disk and not the program is at fault."""
    import errno

    if not isinstance(error, OSError):
        return None
    path = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path}the disk is full\n  free some space; what was written before is intact"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        return f"{path}no permission\n  choose another file or folder, or change its permissions"
    return None


def keep_traceback(error: Exception, folder: Path | None) -> Path:
    """Writes the traceback into the run folder, or into a temporary file where there is none."""
    import tempfile
    import traceback
    from pathlib import Path

    text = "".join(traceback.format_exception(error))
    if folder is not None:
        path = folder / "traceback.txt"
        try:
            path.write_text(text, encoding="utf-8")
            return path
        except (OSError, ValueError):  # there is no such folder, or it is what is broken
            pass
    handle, name = tempfile.mkstemp(prefix="transfuse-", suffix="-traceback.txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)


def _closed_pipe() -> int:
    """Whoever read our output has left (`transfuse ls | head`): nothing to say, and nothing to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED_PIPE
