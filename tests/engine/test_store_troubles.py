"""What happens to a store around the store: deleted or misplaced files, media that can't be written, damage that has to be said."""

import json
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from transfuse.engine.teacher_cache import listing
from transfuse.engine.teacher_cache.lock import Claims
from transfuse.engine.teacher_cache.room import IN_USE, Room, drop, in_words
from transfuse.engine.teacher_cache.store import ABOUT, Store
from transfuse.errors import RunError

from .test_store import BYTES, ROWS, content

EVERYTHING = np.arange(ROWS)
NOBODY = 65534


def store(folder, key="k", said=None) -> Store:
    return Store(Room(folder, say=(said if said is not None else []).append), key, ROWS, BYTES, {"source": "t"}, 16)


def filled(folder, key="k", views=(0,)) -> Store:
    full = store(folder, key)
    for view in views:
        full.write(view, EVERYTHING, content(EVERYTHING, seed=view))
    return full


@contextmanager
def unwritable(folder):
    """A folder that this process can read and not write; a root gives its rights away meanwhile."""
    places = [folder, *folder.rglob("*")]
    modes = {place: stat.S_IMODE(place.stat().st_mode) for place in places}
    for place in reversed(places):
        place.chmod(0o555 if place.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for place, mode in modes.items():
            place.chmod(mode)


@pytest.fixture
def open_to_all():
    """A folder whose parents everybody may enter, as pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("other", ["another view's", "another key's"])
def test_a_whole_file_in_another_files_place_is_damaged(tmp_path, other):
    filled(tmp_path, views=(0, 1))
    filled(tmp_path, key="other")
    source = tmp_path / ("answers/k/view_1" if other == "another view's" else "answers/other/view_0") / "000000.rows"
    shutil.copyfile(source, tmp_path / "answers/k/view_0/000000.rows")
    said = []
    _, known = store(tmp_path, said=said).read(0, EVERYTHING)
    assert np.flatnonzero(~known).tolist() == list(range(16))
    assert len(said) == 1


def test_damage_is_said_once_with_file_and_number_of_rows(tmp_path):
    filled(tmp_path)
    path = tmp_path / "answers/k/view_0/000001.rows"
    held = bytearray(path.read_bytes())
    for row in (0, 3, 9):
        held[64 + row * BYTES] ^= 1
    path.write_bytes(held)
    said = []
    found = store(tmp_path, said=said)
    found.read(0, np.array([16]))
    found.read(0, np.array([25, 2]))
    assert said == [f"{path}: 3 of the teacher's stored answers are damaged; they are not used and are asked for again"]
    whole = []
    store(tmp_path, key="whole", said=whole).read(0, EVERYTHING)
    assert whole == []


@pytest.mark.parametrize("gone", ["the key", "the file", "the cache", "in_use, then the key by cache clear"])
def test_what_is_deleted_while_it_is_used_is_begun_anew(tmp_path, gone):
    said = []
    used = store(tmp_path, said=said)
    used.write(0, np.arange(10), content(np.arange(10)))
    if gone.startswith("in_use"):
        (used.folder / IN_USE).unlink()
        assert drop(used.folder)
    elif gone == "the file":
        (used.folder / "view_0/000000.rows").unlink()
    else:
        shutil.rmtree({"the key": used.folder, "the cache": tmp_path / "answers"}[gone])
    used.write(0, np.arange(5, 15), content(np.arange(5, 15)))
    values, known = used.read(0, EVERYTHING)
    assert np.flatnonzero(known).tolist() == list(range(5, 15))
    assert (values[known] == content(np.arange(5, 15))).all()
    assert len(said) == 1
    assert not drop(used.folder)  # held again
    assert listing.entries(tmp_path)[0].stored == 10


def test_a_key_that_is_deleted_again_and_again_ends_with_what_to_do(tmp_path, monkeypatch):
    used = store(tmp_path)

    def deleted(place, rows, values):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("transfuse.engine.teacher_cache.shard.Shard.write", deleted)
    with pytest.raises(RunError, match="again and again") as caught:
        used.write(0, np.arange(2), content(np.arange(2)))
    assert "resume" in caught.value.fix


def test_a_file_that_cannot_be_written_is_no_full_disk(tmp_path):
    (tmp_path / "answers/k/view_0/000000.rows").mkdir(parents=True)
    with pytest.raises(RunError, match="Is a directory"):
        filled(tmp_path)


def test_a_disk_that_cannot_reserve_is_written_all_the_same(tmp_path, monkeypatch):
    def unsupported(handle, start, size):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert filled(tmp_path).read(0, EVERYTHING)[1].all()


@pytest.mark.parametrize("written", ["{", "[]", "{}"])
def test_a_damaged_description_is_written_again_by_the_next_use(tmp_path, written):
    filled(tmp_path)
    (tmp_path / "answers/k" / ABOUT).write_text(written)
    assert "cache clear k" in listing.entries(tmp_path)[0].problem
    store(tmp_path)
    assert json.loads((tmp_path / "answers/k" / ABOUT).read_text())["source"] == "t"
    assert listing.entries(tmp_path)[0].problem == ""


def test_a_key_that_cannot_be_written_is_read(open_to_all):
    filled(open_to_all)
    path = open_to_all / "answers/k/view_0/000001.rows"
    held = path.read_bytes()
    path.write_bytes(held[:-BYTES])  # cut off, and nobody can make it longer
    with unwritable(open_to_all):
        found = store(open_to_all)
        values, known = found.read(0, EVERYTHING)
        assert not found.writable
        assert np.flatnonzero(~known).tolist() == [31]
        assert (values[known] == content(EVERYTHING)[known]).all()
        with pytest.raises(RunError, match="can't be written, and 1 or more answers are not in it"):
            found.write(0, np.array([31]), content([31]))
        (entry,) = listing.entries(open_to_all)
        assert (entry.problem, entry.stored) == ("", ROWS)
        (damage,) = listing.damages(entry)
        assert damage.rows.tolist() == [31]
        with pytest.raises(RunError, match="can't be written"):
            listing.repair(entry, [damage])
        assert not drop(entry.folder)
        with pytest.raises(RunError, match="can't be written"):
            store(open_to_all, key="new")
    assert listing.entries(open_to_all)[0].stored == ROWS


def test_listing_changes_nothing(tmp_path):
    filled(tmp_path)
    path = tmp_path / "answers/k/view_0/000001.rows"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "answers/k" / IN_USE).unlink()
    before = {place: (place.stat().st_size, place.stat().st_mtime_ns) for place in tmp_path.rglob("*")}
    (entry,) = listing.entries(tmp_path)
    assert [damage.rows.tolist() for damage in listing.damages(entry)] == [[31]]
    assert {place: (place.stat().st_size, place.stat().st_mtime_ns) for place in tmp_path.rglob("*")} == before


def test_a_piece_of_work_is_held_by_one_process_at_a_time(tmp_path):
    held = Claims(tmp_path / "claims")
    assert held.take(3)
    child = os.fork()
    if child == 0:
        other = Claims(tmp_path / "claims")
        os._exit(2 * other.take(2) + other.take(3))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    held.give_back(3)
    child = os.fork()
    if child == 0:
        os._exit(Claims(tmp_path / "claims").take(3))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert held.take(3)  # the other process has ended


def test_bytes_are_named_so_that_close_numbers_differ():
    assert [in_words(count) for count in (12, 97_660, 97_520, 20 * 10**9)] == ["12 bytes", "97.66 kB", "97.52 kB", "20 GB"]
