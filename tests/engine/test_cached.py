"""Teachers that remember: each sample and view asked once, the same stored bits however students batch, features too."""

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.core.numerics import kl_divergence, log_softmax_at, top_k
from transfuse.core.preprocess import Preprocess
from transfuse.data.samples import ArraySamples
from transfuse.data.views import BatchViews
from transfuse.engine.loader import MemoryLoader
from transfuse.engine.order import Order
from transfuse.engine.teacher_cache.cached import CachedTeacher, Memory
from transfuse.engine.teacher_cache.forms import Dense, Top
from transfuse.engine.teacher_cache.room import Room
from transfuse.engine.teacher_cache.store import Store
from transfuse.engine.teacher_cache.teachers import LiveTeacher, with_features
from transfuse.errors import NumericsError

from .conftest import network

POOL = 50


def remembered(problem, folder, precision="fp16", together=16, module=None, form=None, **arguments) -> CachedTeacher:
    live = LiveTeacher(module or network(), Preprocess(), problem.loader().fetch)
    form = form or Dense((3,), precision)
    return CachedTeacher(live, Memory(Store(Room(folder), "k", POOL, form.bytes, {}, 16), form), together, **arguments)


def ask(teacher, ids, view=0):
    ids = torch.as_tensor(list(ids))
    return teacher.answers(ids, torch.full_like(ids, view)).logits


def test_every_sample_and_view_is_asked_exactly_once_in_batches_of_one_size(problem, tmp_path):
    sizes = []
    module = network()
    module.register_forward_hook(lambda layer, inputs, output: sizes.append(len(output)))
    teacher = remembered(problem, tmp_path, module=module)
    for view in (0, 1):
        for part in np.array_split(np.random.default_rng(view).permutation(POOL), 7):
            ask(teacher, part, view)
    ask(teacher, [3, 3, 49])
    assert teacher.forwards == 2 * POOL
    assert sizes == [16] * 8  # 4 batches hold 50 samples of a view


def test_a_batch_of_two_views_and_repeated_samples_gets_the_answers_of_its_rows(problem, tmp_path):
    teacher = remembered(problem, tmp_path, "fp32")
    ids, views = torch.tensor([4, 4, 9, 4]), torch.tensor([0, 1, 0, 0])
    logits = teacher.answers(ids, views, problem.inputs[ids]).logits
    with torch.no_grad():
        torch.testing.assert_close(logits, network().eval()(problem.inputs[ids]))


def pictures_and_network(kind):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (POOL, 3, 12, 12), dtype=torch.uint8, generator=generator)
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()]
    linear = [nn.Flatten(), nn.Linear(432, 96), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 7)] if kind == "convolutions" else [nn.Linear(96, 7)]
    network = nn.Sequential(*(convolutions if kind == "convolutions" else linear), *head)
    samples = ArraySamples(inputs, torch.zeros(POOL, dtype=torch.int64), np.arange(POOL))
    return network, MemoryLoader(samples, BatchViews(views=4, seed=0, crop=2, flip=True), Order(POOL, 16, 0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["convolutions", "linear"])
def test_the_stored_bits_depend_on_no_batching_order_or_interruption(tmp_path, kind, precision):
    network, loader = pictures_and_network(kind)
    contents = []
    for seed, sizes in enumerate([(50,), (7, 30, 13), (1,) * 50, (16, 16, 16, 2)]):
        form = Dense((7,), "fp32")
        folder = tmp_path / str(seed)
        for attempt in range(2):  # the first one is stopped half-way
            live = LiveTeacher(network, Preprocess(scale=1 / 255), loader.fetch, precision=precision, channels_last=True)
            teacher = CachedTeacher(live, Memory(Store(Room(folder), "k", POOL, form.bytes, {}), form), 16)
            order = np.random.default_rng(seed).permutation(POOL)
            for part in np.split(order, np.cumsum(sizes)[:-1])[: None if attempt else max(1, len(sizes) // 2)]:
                ids = torch.from_numpy(part)
                views = torch.full_like(ids, 2)
                teacher.answers(ids, views, loader.fetch(ids, views) if seed % 2 else None)
        contents.append((folder / "answers/k/view_2/000000.rows").read_bytes())
    assert contents[1:] == contents[:1] * 3


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 1e-3), ("fp32", 1e-6)])
def test_a_step_gets_what_was_stored_also_the_first_time(problem, tmp_path, precision, tolerance):
    first = ask(remembered(problem, tmp_path, precision), [3, 1, 2])
    again = ask(remembered(problem, tmp_path, precision), [3, 1, 2])
    assert torch.equal(first, again)
    with torch.no_grad():
        exact = network().eval()(problem.inputs[[3, 1, 2]])
    assert torch.allclose(first, exact, atol=tolerance, rtol=tolerance)


def test_a_damaged_row_is_asked_for_again_and_the_others_are_not(problem, tmp_path):
    ask(remembered(problem, tmp_path), range(POOL))
    path = tmp_path / "answers/k/view_0/000000.rows"
    content = bytearray(path.read_bytes())
    content[64 + 4 * 6] ^= 1
    path.write_bytes(content)
    teacher = remembered(problem, tmp_path)
    with torch.no_grad():
        assert torch.allclose(ask(teacher, range(POOL)), network().eval()(problem.inputs), atol=1e-2)
    assert teacher.forwards == 1


def test_values_beyond_half_precision_are_clipped_not_infinite(problem, tmp_path):
    class Loud(nn.Module):
        def forward(self, inputs):
            return torch.tensor([[1e6, -1e6, float("inf")]]).expand(len(inputs), 3)

    assert ask(remembered(problem, tmp_path, module=Loud()), [0, 1]).tolist() == [[65504.0, -65504.0, 65504.0]] * 2


