"""A path that leads nowhere is explained by its first missing part and its nearest sibling."""

from pathlib import Path

import pytest

from transfuse.data.locate import existing, existing_file, existing_folder, inside, visible_files, visible_folders
from transfuse.errors import DataError


def test_the_first_missing_part_is_named_with_a_sibling(tmp_path):
    (tmp_path / "photos" / "summer").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no 'fotos'.*did you mean 'photos'"):
        existing(str(tmp_path / "fotos" / "summer"), "images")
    with pytest.raises(DataError, match=r"no 'sumer'.*did you mean 'summer'"):
        existing(str(tmp_path / "photos" / "sumer"), "images")


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    assert existing("~/x", "images") == tmp_path / "x"


def test_files_and_folders_are_not_mistaken_for_each_other(tmp_path):
    (tmp_path / "a.npz").touch()
    assert existing_file(str(tmp_path / "a.npz"), "arrays") == Path(tmp_path / "a.npz")
    with pytest.raises(DataError, match="a file, not a folder"):
        existing_folder(str(tmp_path / "a.npz"), "images")
    with pytest.raises(DataError, match="a folder, not a file"):
        existing_file(str(tmp_path), "arrays")
    with pytest.raises(DataError, match=r"no path after the colon"):
        existing("", "images")


def test_hidden_entries_are_not_listed(tmp_path):
    for name in (".a", "b", "__MACOSX"):
        (tmp_path / name).mkdir()
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "c").touch()
    assert [path.name for path in visible_folders(tmp_path)] == ["b"]
    assert [path.name for path in visible_files(tmp_path)] == ["c"]


def test_an_inner_error_says_where_it_happened():
    with pytest.raises(DataError) as caught, inside("data.unlabelled"):
        raise DataError("broken", where="x, row 3", fix="mend it")
    assert str(caught.value) == "data.unlabelled: x, row 3: broken\n  mend it"
    with pytest.raises(DataError) as caught, inside("data.unlabelled"):
        raise DataError("broken")
    assert caught.value.where == "data.unlabelled"
