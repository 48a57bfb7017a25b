"""What people see: results on stdout, everything else on stderr, at any width and without a terminal."""

import io
import re

import pytest

from transfuse.cli.console import Console
from transfuse.core.types import Progress

ROWS = [
    {
        "model": "student",
        "accuracy": "88.58%",
        "95% interval": "84.87 to 91.47%",
        "parameters": "2,410",
        "size": "9.64 kB",
        "latency": "0.0155 ms",
    },
    {
        "model": "teacher",
        "accuracy": "92.48%",
        "95% interval": "89.28 to 94.78%",
        "parameters": "24,058",
        "size": "97.2 kB",
        "latency": None,
    },
]
for row in ROWS:
    row["agreement with teacher"] = "91.92%"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("NO_COLOR", "1")


def progress(step: int, name: str = "student", steps: int = 100, **values: float) -> Progress:
    return Progress(name, step, steps, step / 10, values)


def test_notes_and_progress_go_to_stderr_and_results_to_stdout(capsys):
    console = Console()
    console.say("a note")
    console.progress(progress(100, loss=0.5))
    console.write("a result")
    captured = capsys.readouterr()
    assert captured.out == "a result\n"
    assert captured.err == "a note\nstudent: step 100/100, epoch 10.0, loss 0.5\n"


def test_without_a_terminal_progress_is_a_line_every_ten_seconds_and_one_at_the_end():
    err, now = io.StringIO(), [0.0]
    console = Console(err=err, clock=lambda: now[0])
    for step in range(1, 101):
        now[0] = step * 0.5
        console.progress(progress(step, loss=1 / step))
    console.progress(progress(100, accuracy=0.5))  # the last validation, at the same step
    console.close()
    assert err.getvalue().rstrip().endswith("accuracy 0.5")
    steps = [int(found) for found in re.findall(r"step (\d+)/100", err.getvalue())]
    assert steps == [1, 21, 41, 61, 81, 100]


def test_the_next_training_begins_with_a_line_of_its_own():
    err = io.StringIO()
    console = Console(err=err, clock=lambda: 0.0)
    for name in ("teacher", "control", "student"):
        console.progress(progress(1, name))
        console.progress(progress(2, name))
    assert [line.split(":")[0] for line in err.getvalue().splitlines()] == ["teacher", "control", "student"]


def test_figures_of_the_last_validation_stay_in_view():
    err, now = io.StringIO(), [0.0]
    console = Console(err=err, clock=lambda: now[0])
    console.progress(progress(1, loss=2.0, accuracy=0.5))
    now[0] = 20.0
    console.progress(progress(2, loss=1.0))
    assert err.getvalue().splitlines()[-1] == "student: step 2/100, epoch 0.2, loss 1, accuracy 0.5"


def test_a_bar_fits_the_terminal_and_is_drawn_once_per_training(narrow):
    err = Terminal()
    console = Console(err=err)
    for step in (1, 50, 100, 100):
        console.progress(progress(step, loss=0.123456, accuracy=0.987654, nll=0.3456, ece=0.0123))
    console.close()
    frames = [frame for frame in re.split(r"[\r\n]", err.getvalue()) if frame.strip()]
    assert max(map(len, frames)) <= 80
    assert "loss 0.123, accuracy 0.988" in frames[-1]
    assert "100/100" in frames[-1]
    assert err.getvalue().count("\n") == 1, "one bar, one line"


def test_a_note_does_not_tear_the_bar(narrow):
    err = Terminal()
    console = Console(err=err)
    console.progress(progress(10))
    console.say("halved the micro-batch")
    console.close()
    assert any(line.split("\r")[-1] == "halved the micro-batch" for line in err.getvalue().split("\n"))


def test_long_notes_are_folded_between_words_on_a_terminal_only(narrow):
    text = "word " * 40
    err, log = Terminal(), io.StringIO()
    Console(err=err).say(text.strip())
    Console(err=log).say(text.strip())
    assert max(map(len, err.getvalue().splitlines())) < 80
    assert err.getvalue().split() == text.split()
    assert log.getvalue() == text.strip() + "\n"


def test_the_table_fits_80_columns_without_breaking_a_figure(narrow):
    out = Terminal()
    Console(out=out).table(ROWS)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for row in ROWS:
        (line,) = [line for line in lines if line.startswith(row["model"])]
        for value in row.values():
            assert value is None or value in line


def test_a_table_that_is_too_wide_becomes_a_block_per_row(monkeypatch, narrow):
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    Console(out=out).table(ROWS)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[0].split() == ["model", "student"]
    assert "95% interval            84.87 to 91.47%" in lines


def test_in_a_pipe_every_row_is_one_line():
    out = io.StringIO()
    console = Console(out=out)
    console.table(ROWS)
    console.listing([("name", "word " * 100), ("longer_name", "short")])
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 + 2
    assert "agreement with teacher" in lines[0]
    assert lines[3] == "name         " + ("word " * 100).strip()
    assert not any("\x1b" in line or line.endswith(" ") for line in lines)


def test_a_listing_is_folded_beside_its_names_on_a_terminal(narrow):
    out = Terminal()
    Console(out=out).listing([("name", "word " * 30), ("longer_name", "short")], heading="things")
    lines = out.getvalue().splitlines()
    assert lines[0] == "things"
    assert max(map(len, lines)) <= 80
    assert all(line.startswith(("name ", "longer_name ", " " * 13)) for line in lines[1:])


def test_colour_is_for_terminals_and_no_color_is_respected(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    colourful, plain = Terminal(), Terminal()
    Console(out=colourful).table(ROWS)
    monkeypatch.setenv("NO_COLOR", "1")
    Console(out=plain).table(ROWS)
    assert "\x1b[" in colourful.getvalue()
    assert "\x1b[" not in plain.getvalue()


def test_an_empty_table_is_nothing():
    out = io.StringIO()
    Console(out=out).table([])
    assert out.getvalue() == ""


def test_square_brackets_are_text_and_not_markup():
    out = io.StringIO()
    console = Console(out=out)
    console.listing([("idx:FOLDER[.gz]", "labels [bold]")])
    console.table([{"model [a]": "x [red]y[/red]"}])
    assert "idx:FOLDER[.gz]  labels [bold]" in out.getvalue()
    assert "x [red]y[/red]" in out.getvalue()
    assert "model [a]" in out.getvalue()
