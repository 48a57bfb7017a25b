"""Rows on disk: sharded, checked, shared between processes, bounded in size."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from transfuse.engine.teacher_cache.room import IN_USE, Room, drop, folder_bytes
from transfuse.engine.teacher_cache.store import Store, rows_per_shard
from transfuse.errors import RunError

ROWS, BYTES = 50, 6


def store(folder, key="k", rows=ROWS, shard_rows=16, max_bytes=None) -> Store:
    return Store(Room(folder, max_bytes), key, rows, BYTES, {"teacher": "t"}, shard_rows)


def content(rows, seed=0) -> np.ndarray:
    rows = np.asarray(rows)
    return ((rows[:, None] * 7 + np.arange(BYTES) * 31 + seed) % 256).astype(np.uint8)


def filled(folder, view=0, **arguments) -> Store:
    full = store(folder, **arguments)
    full.write(view, np.arange(full.rows), content(np.arange(full.rows)))
    return full


def test_what_is_written_in_any_order_is_read_in_any_order_from_several_files(tmp_path):
    shuffled = np.random.default_rng(0).permutation(ROWS)
    kept = store(tmp_path)
    for part in np.array_split(shuffled, 7):
        kept.write(3, part, content(part))
    assert len(list((tmp_path / "answers/k/view_3").iterdir())) == 4
    wanted = np.array([49, 0, 16, 15, 16, 31])
    for reader in (kept, store(tmp_path), Store.of(tmp_path / "answers/k")):
        values, known = reader.read(3, wanted)
        assert known.all()
        assert (values == content(wanted)).all()
        assert not reader.read(2, wanted)[1].any()
    assert kept.views() == [3]


def test_a_shard_takes_at_most_64_mebibytes():
    for row_bytes in (1, 20, 2004, 2**20, 2**30):
        rows = rows_per_shard(row_bytes)
        assert rows == 1 or rows * row_bytes <= 64 * 2**20 < 2 * rows * row_bytes


@pytest.mark.parametrize("damage", ["flipped bit", "no checksum", "zeroed page", "swapped rows", "cut off", "deleted"])
def test_damage_is_seen_and_nothing_else_is_lost(tmp_path, damage):
    filled(tmp_path)
    path = tmp_path / "answers/k/view_0/000001.rows"  # rows 16 to 31 behind 64 bytes of checksums
    held = bytearray(path.read_bytes())
    row = slice(64 + 4 * BYTES, 64 + 5 * BYTES)
    if damage == "flipped bit":
        held[row.start] ^= 1
    elif damage == "no checksum":
        held[16:20] = bytes(4)
    elif damage == "zeroed page":
        held[row] = bytes(BYTES)
    elif damage == "swapped rows":
        after = slice(row.stop, row.stop + BYTES)
        held[row], held[after] = held[after], held[row]
        held[16:20], held[20:24] = held[20:24], held[16:20]
    elif damage == "cut off":
        held = held[: row.start]
    lost = {"swapped rows": [20, 21], "cut off": list(range(20, 32)), "deleted": list(range(16, 32))}.get(damage, [20])
    path.write_bytes(held)
    if damage == "deleted":
        path.unlink()
    found = store(tmp_path)
    everything = np.arange(ROWS)
    values, known = found.read(0, everything)
    assert np.flatnonzero(~known).tolist() == lost
    assert (values[known] == content(everything)[known]).all()
    found.write(0, np.array(lost), content(lost, seed=0))
    assert found.read(0, everything)[1].all()
    assert (store(tmp_path).read(0, everything)[0] == content(everything)).all()


def test_the_first_answer_stays(tmp_path):
    one, other = store(tmp_path), store(tmp_path)
    one.write(0, np.array([1, 2]), content([1, 2]))
    other.write(0, np.array([2, 3]), content([2, 3], seed=9))
    values, known = one.read(0, np.array([1, 2, 3]))
    assert known.all()
    assert (values == np.concatenate([content([1, 2]), content([3], seed=9)])).all()


def test_threads_that_write_the_same_rows_leave_whole_rows(tmp_path):
    everything = np.arange(ROWS)

    def write(seed):
        own = store(tmp_path)
        for part in np.array_split(np.random.default_rng(seed).permutation(ROWS), 25):
            own.write(0, part, content(part, seed))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    values, known = store(tmp_path).read(0, everything)
    assert known.all()
    assert all(any((row == content([number], seed)[0]).all() for seed in range(4)) for number, row in enumerate(values))


def use(path, when):
    os.utime(path / IN_USE, (when, when))


def test_the_least_recently_used_key_makes_room(tmp_path):
    for when, name in enumerate(["old", "middle"]):
        filled(tmp_path, key=name)
        use(tmp_path / "answers" / name, 1000 + when)
    size = folder_bytes(tmp_path / "answers/old")
    filled(tmp_path, key="new", max_bytes=int(2.5 * size))
    assert sorted(path.name for path in Room(tmp_path).keys()) == ["middle", "new"]  # noqa: SIM118  a method, not a dictionary's


def test_a_key_in_use_is_never_evicted(tmp_path):
    living = filled(tmp_path, key="old")
    filled(tmp_path, key="middle")
    use(tmp_path / "answers/old", 1000)
    use(tmp_path / "answers/middle", 2000)
    size = folder_bytes(tmp_path / "answers/old")
    filled(tmp_path, key="new", max_bytes=int(2.5 * size))
    assert living.read(0, np.arange(ROWS))[1].all()
    assert not (tmp_path / "answers/middle").exists()
    with pytest.raises(RunError, match=r"in use"):
        filled(tmp_path, key="newest", max_bytes=int(1.5 * size))
    assert not drop(living.folder)


HOLDER = """
import sys, numpy as np
from transfuse.engine.teacher_cache.room import Room
from transfuse.engine.teacher_cache.store import Store
held = Store(Room(sys.argv[1]), "k", 50, 6, {}, 16)
held.read(0, np.arange(3))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_process_that_is_killed_no_longer_uses_its_key(tmp_path):
    filled(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert not drop(tmp_path / "answers/k")
    holder.kill()
    holder.communicate()
    assert drop(tmp_path / "answers/k")
    assert not (tmp_path / "answers/k").exists()


def test_a_cache_that_is_too_small_for_one_key_says_so(tmp_path):
    with pytest.raises(RunError, match=r"cache.max_bytes"):
        filled(tmp_path, max_bytes=100)


def test_a_full_disk_is_a_message_and_not_a_dead_process(tmp_path, monkeypatch):
    def full(handle, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="disk has no room"):
        filled(tmp_path)


def test_a_folder_that_is_no_store_is_named(tmp_path):
    (tmp_path / "answers/k").mkdir(parents=True)
    with pytest.raises(RunError, match="transfuse cache clear k"):
        Store.of(tmp_path / "answers/k")
