"""Batch order is arithmetic: nothing is dropped, nothing depends on the past."""

import torch

from transfuse.engine.order import Order


def test_every_epoch_holds_every_sample_once_whatever_the_batch_size():
    for batch_size in (1, 7, 16, 50):
        order = Order(50, batch_size, seed=3)
        stream = torch.cat([order.batch(step)[0] for step in range(150 // batch_size + 1)])[:150]
        epochs = torch.cat([order.batch(step)[1] for step in range(150 // batch_size + 1)])[:150]
        for epoch in range(3):
            assert stream[epochs == epoch].sort().values.tolist() == list(range(50))


def test_the_stream_is_the_same_for_all_batch_sizes():
    def stream(batch_size):
        order = Order(50, batch_size, seed=3)
        return torch.cat([order.batch(step)[0] for step in range(100 // batch_size + 1)])[:100]

    assert torch.equal(stream(7), stream(32))


def test_a_step_does_not_depend_on_which_steps_were_asked_for_before():
    fresh, used = Order(50, 16, seed=3), Order(50, 16, seed=3)
    for step in range(40):
        used.batch(step)
    for step in (0, 3, 39, 20):
        assert torch.equal(fresh.batch(step)[0], used.batch(step)[0])


def test_ranks_share_a_batch_without_overlap_or_loss():
    whole = Order(50, 16, seed=3).batch(2)[0]
    parts = [Order(50, 16, 3, rank, 3).batch(2)[0] for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)


def test_other_seeds_give_other_orders_and_epochs_differ():
    assert not torch.equal(Order(50, 50, 0).batch(0)[0], Order(50, 50, 1).batch(0)[0])
    assert not torch.equal(Order(50, 50, 0).batch(0)[0], Order(50, 50, 0).batch(1)[0])


def test_steps_cover_the_epochs_that_were_asked_for():
    assert Order(50, 16, 0).steps(1) == 4
    assert Order(48, 16, 0).steps(1) == 3
    assert Order(50, 16, 0).steps(0.01) == 1
