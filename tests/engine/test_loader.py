"""The two loaders yield the same batches."""

import numpy as np
import pytest
import torch

from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews, Mixing, Rotation
from transfuse.engine.loader import MemoryLoader, WorkerLoader, build_loader, in_second_view, is_labelled
from transfuse.engine.order import Order, PairedOrder


def test_worker_processes_yield_what_memory_yields(problem):
    memory = problem.loader(views=3)
    workers = WorkerLoader(problem.samples, memory.views, Order(50, 16, 0), workers=2)
    for one, two in zip(memory.batches(2, 7), workers.batches(2, 7), strict=True):
        for name in ("inputs", "ids", "views", "labels", "labelled"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name


def test_a_batch_says_which_samples_have_labels_and_which_view_each_is(problem):
    for batch in problem.loader(views=2).batches(0, 12):
        assert torch.equal(batch.labelled, batch.ids < 40)
    last = next(problem.loader(views=2).batches(3, 4))  # samples 48 .. 63 of the stream: two of epoch 0, fourteen of epoch 1
    assert last.views.tolist() == [0, 0] + [1] * 14


def test_fetching_gives_the_same_views_as_the_batches(problem):
    loader = problem.loader(views=2)
    batch = next(loader.batches(4, 5))
    assert torch.equal(loader.fetch(batch.ids, batch.views), batch.inputs)


def test_multi_hot_and_regression_labels_are_missing_where_they_are_nan():
    labels = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [float("nan"), float("nan")]])
    assert is_labelled(labels).tolist() == [True, False, False]
    assert is_labelled(torch.tensor([0, -1, 2])).tolist() == [True, False, True]


def test_the_recipe_names_the_loader(problem):
    memory = problem.loader()
    assert isinstance(build_loader(problem.samples, memory.views, memory.order, "cpu", "memory"), MemoryLoader)
    assert isinstance(build_loader(problem.samples, memory.views, memory.order, "cpu", "workers"), WorkerLoader)


def test_both_loaders_mark_the_domains_of_a_paired_order(problem):
    order, views = PairedOrder(20, 30, 16, 0), problem.loader(views=2).views
    loaders = MemoryLoader(problem.samples, views, order), WorkerLoader(problem.samples, views, order)
    for one, two in zip(*(loader.batches(0, 6) for loader in loaders), strict=True):
        assert torch.equal(one.domains, (one.ids >= 20).long())
        assert torch.equal(one.domains, two.domains)
        assert torch.equal(one.select(torch.tensor([3, 1])).domains, one.domains[[3, 1]])
        assert in_second_view(loaders[0], one).domains is one.domains
    assert next(problem.loader().batches(0, 1)).domains is None


MIXING = {"mixup": Mixing(mixup=0.5, mixup_probability=0.8), "cutmix": Mixing(cutmix=1.0)}


def mixing_loaders(labels, mix="mixup", classes=5):
    """Both loaders over the same 40 pictures, with views that crop, flip and mix."""
    raw = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    samples = ArraySamples(raw, labels, np.arange(40))
    views = BatchViews(3, 0, crop=1, flip=True, mix=MIXING[mix])
    order = Order(40, 16, 0)
    return samples, MemoryLoader(samples, views, order, classes=classes), WorkerLoader(samples, views, order, workers=2, classes=classes)


