"""Two processes joined by gloo, started once, that compute whatever they are sent: how multi-process gradients are proved cheaply."""

from __future__ import annotations

import atexit
import io
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(seconds=120)


class ProcessFailure(RuntimeError):
    """A process raised; holds its traceback."""


def serve(rank: int, world_size: int, store: str, address: str) -> None:
    """The life of one process: join the group, connect back, answer calls until the connection closes."""
    torch.set_num_threads(1)
    with Client(address, authkey=bytes.fromhex(os.environ["TRANSFUSE_TESTING_KEY"])) as connection:
        connection.send(rank)
        try:
            dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=PATIENCE)
        except Exception:
            connection.send(traceback.format_exc())
            return
        connection.send(None)
        while True:
            try:
                path, payload = connection.recv()
            except EOFError:
                return
            sys.path[:] = path  # test modules are importable here when they are importable there
            try:
                function, arguments = pickle.loads(payload)
                answer = (True, function(*arguments))
            except Exception:
                answer = (False, traceback.format_exc())
            buffer = io.BytesIO()  # torch.save copies values; plain pickling would share memory that dies with this process
            torch.save(answer, buffer)
            connection.send_bytes(buffer.getvalue())


class Processes:
    """A group of gloo processes that lives until the interpreter ends.

    They are started as programs of their own, not by multiprocessing, which would run the caller's main script again in each.
    """

    def __init__(self, world_size: int = 2):
        self._folder = tempfile.TemporaryDirectory(prefix="transfuse-gloo-")
        self.world_size = world_size
        key = os.urandom(16)
        store = str(Path(self._folder.name) / "store")
        environment = {**os.environ, "TRANSFUSE_TESTING_KEY": key.hex(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with Listener(authkey=key) as listener:
            self._processes = []
            for rank in range(world_size):
                code = f"from transfuse.testing.processes import serve; serve({rank}, {world_size}, {store!r}, {listener.address!r})"
                self._processes.append(subprocess.Popen([sys.executable, "-c", code], env=environment))
            connections: dict[int, Connection] = {}
            for _ in range(world_size):
                connection = listener.accept()
                connections[connection.recv()] = connection
        self._connections = [connections[rank] for rank in range(world_size)]
        atexit.register(self.close)
        failures = [failure for failure in [connection.recv() for connection in self._connections] if failure]
        if failures:
            self.close()
            raise ProcessFailure(f"the processes can't join a group:\n{failures[0]}")

    def call(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """function(*arguments[rank]) in every process at once; the function must be importable by name.

        Raises:
            ProcessFailure: a process raised, ended, or did not answer; the group can't be used after that.
        """
        for connection, own in zip(self._connections, arguments, strict=True):
            connection.send((sys.path, pickle.dumps((function, own))))
        answers = []
        for rank, connection in enumerate(self._connections):
            try:
                answered = connection.poll(PATIENCE.total_seconds())
                done, value = torch.load(io.BytesIO(connection.recv_bytes()), weights_only=False) if answered else (False, "no answer")
            except (EOFError, ConnectionError) as error:
                done, value = False, f"it ended: {error!r}"
            if not done:  # the others may wait for it in a collective for ever
                self.close()
                raise ProcessFailure(f"process {rank}: {value}")
            answers.append(value)
        return answers

    @property
    def alive(self) -> bool:
        return all(process.poll() is None for process in self._processes)

    def close(self) -> None:
        """Ends the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
            process.wait()
        self._folder.cleanup()
        atexit.unregister(self.close)


@cache
def _group(world_size: int) -> Processes:
    return Processes(world_size)


def processes(world_size: int = 2) -> Processes:
    """The session's process group; started by the first call, and anew after a failure."""
    if not _group(world_size).alive:
        _group.cache_clear()
    return _group(world_size)
