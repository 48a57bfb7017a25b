"""Checkpoints that are whole or absent: written aside, synced, renamed, and verified by their hash when read."""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from transfuse.core import ranks
from transfuse.errors import RunError

KEPT = 2  # the newest and one to fall back to


class Checkpoints:
    """The checkpoints of one training run.

    A file is a 64-digit SHA-256 of the rest and a torch archive that `weights_only=True` opens.

    Args:
        folder: where they lie; None keeps none (resuming is then impossible).
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps and forgets all but the newest two.

        Raises:
            RunError: the disk is full or the folder can't be written; older checkpoints stay.
        """
        if self.folder is None:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        path, temporary = self.folder / f"step_{step:09d}.pt", self.folder / f".step_{step:09d}.{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(hashlib.sha256(content).hexdigest().encode())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            fix = "free some space, then resume: older checkpoints are intact"
            raise RunError(f"can't write a checkpoint: {error.strerror or error}", where=str(path), fix=fix) from error
        for old in (*self._paths()[:-KEPT], *self._torn()):
            old.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest whole state and a note for each damaged file that was passed over; None where nothing whole is left.

        Tensors are on the CPU: modules and optimisers copy to their own device what belongs there. An optimiser's step counters don't; on
        a GPU each of them would be waited for in every step.
        """
        notes = []
        for path in reversed(self._paths()):
            content = path.read_bytes()
            digest, archive = content[:64], content[64:]
            if hashlib.sha256(archive).hexdigest().encode() == digest:
                return torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True), notes
            notes.append(f"{path} is damaged (its hash differs); falling back to the checkpoint before it")
        if notes:
            notes.append(f"no whole checkpoint is left in {self.folder}: this training starts over")
        return None, notes

    def clear(self) -> None:
        """Deletes all of them, once the run's results are written; of several processes the first one does it."""
        if self.folder is None or ranks.rank() != 0:
            return
        for path in (*self._paths(), *self._torn()):
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # there was nothing to keep, or another one deleted the folder just now
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _torn(self) -> list[Path]:
        """What a process that was killed while writing left behind; one process alone writes here."""
        return list(self.folder.glob(".step_*.tmp")) if self.folder is not None and self.folder.exists() else []

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt")) if self.folder is not None and self.folder.exists() else []
