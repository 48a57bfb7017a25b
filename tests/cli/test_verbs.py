"""The verbs on real input, in this process except where signals matter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transfuse.cli import ls
from transfuse.cli.main import run
from transfuse.recipe import shipped
from transfuse.recipe.load import from_text, load

SMALL = [
    "data=bundled:digits",
    "teacher=builtin:mlp",
    "teacher.train.steps=4",
    "student=builtin:mlp",
    "student.options.widths=[8]",
    "train.steps=4",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFUSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def started(monkeypatch):
    """What `distill` is called with, instead of running it."""
    calls = []
    monkeypatch.setattr("transfuse.jobs.distill.run", lambda recipe, reporter, text: calls.append((recipe, reporter, text)))
    return calls


def test_ls_names_the_kinds_and_each_lists_something(capsys):
    assert run(["ls"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ls.KINDS)
    for kind in ls.KINDS:
        if kind != "models":  # the longest; tested below
            assert run(["ls", kind]) == 0
            captured = capsys.readouterr()
            assert captured.out
            assert not captured.err


def test_ls_shows_one_line_each(capsys):
    assert run(["ls", "objectives"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (kd,) = [line for line in lines if line.split()[0] == "kd"]
    assert "Soft targets" in kd
    assert run(["ls", "optimizers"]) == 0
    assert "momentum=0.9" in capsys.readouterr().out


def test_ls_searches_by_words_in_names_and_lines(capsys):
    assert run(["ls", "data", "DIGITS", "8x8"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["bundled:digits"]
    assert run(["ls", "objective", "soft", "targets"]) == 0
    assert "kd" in [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert run(["ls", "data", "nothing-like-it"]) == 0
    assert capsys.readouterr().err == "no data with: nothing-like-it\n"


def test_ls_with_other_words_searches_every_kind(capsys):
    assert run(["ls", "resnet20"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("models\nbuiltin:resnet20")
    assert run(["ls", "qqqq"]) == 2
    assert "nothing has 'qqqq'; kinds: objectives" in capsys.readouterr().err


def test_new_writes_a_recipe_that_loads_and_never_overwrites(capsys):
    assert run(["new", "distill"]) == 0
    assert "transfuse run distill.yaml" in capsys.readouterr().out
    load("distill.yaml")
    Path("distill.yaml").write_text("mine")
    assert run(["new", "distill"]) == 2
    assert capsys.readouterr().err == "distill.yaml: exists already, and is left as it is\n  choose another name\n"
    assert Path("distill.yaml").read_text() == "mine"
    assert run(["new", "distill", "other.yaml"]) == 0
    assert "transfuse run other.yaml" in Path("other.yaml").read_text()


def test_new_copies_a_shipped_recipe(capsys):
    assert run(["new", "--from", "demo"]) == 0
    assert Path("demo.yaml").read_text() == shipped.text("demo")
    assert run(["new", "--from", "demmo", "x.yaml"]) == 2
    assert "did you mean 'demo'?" in capsys.readouterr().err
    assert not Path("x.yaml").exists()
    assert run(["new", "--from", "demo", "no/such/folder/x.yaml"]) == 2
    assert "no/such/folder: the folder doesn't exist" in capsys.readouterr().err


def test_new_refuses_an_unknown_job(capsys):
    assert run(["new", "distil"]) == 2
    assert "no job 'distil' - did you mean 'distill'?" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_schema_prints_json(capsys):
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["student"]
    assert run(["schema", "nothing"]) == 2


def test_run_hands_the_job_the_recipe_and_the_users_text(started, capsys):
    text = shipped.text("demo")
    Path("r.yaml").write_text(text)
    assert run(["run", "r.yaml", "out=runs/a"]) == 0
    assert run(["run", "r.yaml", "seed=3", "out=runs/b"]) == 0
    (first, _, first_text), (second, _, second_text) = started
    assert (first.seed, second.seed, first.out, second.out) == (0, 3, "runs/a", "runs/b")
    assert first_text == text.rstrip("\n") + "\n\n# changed on the command line:\n#   out=runs/a\n"
    assert second_text.endswith("#   seed=3\n#   out=runs/b\n")
    from_text(second_text)


def test_a_recipe_without_out_gets_a_folder_named_after_the_job(started):
    Path("r.yaml").write_text(shipped.text("demo"))
    assert run(["run", "r.yaml"]) == 0
    assert started[0][0].out.startswith("runs/distill-")
    assert started[0][2] == shipped.text("demo")


def test_several_processes_need_a_named_folder(started, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    Path("r.yaml").write_text(shipped.text("demo"))
    assert run(["run", "r.yaml"]) == 2
    assert capsys.readouterr().err == "out: several processes need one run folder\n  name it: out=FOLDER\n"
    assert not started


def test_distill_takes_keys_alone_or_a_file_and_keys(started):
    assert run(["distill", *SMALL]) == 0
    assert started[0][2] is None
    Path("r.yaml").write_text(shipped.text("demo"))
    assert run(["distill", "r.yaml", "objectives.kd.temperature=2"]) == 0
    recipe = started[1][0]
    assert next(block for block in recipe.objectives if block.name == "kd").parameters["temperature"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "gone.yaml"], "gone.yaml: no such file"),
        (["run", "bad.yaml"], "bad.yaml:2: train.batch_szie: unknown key - did you mean 'batch_size'?"),
        (["run", "evil.yaml"], "evil.yaml:1: the tag !!python/object/apply:os.system is not allowed"),
        (
            ["distill", "data=bundled:digits", "student=builtin:mlp", "teecher=x"],
            "override 'teecher=x': teecher: unknown key - did you mean 'teacher'?",
        ),
        (["distill", "data=bundled:digits"], "student: is missing"),
        (["resume", "gone"], "gone: no such run folder"),
        (["check", "gone.yaml"], "gone.yaml: no such file"),
    ],
)
def test_wrong_input_is_one_message_and_leaves_nothing_behind(arguments, said, capsys):
    Path("bad.yaml").write_text("job: distill\ntrain: {batch_szie: 3}\ndata: bundled:digits\nstudent: builtin:mlp\n")
    Path("evil.yaml").write_text("job: !!python/object/apply:os.system ['touch pwned']\n")
    before = sorted(Path().iterdir())
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(said)
    assert "Traceback" not in captured.err
    assert not captured.out
    assert sorted(Path().iterdir()) == before


def test_check_opens_everything_prints_a_resolved_recipe_and_writes_nothing(capsys):
    Path("r.yaml").write_text(shipped.text("demo"))
    assert run(["check", "r.yaml", "train.steps=7", "train.epochs=null"]) == 0
    captured = capsys.readouterr()
    resolved = from_text(captured.out)
    assert resolved.train.steps == 7  # type: ignore[attr-defined]
    assert "  # " in captured.out
    assert captured.err.endswith("r.yaml can be run\n")
    assert [path.name for path in Path().iterdir()] == ["r.yaml"]


def test_check_finds_what_the_schema_cannot_see(capsys):
    assert run(["new", "--from", "demo", "r.yaml"]) == 0
    for override, said in [("student=builtin:resnet21", "did you mean"), ("data=arrays:gone.npz", "gone.npz")]:
        assert run(["check", "r.yaml", override]) == 2
        assert said in capsys.readouterr().err


def test_a_whole_run_ends_with_the_table_on_stdout_and_its_folder_is_not_used_twice(capsys):
    assert run(["distill", *SMALL, "out=runs/x"]) == 0
    captured = capsys.readouterr()
    table = captured.out.splitlines()
    assert table[0].split()[:2] == ["model", "accuracy"]
    assert [line.split()[0] for line in table[1:4]] == ["student", "control", "teacher"]
    assert "report:     runs/x/report.html" in captured.out
    assert "student: step 4/4" in captured.err
    assert Path("runs/x/report.html").stat().st_size > 0
    before = sorted((path, path.stat().st_mtime_ns) for path in Path("runs/x").rglob("*"))
    assert run(["distill", *SMALL, "out=runs/x"]) == 2
    assert "runs/x: the folder holds a finished run" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in Path("runs/x").rglob("*")) == before
    assert run(["resume", "runs/x"]) == 2
    assert "the run is finished" in capsys.readouterr().err


def test_ctrl_c_leaves_a_run_and_says_how_to_resume_it(tmp_path):
    command = [sys.executable, "-c", "import sys; from transfuse.cli.main import run; sys.exit(run())"]
    arguments = ["distill", *SMALL, "train.steps=1000000", "control=none", "train.checkpoint_seconds=0.1", "out=runs/long"]
    process = subprocess.Popen(
        [*command, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ
    )
    folder = tmp_path / "runs" / "long"
    deadline = time.monotonic() + 60
    while not list((folder / "checkpoints").glob("student/*")) and not list((folder / "checkpoints").glob("student*")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline, "the student never began"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1] == "interrupted; resume with: transfuse resume runs/long"
    assert "Traceback" not in said
