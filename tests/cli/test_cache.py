"""`transfuse cache` on a small cache on disk: what it lists, finds, forgets and deletes."""

import os

import numpy as np
import pytest

from transfuse.cli.main import run
from transfuse.engine.teacher_cache.forms import Dense
from transfuse.engine.teacher_cache.room import IN_USE, Room
from transfuse.engine.teacher_cache.store import Store


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Two keys: `aaa` full, not used for three days; `abb` half full, used just now."""
    monkeypatch.setenv("TRANSFUSE_CACHE", str(tmp_path))
    form = Dense((10,))
    for key, filled in (("aaa", 100), ("abb", 50)):
        about = {"source": f"file:{key}.safetensors", "data_source": "bundled:digits", "views": {}, "answers": form.describe()}
        store = Store(Room(tmp_path), key, 100, form.bytes, about, 40)
        for view in range(2):
            store.write(view, np.arange(filled), np.full((filled, form.bytes), 7, np.uint8))
    stamp = os.path.getmtime(tmp_path / "answers/aaa" / IN_USE) - 3 * 86400
    os.utime(tmp_path / "answers/aaa" / IN_USE, (stamp, stamp))
    return tmp_path / "answers"


def damage(cache) -> None:
    path = cache / "abb/view_1/000000.rows"
    content = bytearray(path.read_bytes())
    content[192 + 20 * 3] ^= 1  # row 3, behind 40 checksums
    path.write_bytes(content)


def test_ls_shows_what_is_stored_and_how_full_it_is(cache, capsys):
    assert run(["cache", "ls"]) == 0
    shown = capsys.readouterr()
    first, second = shown.out.splitlines()[1:]
    assert first.split()[:3] == ["abb", "file:abb.safetensors", "bundled:digits"]  # the last used first
    assert "10 logits" in first
    assert "50 %" in first
    assert "100 %" in second
    assert "2 keys" in shown.err


def test_an_empty_cache_has_no_keys(tmp_path, capsys):
    assert run(["cache", "ls", "--dir", str(tmp_path / "none")]) == 0
    assert "0 keys" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_verify_finds_damage_names_the_shard_and_repair_forgets_it(cache, capsys):
    assert run(["cache", "verify"]) == 0
    assert "300 rows of 2 keys are whole" in capsys.readouterr().out
    damage(cache)
    assert run(["cache", "verify"]) == 2
    shown = capsys.readouterr()
    assert f"{cache}/abb/view_1/000000.rows: 1 damaged (row 3)" in shown.out
    assert "never used" in shown.err
    assert run(["cache", "verify", "aaa"]) == 0
    assert run(["cache", "verify", "abb", "--repair"]) == 0
    assert run(["cache", "verify"]) == 0
    assert "299 rows" in capsys.readouterr().out.splitlines()[-1]


def test_a_folder_that_does_not_say_what_it_is_is_reported_and_can_be_cleared(cache, capsys):
    (cache / "abb/about.json").write_text("{")
    assert run(["cache", "ls"]) == 0
    assert "unreadable" in capsys.readouterr().out
    assert run(["cache", "verify"]) == 2
    assert "transfuse cache clear abb" in capsys.readouterr().out
    assert run(["cache", "clear", "abb"]) == 0
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == ["aaa"]


@pytest.mark.parametrize(
    ("arguments", "left"),
    [(["aa"], ["abb"]), (["--older-than", "2"], ["abb"]), (["--older-than", "4"], ["aaa", "abb"]), (["--all"], []), (["abb", "aaa"], [])],
)
def test_clear_deletes_what_is_named(cache, arguments, left):
    assert run(["cache", "clear", *arguments]) == 0
    assert sorted(path.name for path in cache.iterdir() if not path.name.startswith(".")) == left


@pytest.mark.parametrize(
    ("arguments", "words"), [([], "--older-than"), (["a"], "2 keys begin with 'a'"), (["zzz"], "no key begins with 'zzz'")]
)
def test_clear_deletes_nothing_on_a_guess(cache, capsys, arguments, words):
    assert run(["cache", "clear", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2


def test_clear_leaves_what_a_process_uses(cache, capsys):
    store = Store.of(cache / "aaa")
    assert run(["cache", "clear", "--all"]) == 0
    assert "aaa stays: a process is using it" in capsys.readouterr().err
    assert store.read(0, np.arange(100))[1].all()
    assert not (cache / "abb").exists()


def test_fill_says_what_is_missing_in_one_message(tmp_path, capsys):
    assert run(["cache", "fill", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
