"""The two loaders yield the same batches."""

import torch

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
