"""A file is whole or as it was."""

import os

import pytest

from transfuse.core.atomic import replacing


def test_a_block_that_ends_well_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "file"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with replacing(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", ["the block", "the disk"])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    path.write_text("one")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    def write(temporary):
        temporary.write_text("half")
        if failing == "the block":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), replacing(path) as temporary:
        write(temporary)
    assert path.read_text() == "one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
