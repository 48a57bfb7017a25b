"""Samples in memory and on disk: the same interface, selections without copies, fingerprints of content."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from transfuse.core.preprocess import Preprocess
from transfuse.data.decode import examine
from transfuse.data.samples import ArraySamples, FileSamples, concat, digests, no_labels, raw_bytes, relabel, rename, subset
from transfuse.errors import DataError


def arrays(count=10, shape=(3, 6, 5), seed=0, first=0, dtype=torch.uint8, size=None):
    inputs = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed)).to(dtype)
    return ArraySamples(inputs, torch.arange(count) % 3, np.arange(first, first + count), size)


@pytest.fixture
def files(tmp_path, picture):
    def make(sizes=((20, 10), (9, 30), (16, 16)), shape=(3, 8, 8), mode="RGB"):
        paths = [tmp_path / f"{number}.png" for number in range(len(sizes))]
        for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
            picture(path, size, mode, seed=number)
        hashes = np.array([examine(path).digest for path in paths], dtype="V16")
        return FileSamples(paths, torch.arange(len(paths)), np.array([path.name for path in paths]), hashes, shape)

    return make


def test_raw_gives_the_rows_that_are_asked_for():
    samples = arrays()
    everything = samples.raw(range(10))
    for indices in ([3, 1, 1], torch.tensor([3, 1, 1]), np.array([3, 1, 1])):
        assert torch.equal(samples.raw(indices), everything[[3, 1, 1]])
    assert samples.raw([]).shape == (0, 3, 6, 5)


def test_a_subset_of_a_subset_points_at_the_right_rows():
    samples = arrays()
    inner = subset(subset(samples, [9, 7, 5, 3]), [2, 0])
    assert inner.ids.tolist() == [5, 9]
    assert torch.equal(inner.raw([0, 1]), samples.raw([5, 9]))
    assert torch.equal(inner.labels, samples.labels[[5, 9]])
    assert torch.equal(inner.exact([1], Preprocess(scale=2.0)), samples.raw([9]).float() * 2)
    assert subset(samples, [-1]).ids.tolist() == [9]


def test_relabelling_and_renaming_leave_the_original_alone():
    samples = arrays()
    blank = relabel(subset(samples, [4, 2]), torch.tensor([-1, -1]))
    named = rename(blank, np.array(["a", "b"]))
    assert blank.labels.tolist() == [-1, -1]
    assert samples.labels.tolist() == [number % 3 for number in range(10)]
    assert named.ids.tolist() == ["a", "b"]
    assert blank.ids.tolist() == [4, 2]
    assert named.labels.tolist() == [-1, -1]
    assert subset(named, [1]).ids.tolist() == ["b"]
    assert torch.equal(named.raw([0, 1]), samples.raw([4, 2]))


def test_joined_samples_answer_in_any_order():
    first, second, third = arrays(4), arrays(5, seed=1, first=100), arrays(3, seed=2, first=200)
    joined = concat(concat(first, second), third)
    whole = torch.cat([first.raw(range(4)), second.raw(range(5)), third.raw(range(3))])
    assert len(joined) == 12
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(joined.raw(order), whole[order])
    assert torch.equal(joined.exact(order, Preprocess()), whole[order].float())
    assert joined.raw([]).shape == (0, 3, 6, 5)
    assert joined.ids.tolist() == [*range(4), *range(100, 105), *range(200, 203)]


def test_ids_of_both_kinds_become_text_when_joined():
    first, second = arrays(2), rename(arrays(2, seed=1), np.array(["a", "b"]))
    assert concat(first, second).ids.tolist() == ["0", "1", "a", "b"]


def test_files_and_arrays_can_be_joined(files):
    samples = files()
    both = concat(samples, rename(arrays(2, (3, 8, 8)), np.array(["x", "y"])))
    assert both.raw([4, 0]).shape == (2, 3, 8, 8)
    assert torch.equal(both.raw([0]), samples.raw([0]))


@pytest.mark.parametrize("other", [{"shape": (1, 6, 5)}, {"dtype": torch.float32}])
def test_inputs_of_other_shape_or_type_are_not_joined(other):
    with pytest.raises(DataError, match="put together"):
        concat(arrays(), arrays(**other))


def test_labels_of_another_form_are_not_joined():
    with pytest.raises(DataError, match="labels"):
        concat(arrays(), relabel(arrays(), torch.zeros(10, 2)))


def test_the_fingerprint_is_of_content_and_ids_and_not_of_labels_or_history():
    samples = arrays()
    assert relabel(samples, no_labels(samples.labels)).fingerprint == samples.fingerprint
    assert concat(subset(samples, range(4)), subset(samples, range(4, 10))).fingerprint == samples.fingerprint
    assert arrays().fingerprint == samples.fingerprint
    different = [subset(samples, range(9)), subset(samples, range(9, -1, -1)), arrays(seed=1), arrays(first=1), arrays(size=4)]
    assert len({samples.fingerprint, *(one.fingerprint for one in different)}) == 6


def test_the_fingerprint_of_files_follows_their_content(files, tmp_path, picture):
    before = files().fingerprint
    assert files().fingerprint == before
    (tmp_path / "1.png").touch()
    assert files().fingerprint == before  # a changed time is no change
    samples = files()
    picture(tmp_path / "1.png", (9, 30), seed=77)
    changed = FileSamples(
        list(map(str, samples.paths)),
        samples.labels,
        samples.ids,
        np.array([examine(path).digest for path in sorted(tmp_path.glob("*.png"))], dtype="V16"),
        (3, 8, 8),
    )
    assert changed.fingerprint != before


def test_equal_rows_have_equal_digests_also_without_the_attribute():
    inputs = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    samples = ArraySamples(inputs, torch.zeros(3, dtype=torch.int64), np.arange(3))

    class Plain:
        ids, labels, fingerprint = samples.ids, samples.labels, "x"
        raw, exact = samples.raw, samples.exact

        def __len__(self):
            return 3

    for one in (samples, Plain()):
        found = digests(one)
        assert bytes(found[0]) == bytes(found[2]) != bytes(found[1])
    assert raw_bytes(Plain()) == 3 * 2 * 4


def test_bytes_are_those_of_the_decoded_pool(files):
    assert arrays().bytes == arrays().raw(range(10)).nbytes
    assert files().bytes == files().raw(range(3)).nbytes
    assert arrays(size=4).bytes == 10 * 3 * 4 * 4
    assert subset(arrays(), [1, 2]).bytes == 2 * 90


def test_files_are_resized_on_the_shorter_side_and_cut_in_the_centre(files):
    samples = files(sizes=((20, 10),))
    image = Image.open(samples.paths[0])  # 20 wide, 10 high -> 16 x 8 -> the middle 8 x 8
    expected = np.asarray(image.resize((16, 8), Image.Resampling.BILINEAR))[:, 4:12]
    assert np.array_equal(samples.raw([0])[0].permute(1, 2, 0).numpy(), expected)


def test_exact_starts_from_the_original_file(files):
    samples = files()
    preprocess = Preprocess(size=(12, 12), channels=3, mean=(0.5,), std=(0.25,), scale=1 / 255, crop=0.75, resize="short_side")
    expected = torch.cat([preprocess.exact_image(Image.open(path)) for path in samples.paths])
    assert torch.equal(samples.exact([0, 1, 2], preprocess), expected)


def test_the_datas_own_preprocess_gives_the_same_from_raw_and_from_the_file(files):
    samples = files()
    own = Preprocess(size=(8, 8), channels=3, mean=(0.4,), std=(0.2,), scale=1 / 255, resize="short_side")
    assert torch.equal(own(samples.raw(range(3))), samples.exact(range(3), own))
    nothing = Preprocess()  # a model that says nothing of size and channels gets the data's
    assert torch.equal(nothing(samples.raw(range(3))), samples.exact(range(3), nothing))
    assert samples.exact([], own).shape == (0, 3, 8, 8)


def test_grey_files_have_one_channel_and_serve_models_of_three(files):
    samples = files(mode="L", shape=(1, 8, 8))
    assert samples.raw([0, 2]).shape == (2, 1, 8, 8)
    assert samples.exact([0, 2], Preprocess(size=(8, 8), channels=3)).shape == (2, 3, 8, 8)


def test_many_files_decoded_in_threads_keep_their_order(files):
    samples = files(sizes=((8, 8),) * 40)
    expected = np.stack([np.asarray(Image.open(path)) for path in samples.paths]).transpose(0, 3, 1, 2)
    assert np.array_equal(samples.raw(range(40)).numpy(), expected)


def test_a_size_resizes_arrays_for_raw_but_not_for_exact():
    samples = arrays(size=4)
    assert samples.raw([0, 1]).shape == (2, 3, 4, 4)
    assert samples.raw([0]).dtype == torch.uint8
    assert torch.equal(samples.exact([0], Preprocess()), arrays().raw([0]).float())


def test_samples_survive_pickling_for_workers(files):
    samples = subset(files(), [2, 0])
    copy = pickle.loads(pickle.dumps(samples))
    assert torch.equal(copy.raw([0, 1]), samples.raw([0, 1]))
    assert copy.fingerprint == samples.fingerprint
    assert len(pickle.dumps(files())) < 4000  # paths, not pictures


def test_a_loader_with_workers_gives_the_same_bytes(files):
    samples = files(sizes=((8, 8),) * 6)

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, row):
            return samples.raw([row])[0]

    loaded = torch.cat(list(torch.utils.data.DataLoader(Rows(), batch_size=3, num_workers=1)))
    assert torch.equal(loaded, samples.raw(range(6)))


def test_empty_labels_have_the_form_of_the_given_ones():
    assert no_labels(torch.tensor([3, 1])).tolist() == [-1, -1]
    assert no_labels(torch.zeros(2, 3)).isnan().all()
