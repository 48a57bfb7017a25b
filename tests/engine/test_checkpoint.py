"""Checkpoints are whole or absent."""

import os
import stat
from pathlib import Path

import pytest
import torch

from transfuse.engine.checkpoint import Checkpoints
from transfuse.errors import RunError


def files(folder):
    return sorted(folder.glob("*"))


def test_the_newest_comes_back_with_the_same_bits(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step, "weights": torch.full((5,), 1 / step)})
    state, notes = checkpoints.load()
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.full((5,), 1 / 3))
    assert notes == []
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file_is_passed_over_for_the_one_before_it(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"step": 1})
    checkpoints.save(2, {"step": 2})
    newest = files(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"truncated": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    state, notes = checkpoints.load()
    assert state == {"step": 1}
    assert "damaged" in notes[0]
    assert newest.name in notes[0]


def test_nothing_whole_is_no_state_at_all(tmp_path):
    assert Checkpoints(tmp_path / "absent").load() == (None, [])
    assert Checkpoints(None).load() == (None, [])


def test_a_failed_write_leaves_the_older_ones(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"step": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        checkpoints.save(2, {"step": 2})
    assert [path.name for path in files(tmp_path)] == ["step_000000001.pt"]


def test_a_checkpoint_opens_without_unpickling_code(tmp_path):
    Checkpoints(tmp_path).save(1, {"best": None, "rows": [[0.5]], "rng": torch.zeros(2)})
    archive = tmp_path / "weights.pt"
    archive.write_bytes(files(tmp_path)[0].read_bytes()[64:])
    assert torch.load(archive, weights_only=True)["rows"] == [[0.5]]
    assert stat.S_ISREG(archive.stat().st_mode)


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path):
    (tmp_path / ".step_000000001.99.tmp").write_bytes(b"half")
    Checkpoints(tmp_path).save(2, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000002.pt"]


def test_of_several_processes_the_first_one_alone_deletes(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "student")
    checkpoints.save(1, {"step": 1})
    monkeypatch.setattr("transfuse.core.ranks.rank", lambda: 1)
    checkpoints.clear()
    assert len(files(tmp_path / "student")) == 1
    monkeypatch.setattr("transfuse.core.ranks.rank", lambda: 0)
    checkpoints.clear()
    assert files(tmp_path) == []


def test_a_folder_that_somebody_else_deleted_meanwhile_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: True)  # a moment ago it was there
    Checkpoints(tmp_path / "student").clear()
    Checkpoints(None).clear()