def test_a_nan_is_refused_and_not_stored(problem, tmp_path):
    class Broken(nn.Module):
        def forward(self, inputs):
            return torch.full((len(inputs), 3), float("nan"))

    with pytest.raises(NumericsError, match="NaN"):
        ask(remembered(problem, tmp_path, module=Broken()), [0])
    assert Store.of(tmp_path / "answers/k").views() == []


def test_memory_that_runs_out_makes_forward_passes_smaller(problem, tmp_path):
    sizes = []

    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, inputs):
            if len(inputs) > 5:
                raise torch.OutOfMemoryError
            sizes.append(len(inputs))
            return self.inner(inputs)

    teacher = remembered(problem, tmp_path, "fp32", module=Large())
    with torch.no_grad():
        torch.testing.assert_close(ask(teacher, range(20)), network().eval()(problem.inputs[:20]))
    assert max(sizes) <= 5
    assert teacher.forwards == 32  # two batches of 16, the second filled up with samples that come later


def test_completing_a_view_asks_what_is_missing_and_tells_how_far_it_is(problem, tmp_path):
    teacher = remembered(problem, tmp_path)
    ask(teacher, range(20))
    heard = []
    teacher.complete(0, np.arange(10, 45), heard.append)
    assert teacher.forwards == 45
    assert heard == sorted(heard)
    assert heard[-1] == 35
    assert not teacher.logits.store.lacks(0, np.arange(45)).any()


def test_tapped_features_are_remembered_where_there_is_a_place_for_them(problem, tmp_path):
    def open_features(shapes):
        forms = {path: Dense(shape, "fp32") for path, shape in shapes.items()}
        return {path: Memory(Store(Room(tmp_path), f"feature-{path}", POOL, form.bytes, {}), form) for path, form in forms.items()}

    first = with_features(remembered(problem, tmp_path, "fp32", open_features=open_features), ("0", "2"))
    ids, views = torch.arange(20), torch.zeros(20, dtype=torch.int64)
    first.answers(ids, views, problem.inputs[:20])
    second = with_features(remembered(problem, tmp_path, "fp32", open_features=open_features), ("2",))
    answers = second.answers(ids, views)
    assert second.forwards == 0
    with torch.no_grad():
        torch.testing.assert_close(answers.features["2"], network().eval()[:3](problem.inputs[:20]))
    assert list(answers.features) == ["2"]
    plain = remembered(problem, tmp_path, "fp32")
    plain.answers(ids, views)
    assert plain.forwards == 0


def test_logits_that_were_stored_without_features_are_asked_once_more(problem, tmp_path):
    def open_features(shapes):
        forms = {path: Dense(shape, "fp32") for path, shape in shapes.items()}
        return {path: Memory(Store(Room(tmp_path), path, POOL, form.bytes, {}), form) for path, form in forms.items()}

    ask(remembered(problem, tmp_path), range(POOL))
    teacher = with_features(remembered(problem, tmp_path, open_features=open_features), ("0",))
    for _ in range(2):
        ask(teacher, range(POOL))
    assert teacher.forwards == POOL


def test_the_largest_logits_and_tails_soften_to_the_top_of_the_full_prediction(problem, tmp_path):
    torch.manual_seed(1)
    wide = nn.Linear(6, 500).double().float()
    teacher = remembered(problem, tmp_path, module=wide, form=Top(20, 500, (4.0, 1.0), "fp32"))
    ids = torch.arange(10)
    signals = teacher.answers(ids, torch.zeros_like(ids))
    assert signals.logits.shape == (10, 0)
    with torch.no_grad():
        logits = wide(problem.inputs[:10]).double()
    student = torch.randn(10, 500, generator=torch.Generator().manual_seed(2)).double()
    for temperature in (1.0, 4.0):
        kept, expected = signals.top.at(temperature), top_k(logits, 20, temperature)
        assert torch.equal(kept.classes, expected.classes)
        torch.testing.assert_close(kept.log_p.double(), expected.log_p, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept.tail_log_p.double(), expected.tail_log_p, rtol=1e-5, atol=1e-5)
        total = torch.cat([kept.log_p, kept.tail_log_p[:, None]], 1).exp().sum(1)
        torch.testing.assert_close(total, torch.ones(10))
        log_q = log_softmax_at(student, temperature)
        named = log_q.gather(1, kept.classes)
        rest = torch.cat([named, torch.log1p(-named.exp().sum(1, keepdim=True))], 1)
        bucketed = kl_divergence(torch.cat([kept.log_p, kept.tail_log_p[:, None]], 1).double(), rest)
        assert (bucketed <= kl_divergence(log_softmax_at(logits, temperature), log_q) + 1e-6).all()
    with pytest.raises(ValueError, match="kept for temperatures 1, 4"):
        signals.top.at(2.0)


def test_a_batch_on_another_device_is_looked_up_by_its_places_here(problem, tmp_path):
    teacher = remembered(problem, tmp_path)
    here, there = problem.loader(views=2), MemoryLoader(problem.samples, problem.loader(views=2).views, Order(50, 16, 0), "meta")
    for batch in here.batches(0, 7):
        assert torch.equal(teacher.about(batch).logits, teacher.answers(batch.ids, batch.views, batch.inputs).logits)
    asked = teacher.forwards
    for batch in there.batches(0, 7):  # nothing can be fetched from there
        logits = teacher.about(batch).logits
        assert logits.device.type == "meta"
        assert logits.shape == (16, 3)
    assert teacher.forwards == asked
