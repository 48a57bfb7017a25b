"""Several processes fill one key at the same time, some of them killed: every row is stored, whole and right."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from transfuse.core.preprocess import Preprocess
from transfuse.engine.teacher_cache.cached import CachedTeacher, Memory
from transfuse.engine.teacher_cache.features import feature_parts, features
from transfuse.engine.teacher_cache.forms import Dense
from transfuse.engine.teacher_cache.listing import damages, entries, repair
from transfuse.engine.teacher_cache.room import Room
from transfuse.engine.teacher_cache.store import Store
from transfuse.engine.teacher_cache.teachers import LiveTeacher, with_features

POOL = 600
FILLER = """
import sys, time
from tests.engine.test_filling import order, teacher
import numpy as np, torch
torch.set_num_threads(1)
folder, seed, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
asked = teacher(folder)
print("began", flush=True)
for part in np.array_split(order(seed), 40):
    ids = torch.from_numpy(part)
    asked.answers(ids, torch.zeros_like(ids))
    time.sleep(pause)
print(asked.forwards, flush=True)
"""


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 40)]
    return torch.nn.Sequential(*layers).eval()


def inputs() -> torch.Tensor:
    return torch.rand(POOL, 3, 8, 8, generator=torch.Generator().manual_seed(4))


def order(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(POOL)


def teacher(folder, paths=()) -> CachedTeacher:
    pictures = inputs()
    live = LiveTeacher(network(), Preprocess(), lambda ids, views: pictures[ids])
    form = Dense((40,), "fp32")

    def open_features(shapes):
        forms = {path: Dense(shape, "fp32") for path, shape in shapes.items()}
        return {path: Memory(Store(Room(folder), path, POOL, form.bytes, {}, 100), form) for path, form in forms.items()}

    about = {"source": "a network", "data_source": "pictures", "answers": form.describe()}
    kept = Memory(Store(Room(folder), "k", POOL, form.bytes, about, 100), form)
    return with_features(CachedTeacher(live, kept, 32, open_features), paths)


def start(folder, seed, pause=0.0) -> subprocess.Popen:
    command = [sys.executable, "-c", FILLER, str(folder), str(seed), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


@pytest.fixture(scope="module")
def filled_by_many(tmp_path_factory):
    """Two processes fill at once, two are killed meanwhile and one of those is started again."""
    folder = tmp_path_factory.mktemp("cache")
    moments = random.Random(0)
    doomed = [start(folder, seed, 0.02) for seed in (10, 11)]
    living = [start(folder, seed, 0.01) for seed in (0, 1)]
    for process in doomed:
        assert process.stdout.readline() == "began\n"
    for process in doomed:
        time.sleep(moments.uniform(0.02, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    living.append(start(folder, 10))
    asked = [int(process.communicate(timeout=300)[0].split()[-1]) for process in living]
    return folder, [process.returncode for process in doomed], asked


def test_processes_that_fill_one_key_together_leave_whole_and_right_rows(filled_by_many):
    folder, codes, asked = filled_by_many
    assert codes == [-signal.SIGKILL] * 2
    found = teacher(folder)
    ids = torch.arange(POOL)
    logits = found.answers(ids, torch.zeros_like(ids)).logits
    assert found.forwards == 0
    with torch.no_grad():
        torch.testing.assert_close(logits, network()(inputs()))
    assert sum(asked) < 3 * POOL  # they found each other's answers
    (entry,) = entries(folder)
    assert not damages(entry)
    assert (entry.stored, entry.filled, entry.views) == (POOL, 1.0, [0])


def test_the_bits_are_those_of_a_single_process(filled_by_many, tmp_path):
    folder, _, _ = filled_by_many
    ids = torch.arange(POOL)
    alone = teacher(tmp_path).answers(ids, torch.zeros_like(ids)).logits
    assert torch.equal(teacher(folder).answers(ids, torch.zeros_like(ids)).logits, alone)


def test_damage_is_located_and_repaired(tmp_path):
    asked = teacher(tmp_path)
    asked.complete(0, np.arange(POOL))
    path = tmp_path / "answers/k/view_0/000003.rows"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x10
    content[448 + 5 * 160] ^= 1  # row 305, behind 100 checksums
    path.write_bytes(content)
    (entry,) = entries(tmp_path)
    (damage,) = damages(entry)
    assert damage.path == path
    assert damage.rows.tolist() == [305, 399]
    repair(entry, [damage])
    assert not damages(entry)
    assert entries(tmp_path)[0].stored == POOL - 2
    again = teacher(tmp_path)
    again.complete(0, np.arange(POOL))
    assert again.forwards == 2


def test_features_of_a_frozen_network_are_computed_once_per_view(tmp_path):
    first = teacher(tmp_path, ["0"])
    with torch.no_grad():
        expected = network()[0](inputs())
    torch.testing.assert_close(features(first, "0", 1), expected)
    second = teacher(tmp_path, ["0"])
    chosen = np.array([7, 599, 3])
    torch.testing.assert_close(features(second, "0", 1, chosen), expected[chosen])
    assert [len(part) for part in feature_parts(second, "0", 1)] == [600]
    assert (first.forwards, second.forwards) == (POOL, 0)
    with pytest.raises(KeyError):
        features(second, "1", 1)
