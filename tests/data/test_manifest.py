"""Lists of pictures are read as spreadsheets write them; a line that makes no sense is named."""

import pytest

from transfuse.data.manifest import read_manifest
from transfuse.errors import DataError


def read(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))
    return read_manifest(path, tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_byte_order_marks_and_order_of_columns_do_not_matter(tmp_path, separator):
    lines = [["Label", "extra", "PATH"], ["cat", "1", "a.png"], ["dog", "2", "b.png"]]
    entries = read(tmp_path, "\r\n".join(separator.join(line) for line in lines), "utf-8-sig")
    assert [(entry.id, entry.label, entry.part) for entry in entries] == [("a.png", "cat", "train"), ("b.png", "dog", "train")]
    assert entries[0].path == tmp_path / "a.png"


def test_quoted_commas_and_blank_lines_are_read(tmp_path):
    entries = read(tmp_path, 'path,label\n"a,1.png","cat"\n\n,\nb.png,dog\n')
    assert [entry.id for entry in entries] == ["a,1.png", "b.png"]


def test_split_names_are_understood(tmp_path):
    names = ["train", "VAL", "valid", "validation", "test", "unlabelled", "unlabeled"]
    entries = read(tmp_path, "path,label,split\n" + "\n".join(f"{number}.png,x,{name}" for number, name in enumerate(names)))
    assert [entry.part for entry in entries] == ["train", "val", "val", "val", "test", "unlabelled", "unlabelled"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("path,label\n", "lists no pictures"),
        ("file,label\na.png,x\n", "no column 'path'"),
        ("path,labels\na.png,x\n", "did you mean 'labels'"),
        ("path,label\na.png,x\nb.png\n", "line 3: 1 cells under 2 columns"),
        ("path,label\na.png,x\na.png,y\n", "line 3: 'a.png' is listed before, on line 2"),
        ("path,label\n,x\n", "line 2: the path is empty"),
        ("path,label,split\na.png,x,tset\n", "did you mean 'test'"),
        ("path,label,split\na.png,x,\n", "line 2: split is ''"),
        ('path,label\n"a.png,x\n', "can't be read"),
    ],
)
def test_a_broken_list_names_the_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_text_in_another_encoding_is_explained(tmp_path):
    with pytest.raises(DataError, match="UTF-8"):
        read(tmp_path, "path,label\nä.png,x\n", "latin-1")
