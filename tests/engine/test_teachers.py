"""Teachers that answer anew each time: frozen, counted, and told apart by a hash."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from transfuse.core.preprocess import Preprocess
from transfuse.engine.teacher_cache import key
from transfuse.engine.teacher_cache.teachers import LiveTeacher, TableTeacher
from transfuse.errors import NumericsError

from .conftest import network


def live(problem, module=None) -> LiveTeacher:
    loader = problem.loader()
    return LiveTeacher(module or network(), Preprocess(), loader.fetch)


def ask(teacher, ids, view=0):
    ids = torch.tensor(ids)
    return teacher.answers(ids, torch.full_like(ids, view)).logits


def test_a_live_teacher_is_frozen_in_eval_and_gives_no_gradient(problem):
    module = network(dropout=0.9, batchnorm=True).train()
    teacher = live(problem, module)
    module.train()
    first, second = ask(teacher, [1, 2, 3]), ask(teacher, [1, 2, 3])
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert teacher.forwards == 6


def test_a_table_answers_for_the_samples_it_covers():
    teacher = TableTeacher(torch.tensor([1, -1, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert teacher.covers(torch.tensor([0, 1, 2])).tolist() == [True, False, True]
    assert ask(teacher, [0, 2]).tolist() == [[3.0, 4.0], [1.0, 2.0]]
    assert teacher.forwards == 0


def test_the_teachers_hash_sees_weights_buffers_classes_and_what_no_state_dict_tells():
    base = key.hash_teacher(network(batchnorm=True), (6,))
    assert key.hash_teacher(network(batchnorm=True), (6,)) == base
    weights = network(batchnorm=True)
    with torch.no_grad():
        weights[0].weight[0, 0] += 1e-6
    buffers = network(batchnorm=True)
    buffers[1].running_mean += 1e-6
    slope = network(batchnorm=True)
    slope[2] = nn.LeakyReLU(0.2)  # no parameter, no buffer: only the outputs on the probes differ
    assert len({base, *(key.hash_teacher(module, (6,)) for module in (weights, buffers, slope))}) == 4


def test_a_network_is_not_copied_beside_itself_to_be_hashed(monkeypatch):
    module, plain = network(batchnorm=True).double(), network(batchnorm=True)

    def no_room(self, memo):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as full:
        full.setattr(nn.Parameter, "__deepcopy__", no_room)
        full.setattr(torch.Tensor, "__deepcopy__", no_room)
        found = key.hash_teacher(module, (6,))
    assert found == key.hash_teacher(copy.deepcopy(module), (6,)) != key.hash_teacher(plain, (6,))
    assert {tensor.dtype for tensor in module.parameters()} == {torch.float64}
    assert all(torch.equal(one, other) for one, other in zip(module.parameters(), plain.double().parameters(), strict=True))


def test_weights_that_layers_share_are_shared_in_the_copy_that_is_hashed():
    tied = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).double()
    tied[1].weight = tied[0].weight
    copied = key._on_cpu(tied)
    assert copied[1].weight is copied[0].weight
    assert copied[0].weight.dtype == torch.float32


def test_a_key_does_not_depend_on_the_order_of_its_parts():
    assert key.combine({"a": 1, "b": {"x": 2, "y": 3}}) == key.combine({"b": {"y": 3, "x": 2}, "a": 1})
    assert key.combine({"a": 1}) != key.combine({"a": 2})


def test_inputs_go_where_the_teacher_is(problem):
    teacher = LiveTeacher(network(), Preprocess(), problem.loader().fetch, device="meta")
    assert ask(teacher, [1, 2, 3]).device.type == "meta"  # the loader has them on the CPU


def test_a_table_stays_where_it_was_asked_for():
    teacher = TableTeacher(torch.tensor([1, -1, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    ids = torch.tensor([0, 2], device="meta")
    assert teacher.answers(ids, ids).logits.device.type == teacher.covers(ids).device.type == "meta"
    assert teacher.rows.device.type == teacher.logits.device.type == "meta"


def test_what_a_gpu_said_is_counted_and_looked_at_later(problem, monkeypatch):
    teacher = live(problem)
    assert teacher.look() == 0
    bad = network()
    torch.nn.init.constant_(bad[0].bias, float("nan"))
    teacher = live(problem, bad)
    monkeypatch.setattr(teacher, "device", torch.device("cpu:0"))
    with pytest.raises(NumericsError, match="NaN for 3 of 3 samples"):
        ask(teacher, [1, 2, 3])  # a CPU has it at hand
    monkeypatch.setattr("transfuse.engine.teacher_cache.teachers.refuse_nan", lambda logits: None)
    monkeypatch.setattr("transfuse.engine.teacher_cache.teachers.sent", lambda raw, device: raw)
    monkeypatch.setattr("transfuse.engine.teacher_cache.teachers.autocast", lambda precision, device: nullcontext())
    teacher.device = torch.device("cuda")  # a stand-in: everything stays on the CPU
    ask(teacher, [1, 2, 3])
    ask(teacher, [4])
    assert teacher.look() == 4
