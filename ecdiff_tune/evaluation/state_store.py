"""Points of trajectories that were paid for, kept for the configs that go on from them."""

from __future__ import annotations

import hashlib
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ecdiff_core.errors import OutputError
from ecdiff_core.io.tensor_file import TensorSpec, read_tensors, write_tensors
from ecdiff_core.sampling.batching import join, move, rows_of, size_bytes, take, with_rows
from ecdiff_core.sampling.sampler import SamplerState
from ecdiff_tune.evaluation.candidate import ConfigKey


@dataclass(frozen=True)
class _Spilled:
    """A state whose rows are in a file."""

    path: Path
    bare: SamplerState
    rows: dict[str, TensorSpec]

    def read(self) -> SamplerState:
        read = read_tensors(self.path.read_bytes(), self.rows, finite=False)  # a trial's may overflow
        return with_rows(self.bare, read)


class StateStore:
    """States prompt by prompt, in the host's memory up to a budget, beyond it in files; a context manager.

    Prompts go by ``CalibrationSet.keys``.
    It is a cache of one process: the folder is emptied at the beginning and goes at the end.

    Args:
        folder: for what does not fit.
        budget_bytes: of host memory.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder, self._budget, self._used = folder, budget_bytes, 0
        self._states: OrderedDict[tuple[ConfigKey, str], SamplerState] = OrderedDict()
        self._files: dict[tuple[ConfigKey, str], _Spilled] = {}
        shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> StateStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._states.clear()
        self._files.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def has(self, key: ConfigKey, prompts: Sequence[str]) -> bool:
        """Whether the state of every one of these prompts is here."""
        return all((key, one) in self._states or (key, one) in self._files for one in prompts)

    def get(self, key: ConfigKey, prompts: Sequence[str], device: torch.device) -> SamplerState:
        """One batch of the states of these prompts, on a device."""
        return move(join([self._one(key, prompt) for prompt in prompts]), device)

    def put(self, key: ConfigKey, prompts: Sequence[str], state: SamplerState) -> None:
        """Keep the rows of a batch, one a prompt."""
        state = move(state, "cpu")
        for row, prompt in enumerate(prompts):
            self._keep((key, prompt), take(state, [row]))

    def forget(self, key: ConfigKey) -> None:
        """Drop what is kept under a key."""
        for place in [place for place in self._states if place[0] == key]:
            self._used -= size_bytes(self._states.pop(place))
        for place in [place for place in self._files if place[0] == key]:
            self._files.pop(place).path.unlink(missing_ok=True)

    def _one(self, key: ConfigKey, prompt: str) -> SamplerState:
        place = (key, prompt)
        if place in self._states:
            self._states.move_to_end(place)
            return self._states[place]
        return self._files[place].read()

    def _keep(self, place: tuple[ConfigKey, str], state: SamplerState) -> None:
        if place in self._states or place in self._files:
            return
        self._states[place] = state
        self._used += size_bytes(state)
        while self._used > self._budget:
            oldest, spilled = self._states.popitem(last=False)
            self._used -= size_bytes(spilled)
            self._spill(oldest, spilled)

    def _spill(self, place: tuple[ConfigKey, str], state: SamplerState) -> None:
        rows = rows_of(state)
        specs = {name: TensorSpec.of(row) for name, row in rows.items()}
        # Of the latents' shape still, so that the rows are found again, without their memory.
        bare = with_rows(state, {name: row.new_empty(()).expand(row.shape) for name, row in rows.items()})
        path = self._folder / hashlib.sha256(repr(place).encode()).hexdigest()[:32]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(write_tensors(rows, {}))
        except OSError as error:
            raise OutputError(
                f"Cannot keep a trajectory's state in {self._folder}: {error.strerror}.",
                key=str(self._folder),
                advice='Make room there, raise sharing_gib (host memory), or set sharing="off".',
            ) from error
        self._files[place] = _Spilled(path, bare, specs)
