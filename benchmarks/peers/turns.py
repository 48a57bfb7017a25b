"""Turns: several training programs in processes of their own, of which exactly one runs at any moment.

A contender calls `Turns.step(n)` after its n-th optimiser step. After each block of steps it says how long the block took, and waits until
it is called again. A slow minute of the machine so falls on everybody, and no process's memory is anybody else's.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ASK_MEMORY = "memory"


def say(message: dict[str, Any]) -> None:
    """One line to whoever calls the turns; everything else that a contender prints goes to stderr."""
    sys.__stdout__.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def memory() -> dict[str, Any]:
    """The largest resident memory so far, in MB, of this process and of the largest of its workers that live; Linux alone tells.

    Not getrusage's: that of a process begins with what its parent took, and that of its children knows the dead alone.
    """
    children = Path("/proc/self/task").glob("*/children")
    workers = [pid for listed in children for pid in listed.read_text().split()]
    return {"peak_mb": _peak_mb("self"), "largest_worker_mb": max(map(_peak_mb, workers), default=0)}


def _peak_mb(process: str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # ended in between
        return 0
    return next((round(int(line.split()[1]) / 1024) for line in lines if line.startswith("VmHWM")), 0)


class Turns:
    """The contender's side.

    Args:
        block: optimiser steps per turn.
    """

    def __init__(self, block: int):
        self.block, self.seconds, self.last = block, 0.0, 0
        self.began: float | None = None
        self.taken: dict[str, Any] = {}

    def ready(self) -> None:
        """Everything before the first step is done: waits for the first turn."""
        say({"ready": True})
        self._wait()

    def step(self, number: int) -> None:
        """`number` optimiser steps are done."""
        if number - self.last >= self.block:
            self._report(number)
            self._wait()

    def done(self, result: dict[str, Any]) -> None:
        """The training is over; `result` is passed on with the memory that it took."""
        say({"done": True, **self.taken, **result})

    def _report(self, number: int) -> None:
        assert self.began is not None
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else the block would end when its last kernel is asked for
        say({"steps": number - self.last, "seconds": time.perf_counter() - self.began})
        self.last = number
        self.taken = memory()  # while workers live

    def _wait(self) -> None:
        while sys.stdin.readline().strip() == ASK_MEMORY:
            say(memory())
        self.began = time.perf_counter()


class Contender:
    """The caller's side of one process.

    Args:
        name: what the tables call it.
        module: with a program that takes turns.
        arguments: of `python -m module`.
    """

    def __init__(self, name: str, module: str, arguments: list[str]):
        self.name, self.blocks, self.taken = name, [], {}
        self.result: dict[str, Any] | None = None
        command = [sys.executable, "-m", module, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def turn(self) -> bool:
        """Lets it train one block; false once it has ended."""
        if self.result is not None:
            return False
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        message = self._read()
        if "steps" in message:
            self.blocks.append(1e3 * message["seconds"] / message["steps"])
        return self.result is None

    def memory(self) -> dict[str, Any]:
        """What it has taken so far, in MB; to be asked before it is stopped."""
        if self.result is not None:
            return {key: self.result[key] for key in ("peak_mb", "largest_worker_mb") if key in self.result}
        assert self.process.stdin is not None
        self.process.stdin.write(f"{ASK_MEMORY}\n")
        self.process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        """Ends it where it stands."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        message = json.loads(line)
        if message.get("done"):
            self.result = {key: value for key, value in message.items() if key != "done"}
            self.process.wait()
        return message


def ratio(above: list[float], below: list[float]) -> dict[str, Any]:
    """Median and quartiles of the ratio over rounds."""
    found = sorted(one / two for one, two in zip(above, below, strict=False))
    return {
        "median": round(statistics.median(found), 3),
        "quartiles": [round(found[len(found) // 4], 3), round(found[3 * len(found) // 4], 3)],
    }
