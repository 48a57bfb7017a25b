"""metrics.jsonl after something happened to it."""

from transfuse.engine.track import Jsonl


def test_cutting_a_file_that_was_shortened_does_not_fill_it_up(tmp_path):
    track = Jsonl(tmp_path / "metrics.jsonl", "student")
    track.write("train", {"step": 1})
    size = track.size()
    track.cut(size + 100)
    assert track.size() == size
    assert b"\0" not in (tmp_path / "metrics.jsonl").read_bytes()