@pytest.mark.parametrize("mix", MIXING)
def test_worker_processes_fetch_partners_too(mix):
    _, memory, workers = mixing_loaders(torch.arange(40) % 5, mix)
    for one, two in zip(memory.batches(1, 6), workers.batches(1, 6), strict=True):
        for name in ("inputs", "ids", "views", "labels", "labelled", "label_probabilities"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert torch.equal(workers.fetch(one.ids, one.views), one.inputs)


@pytest.mark.parametrize("mix", MIXING)
def test_mixed_labels_are_the_shares_of_the_two_samples(mix):
    labels = torch.arange(40) % 5
    samples, memory, _ = mixing_loaders(labels, mix)
    plain = MemoryLoader(samples, BatchViews(3, 0, crop=1, flip=True), memory.order)
    for batch in memory.batches(0, 8):
        partners = memory.views.mixture(batch.ids, batch.views, 40).partners
        own, theirs = plain.fetch(batch.ids, batch.views).double(), plain.fetch(partners, batch.views).double()
        same = labels[batch.ids] == labels[partners]
        share = torch.where(same, 1.0, batch.label_probabilities.gather(1, labels[batch.ids][:, None])[:, 0]).double()
        assert torch.allclose(batch.label_probabilities.sum(1), torch.ones(16))
        assert batch.labelled.all()
        assert torch.equal(batch.labels, labels[batch.ids])
        rest = batch.label_probabilities.gather(1, labels[partners][:, None])[:, 0].double()
        assert torch.allclose(torch.where(same, 1.0, share + rest), torch.ones(16, dtype=torch.float64))
        for row in (~same).nonzero()[:, 0]:
            if mix == "mixup":
                expected = share[row] * own[row] + (1 - share[row]) * theirs[row]
                assert (batch.inputs[row].double() - expected).abs().max() <= 0.5
            else:
                fits = (batch.inputs[row] == own[row]) | (batch.inputs[row] == theirs[row])
                assert fits.all()
                from_partner = (batch.inputs[row] != own[row]).any(0).double().mean()  # some of the partner's pixels may be alike
                assert from_partner <= 1 - share[row] + 1e-6 <= from_partner + 0.1


def test_a_mixture_has_a_label_only_where_both_of_its_samples_have_one():
    labels = torch.where(torch.arange(40) < 25, torch.arange(40) % 5, -1)
    _, memory, _ = mixing_loaders(labels)
    seen = 0
    for batch in memory.batches(0, 8):
        mixture = memory.views.mixture(batch.ids, batch.views, 40)
        both = (batch.ids < 25) & ((mixture.partners < 25) | (mixture.drawn == 1))
        assert torch.equal(batch.labelled, both)
        assert torch.allclose(batch.label_probabilities[both].sum(1), torch.ones(int(both.sum())))
        seen += int((~both & (batch.ids < 25)).sum())
    assert seen > 0


def test_regression_targets_and_multi_hot_labels_are_mixed_like_the_inputs():
    labels = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    labels[30:] = float("nan")
    _, memory, _ = mixing_loaders(labels, classes=None)
    for batch in memory.batches(0, 8):
        mixture = memory.views.mixture(batch.ids, batch.views, 40)
        share = mixture.drawn[:, None]
        expected = torch.where(share == 1, labels[batch.ids], share * labels[batch.ids] + (1 - share) * labels[mixture.partners])
        assert torch.equal(batch.labels.isnan(), expected.isnan())
        assert torch.allclose(batch.labels.nan_to_num(), expected.nan_to_num())
        assert torch.equal(batch.labelled, ~expected.isnan().any(1))
        assert batch.label_probabilities is None


def test_the_second_view_has_the_labels_of_its_own_mixture():
    labels = torch.arange(40) % 5
    _, memory, _ = mixing_loaders(labels)
    batch = next(memory.batches(0, 1))
    second = in_second_view(memory, batch)
    assert torch.equal(second.inputs, memory.fetch(batch.ids, (batch.views + 1) % 3))
    partners = memory.views.mixture(second.ids, second.views, 40).partners
    certain = torch.zeros(16, 5).scatter(1, labels[batch.ids][:, None], 1).scatter(1, labels[partners][:, None], 1)
    assert torch.equal(second.label_probabilities * certain, second.label_probabilities)
    assert not torch.equal(second.label_probabilities, batch.label_probabilities)


def test_a_second_view_with_changes_of_its_own_is_a_function_of_sample_and_view(problem):
    own = BatchViews(3, 5, flip=True, operations=[Rotation(20.0)])
    raw = torch.randint(0, 256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    samples = ArraySamples(raw, torch.arange(50) % 5, np.arange(50))
    views, order = BatchViews(3, 5, crop=1, second=own), Order(50, 16, 0)
    loaders = MemoryLoader(samples, views, order), WorkerLoader(samples, views, order)
    for one, two in zip(*(loader.batches(0, 4) for loader in loaders), strict=True):
        second = in_second_view(loaders[0], one)
        assert torch.equal(second.views, one.views)
        assert torch.equal(second.inputs, own.apply(raw[one.ids], one.ids, one.views))
        assert torch.equal(second.inputs, in_second_view(loaders[1], two).inputs)
        backwards = in_second_view(loaders[0], one.select(torch.arange(15, -1, -1)))
        assert torch.equal(backwards.inputs.flip(0), second.inputs)


def test_class_numbers_are_not_mixed_without_knowing_how_many_there_are():
    _, memory, _ = mixing_loaders(torch.arange(40) % 5, classes=None)
    with pytest.raises(ValueError, match="number of classes"):
        next(memory.batches(0, 1))


def test_tables_are_mixed_too(problem):
    views = BatchViews(None, 0, mix=Mixing(mixup=1.0))
    batch = next(MemoryLoader(problem.samples, views, Order(50, 16, 0), classes=3).batches(0, 1))
    mixture = views.mixture(batch.ids, batch.views, 50)
    share = mixture.drawn[:, None]
    expected = share * problem.inputs[batch.ids] + (1 - share) * problem.inputs[mixture.partners]
    assert torch.allclose(batch.inputs, expected, atol=1e-6)


META = "meta"  # a device from which nothing can be fetched: where a GPU would be waited for, it fails


def test_a_batch_on_another_device_is_known_by_its_places_here(problem):
    views = BatchViews(views=3, seed=0)
    here = MemoryLoader(problem.samples, views, Order(50, 16, 0))
    there = MemoryLoader(problem.samples, views, Order(50, 16, 0), META)
    for one, two in zip(here.batches(2, 5), there.batches(2, 5), strict=True):
        assert one.on_host is None
        assert two.inputs.device.type == two.ids.device.type == META
        assert torch.equal(two.on_host[0], one.ids)
        assert torch.equal(two.on_host[1], one.views)
        part = two.select(slice(3, 9))
        assert torch.equal(part.on_host[0], one.ids[3:9])
        assert two.select(torch.arange(4, device=META)).on_host is None


def test_the_second_view_of_a_batch_on_another_device_is_made_from_its_places_here(problem):
    there = MemoryLoader(problem.samples, BatchViews(views=3, seed=0), Order(50, 16, 0), META)
    batch = next(there.batches(4, 5))
    second = in_second_view(there, batch)
    assert torch.equal(second.on_host[0], batch.on_host[0])
    assert torch.equal(second.on_host[1], (batch.on_host[1] + 1) % 3)


def test_domains_go_where_the_batch_goes(problem):
    order, views = PairedOrder(20, 30, 16, 0), problem.loader(views=2).views
    batch = next(MemoryLoader(problem.samples, views, order, META).batches(1, 2))
    assert batch.domains.device.type == META
    assert batch.domains.shape == batch.ids.shape
