"""Batch order is arithmetic: nothing is dropped, nothing depends on the past."""

import torch

from transfuse.engine.order import Order, PairedOrder, SeveralOrder, SourceOrder, counts_of


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


def paired(share=0.5, rank=0, world=1):
    return PairedOrder(30, 100, 16, seed=3, target_share=share, rank=rank, world_size=world)


def stream(order, domain, steps):
    """Positions and epochs of one domain over the first steps."""
    found = [order.batch(step) for step in range(steps)]
    ids, epochs = torch.cat([ids for ids, _ in found]), torch.cat([epochs for _, epochs in found])
    mine = order.domains(ids) == domain
    return ids[mine], epochs[mine]


def test_each_domain_passes_through_all_of_its_samples_whatever_the_other_does():
    order = paired()
    for domain, samples in ((0, range(30)), (1, range(30, 130))):
        ids, epochs = stream(order, domain, 40)
        for epoch in range(int(epochs.max())):
            assert ids[epochs == epoch].sort().values.tolist() == list(samples)


def test_a_batch_holds_both_domains_in_the_share_that_was_asked_for():
    for share, wanted in ((0.5, 8), (0.25, 4), (0.01, 1), (0.99, 15)):
        order = paired(share)
        assert all(int(order.domains(order.batch(step)[0]).sum()) == wanted for step in range(20))


def test_every_part_of_a_split_batch_holds_both_domains():
    for ids in paired(0.25).batch(5)[0].chunk(4):
        assert set(paired().domains(ids).tolist()) == {0, 1}


def test_an_epoch_is_over_when_both_domains_were_passed_through():
    order = paired()
    assert order.steps(2) == 25
    assert order.epoch(25) == 2.0
    seen, _ = stream(order, 1, order.steps(1))
    assert len(set(seen.tolist())) == 100


def test_ranks_share_both_domains():
    whole = paired().batch(7)[0]
    parts = [paired(rank=rank, world=2).batch(7)[0] for rank in range(2)]
    assert sorted(torch.cat(parts).tolist()) == sorted(whole.tolist())
    assert all(paired().domains(part).tolist().count(1) == 4 for part in parts)


def test_a_step_of_two_domains_does_not_depend_on_earlier_ones():
    used = paired()
    for step in range(30):
        used.batch(step)
    assert torch.equal(used.batch(4)[0], paired().batch(4)[0])


def test_domains_of_the_same_size_are_shuffled_apart():
    order = PairedOrder(50, 50, 100, seed=0)
    ids, _ = order.batch(0)
    assert not torch.equal(ids[ids < 50], ids[ids >= 50] - 50)


def test_a_domain_smaller_than_its_share_is_not_repeated_within_a_batch():
    order = PairedOrder(5, 100, 32, seed=0)
    ids, _ = order.batch(0)
    assert len(ids) == len(set(ids.tolist())) == 5 + 16


def test_a_control_sees_the_sources_part_of_the_same_batches():
    order, alone = paired(), SourceOrder(30, 100, 16, seed=3)
    for step in range(10):
        ids, epochs = order.batch(step)
        mine = ids < 30
        assert torch.equal(alone.batch(step)[0], ids[mine])
        assert torch.equal(alone.batch(step)[1], epochs[mine])
    assert alone.steps(3) == order.steps(3)
    assert alone.domains(alone.batch(0)[0]) is None


def several(only=None):
    return SeveralOrder({"a": 30, "b": 7, "target": 100}, [5, 3, 8], seed=3, only=only)


def test_each_of_several_sets_passes_through_all_of_its_samples():
    order = several()
    assert order.steps(1) == 13, "the largest in proportion to its share decides"
    for number, samples in enumerate((range(30), range(30, 37), range(37, 137))):
        ids, epochs = stream(order, number, 30)
        for epoch in range(int(epochs.max())):
            assert ids[epochs == epoch].sort().values.tolist() == list(samples)


def test_of_some_sets_alone_a_step_sees_the_same_samples_under_the_same_numbers():
    order, some = several(), several(("a", "target"))
    assert some.per_epoch == order.per_epoch
    for step in range(10):
        ids, _ = order.batch(step)
        mine, _ = some.batch(step)
        domains = some.domains(mine)
        assert set(domains.tolist()) == {0, 2}
        for number, start, shift in ((0, 0, 0), (2, 37, 30)):
            expected = ids[order.domains(ids) == number] - start
            assert sorted((mine[domains == number] - shift).tolist()) == sorted(expected.tolist())


def test_what_the_target_leaves_of_a_batch_is_shared_evenly_or_by_size():
    assert counts_of([100, 100, 100], 16, 0.5) == [4, 4, 8]
    assert counts_of([100, 100, 100, 100], 17, 0.5) == [3, 3, 3, 8]
    assert counts_of([300, 100, 400], 80, 0.5, by_size=True) == [30, 10, 40]
    assert counts_of([2, 100, 100], 16, 0.5) == [2, 4, 8], "a small set gives each sample once"
    assert counts_of([1, 1000, 1000], 20, 0.5, by_size=True) == [1, 9, 10], "none is left out"
