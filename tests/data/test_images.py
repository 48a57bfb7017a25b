"""Picture folders and lists are read in every documented structure; what is broken is named."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from transfuse import data
from transfuse.core.types import DataRequest
from transfuse.data.check import check
from transfuse.data.images import open_data
from transfuse.errors import DataError


def open_folder(root, **request):
    return data.open_data(f"images:{root}", DataRequest(**request))


def test_class_folders_are_classes(class_folders):
    root = class_folders({"bees": 12, "ants": 10})
    parts = open_data(str(root), DataRequest())
    assert parts.classes == ["ants", "bees"]
    assert parts.train.labels.tolist() == [0] * 10 + [1] * 12
    assert parts.train.ids[0] == "ants/000.png"
    assert parts.train.raw([0]).shape == (1, 3, 10, 12)  # all of one size: kept
    dataset = open_folder(root)
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 22
    assert dataset.input_shape == (3, 10, 12)
    expected = np.asarray(Image.open(root / dataset.train.ids[0]))
    assert np.array_equal(dataset.train.raw([0])[0].permute(1, 2, 0).numpy(), expected)


def test_numeric_class_names_are_sorted_by_value(class_folders):
    assert open_data(str(class_folders({"10": 2, "9": 2, "1": 2})), DataRequest()).classes == ["1", "9", "10"]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_train_val_and_test_folders_are_parts(class_folders, tmp_path, name):
    for part, count in (("train", 6), (name, 3), ("test", 4)):
        class_folders({"a": count, "b": count}, tmp_path / "set" / part)
    dataset = open_folder(tmp_path / "set")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (12, 6, 8)
    assert all(identity.startswith("test/") for identity in dataset.test.ids)
    assert all(identity.startswith(f"{name}/") for identity in dataset.val.ids)


def test_with_train_and_val_only_val_becomes_test_said_aloud(class_folders, tmp_path):
    for part, count in (("train", 20), ("val", 5)):
        class_folders({"a": count, "b": count}, tmp_path / "set" / part)
    dataset = open_folder(tmp_path / "set")
    assert len(dataset.test) == 10
    assert all(identity.startswith("val/") for identity in dataset.test.ids)
    assert all(identity.startswith("train/") for identity in dataset.val.ids)
    assert any("validation part became test" in note for note in dataset.notes)


def test_a_class_called_train_is_a_class(class_folders):
    assert open_data(str(class_folders({"train": 3, "plane": 3})), DataRequest()).classes == ["plane", "train"]


def test_an_unlabelled_folder_beside_train_is_unlabelled(class_folders, tmp_path, picture):
    class_folders({"a": 10, "b": 10}, tmp_path / "set" / "train")
    for number in range(4):
        picture(tmp_path / "set" / "unlabelled" / "deep" / f"{number}.png", seed=1000 + number)
    dataset = open_folder(tmp_path / "set")
    assert dataset.unlabelled is not None
    assert len(dataset.unlabelled) == 4
    assert dataset.classes == ["a", "b"]


def test_a_flat_folder_serves_as_unlabelled_and_is_refused_alone(class_folders, tmp_path, picture):
    root = class_folders({"a": 10, "b": 10})
    for number in range(5):
        picture(tmp_path / "flat" / f"{number}.png", (30, 20), seed=500 + number)
    with pytest.raises(DataError, match="no sample has a label"):
        open_folder(tmp_path / "flat")
    dataset = open_folder(root, size=16, unlabelled=f"images:{tmp_path / 'flat'}")
    assert dataset.unlabelled is not None
    assert dataset.unlabelled.raw(range(5)).shape == (5, 3, 16, 16)
    assert (dataset.unlabelled.labels == -1).all()


def test_unlabelled_pictures_of_the_same_oblong_size_fit(class_folders, tmp_path):
    root = class_folders({"a": 10, "b": 10})
    dataset = open_folder(root, unlabelled=f"images:{class_folders({'x': 3}, tmp_path / 'more')}")
    assert dataset.unlabelled is not None
    assert dataset.unlabelled.raw([0]).shape == (1, 3, 10, 12)


def test_hidden_files_and_other_files_are_ignored(class_folders):
    root = class_folders({"a": 3, "b": 3})
    (root / ".git").mkdir()
    (root / ".git" / "x.png").write_bytes(b"no")
    (root / "a" / ".hidden.png").write_bytes(b"no")
    (root / "a" / "Thumbs.db").write_bytes(b"no")
    (root / "README.md").write_text("hello")
    parts = open_data(str(root), DataRequest())
    assert len(parts.train) == 6
    assert parts.classes == ["a", "b"]


def test_folders_below_a_class_belong_to_it_and_empty_folders_are_no_classes(class_folders, picture):
    root = class_folders({"a": 3, "b": 3})
    picture(root / "a" / "more" / "deep.PNG", seed=9)
    (root / "empty").mkdir()
    parts = open_data(str(root), DataRequest())
    assert "a/more/deep.PNG" in parts.train.ids
    assert parts.classes == ["a", "b"]
    assert any("empty holds no pictures" in note for note in parts.notes)


def test_mixed_sizes_are_held_at_224_or_at_the_asked_for_side(class_folders, picture):
    root = class_folders({"a": 4, "b": 4})
    picture(root / "a" / "large.png", (40, 90))
    assert open_data(str(root), DataRequest()).train.raw([0]).shape == (1, 3, 224, 224)
    parts = open_data(str(root), DataRequest(size=20))
    assert parts.train.raw(range(9)).shape == (9, 3, 20, 20)


def test_grey_folders_have_one_channel_and_mixed_ones_three(class_folders, picture):
    root = class_folders({"a": 3, "b": 3}, mode="L")
    assert open_data(str(root), DataRequest()).train.raw([0]).shape[1] == 1
    picture(root / "b" / "colour.png")
    parts = open_data(str(root), DataRequest())
    assert parts.train.raw(range(7)).shape == (7, 3, 10, 12)
    assert any("greyscale pictures among coloured" in note for note in parts.notes)


def test_rotated_transparent_and_palette_files_are_read_upright_on_white(class_folders, tmp_path):
    root = class_folders({"a": 3, "b": 3}, size=(8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((8, 8, 3), dtype=np.uint8)
    wide[0] = 255  # the top row, which orientation 6 shows as the right column
    Image.fromarray(wide).save(root / "a" / "turned.png", exif=exif)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(root / "a" / "clear.png")
    parts = open_data(str(root), DataRequest())
    by_id = {identity: parts.train.raw([row])[0] for row, identity in enumerate(parts.train.ids)}
    assert (by_id["a/turned.png"][:, :, 7] == 255).all()
    assert (by_id["a/turned.png"][:, :, :7] == 0).all()
    assert (by_id["a/clear.png"] == 255).all()


@pytest.fixture
def damaged(class_folders, picture):
    root = class_folders({"a": 20, "b": 20})
    picture(root / "a" / "cut.jpg", (64, 64))
    content = (root / "a" / "cut.jpg").read_bytes()
    (root / "a" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (root / "b" / "text.png").write_text("this is a text file")
    (root / "b" / "zero.png").touch()
    return root


def test_unreadable_files_are_named(damaged):
    with pytest.raises(DataError) as caught:
        open_folder(damaged)
    message = str(caught.value)
    assert "3 files can't be read" in message
    for name, reason in (("a/cut.jpg", "truncated"), ("b/text.png", "text"), ("b/zero.png", "empty")):
        assert name in message
        assert reason in message[message.index(name) :]
    assert "unreadable=skip" in message


def test_unreadable_files_are_left_out_by_choice_and_named_in_the_notes(damaged):
    dataset = open_folder(damaged, unreadable="skip")
    everything = [*dataset.train.ids, *dataset.val.ids, *dataset.test.ids]
    assert len(everything) == 40
    note = next(note for note in dataset.notes if "unreadable" in note)
    assert all(name in note for name in ("a/cut.jpg", "b/text.png", "b/zero.png"))


def test_only_unreadable_files_are_an_error_even_when_skipped(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_text("no")
    with pytest.raises(DataError, match="can't be read"):
        open_folder(tmp_path, unreadable="skip")


def test_opening_changes_nothing_in_the_folder(damaged):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in damaged.rglob("*")}
    open_folder(damaged, unreadable="skip")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in damaged.rglob("*")} == before


def test_missing_and_empty_folders_are_explained(class_folders, tmp_path):
    class_folders({"a": 2, "b": 2})
    with pytest.raises(DataError, match="did you mean 'photos'"):
        open_folder(tmp_path / "photoss")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        open_folder(tmp_path / "nothing")
    (tmp_path / "set" / "train" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no class folders with pictures"):
        open_folder(tmp_path / "set")


def test_split_folders_without_classes_are_explained(tmp_path, picture):
    picture(tmp_path / "set" / "train" / "1.png")
    picture(tmp_path / "set" / "test" / "2.png")
    with pytest.raises(DataError, match="no class folders to train on"):
        open_folder(tmp_path / "set")


def test_a_picture_given_as_source_is_explained(tmp_path, picture):
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="neither a folder nor a CSV"):
        open_folder(tmp_path / "a.png")


def test_one_class_only_is_refused_by_the_check(class_folders):
    with pytest.raises(DataError, match="the only one is 'ants'"):
        check(open_folder(class_folders({"ants": 20})))


def test_class_folders_hold_classes_only(class_folders):
    with pytest.raises(DataError, match="can't hold regression labels"):
        open_folder(class_folders({"a": 3, "b": 3}), task="regression")


def write_list(root, lines, name="labels.csv"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def loose(tmp_path, picture):
    for number in range(12):
        picture(tmp_path / "loose" / f"{number}.png", seed=number)
    return tmp_path / "loose"


def test_a_list_gives_classes_and_splits(loose):
    splits = ["train"] * 8 + ["valid", "valid", "test", "unlabelled"]
    write_list(loose, ["path,label,split", *(f"{number}.png,{'ab'[number % 2]},{split}" for number, split in enumerate(splits))])
    dataset = open_folder(loose)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (8, 2, 1)
    assert dataset.classes == ["a", "b"]
    assert dataset.unlabelled is not None
    assert dataset.unlabelled.labels.tolist() == [-1]
    assert any("labels.csv" in note for note in dataset.notes)


def test_a_list_can_lie_anywhere_and_names_paths_relative_to_itself(loose):
    write_list(loose.parent, ["path,label", *(f"loose/{number}.png,{number % 2}" for number in range(12))], "list.csv")
    parts = open_data(str(loose.parent / "list.csv"), DataRequest())
    assert len(parts.train) == 12
    assert parts.classes == ["0", "1"]


def test_several_names_in_a_label_are_multilabel(loose):
    write_list(loose, ["path,label", *(f"{number}.png,{'sky;sea' if number % 3 else 'sky'}" for number in range(12))])
    dataset = open_folder(loose)
    assert dataset.task == "multilabel"
    assert dataset.classes == ["sea", "sky"]
    assert dataset.train.labels.shape[1] == 2
    assert dataset.train.labels.dtype == torch.float32


def test_numbers_with_fractions_are_regression_and_whole_ones_when_asked(loose):
    write_list(loose, ["path,label", *(f"{number}.png,{number / 4}" for number in range(12))])
    dataset = open_folder(loose)
    assert dataset.task == "regression"
    assert dataset.target is not None
    write_list(loose, ["path,label", *(f"{number}.png,{number}" for number in range(12))])
    assert open_data(str(loose), DataRequest()).task == "classification"
    assert open_folder(loose, task="regression").task == "regression"


def test_listed_files_that_are_missing_are_named_or_left_out(loose):
    write_list(loose, ["path,label", *(f"{number}.png,{number % 2}" for number in range(12)), "gone.png,1"])
    with pytest.raises(DataError, match=r"gone\.png \(there is no such file\)"):
        open_folder(loose)
    assert any("gone.png" in note for note in open_folder(loose, unreadable="skip").notes)


def test_ants_and_bees_open_with_val_as_test(test_data):
    dataset = open_folder(test_data.hymenoptera_folder(), size=64)
    assert dataset.classes == ["ants", "bees"]
    assert len(dataset.test) == 153  # the set's own val folder
    assert len(dataset.train) + len(dataset.val) == 244
    assert dataset.input_shape == (3, 64, 64)
    assert any("validation part became test" in note for note in dataset.notes)
    own = dataset.preprocess
    rows = range(4)
    assert torch.allclose(own(dataset.test.raw(rows)), dataset.test.exact(rows, own))
    assert not check(dataset)


def test_names_of_class_folders_are_taken_whole(tmp_path):
    names = ["<b>x</b>".replace("/", "\N{FRACTION SLASH}"), "a, b; c", "two\nlines", " spaces ", "1.5"]
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        for copy in range(6):
            Image.new("RGB", (8, 8), (number * 40, copy * 40, 0)).save(tmp_path / name / f"{copy}.png")
    dataset = open_folder(tmp_path)
    assert dataset.task == "classification"
    assert sorted(dataset.classes) == sorted(names)
    for identity, label in zip(dataset.train.ids, dataset.train.labels, strict=True):
        assert str(identity).startswith(dataset.classes[int(label)] + "/")


def test_fractions_as_names_of_class_folders_are_classes(tmp_path):
    for name in ("0.5", "1.5"):
        (tmp_path / name).mkdir()
        for copy in range(6):
            Image.new("L", (8, 8), copy * 40 + int(name[0])).save(tmp_path / name / f"{copy}.png")
    assert open_folder(tmp_path).classes == ["0.5", "1.5"]


def test_file_names_that_are_no_utf8_become_text(tmp_path):
    for name in (b"good", b"caf\xe9"):
        folder = os.fsencode(tmp_path) + b"/" + name
        try:
            os.mkdir(folder)
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        for copy in range(6):
            with open(folder + b"/\xff%d.png" % copy, "wb") as file:
                Image.new("L", (8, 8), copy * 40 + len(name)).save(file, "png")
    dataset = open_folder(tmp_path)
    assert dataset.classes == ["caf\\xe9", "good"]
    for text in (*dataset.classes, *map(str, dataset.train.ids)):
        text.encode("utf-8")  # can be written into a run folder
