"""Models that were loaded once are copied where the same files are loaded again, in a tenth of the time."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ecdiff_core.models.pair import Pair, load_pair
from ecdiff_core.models.pair_spec import PairSpec


class _Original:
    """What was loaded as bytes, beside its tensors: those take longer to pickle than to copy."""

    def __init__(self, loaded: object) -> None:
        numbers: dict[int, int] = {}
        self.tensors: list[Tensor] = []

        def number(value: object) -> int | None:
            if not isinstance(value, Tensor):
                return None
            if id(value) not in numbers:
                numbers[id(value)] = len(numbers)
                self.tensors.append(value)
            return numbers[id(value)]

        written = io.BytesIO()
        pickler = pickle.Pickler(written)
        pickler.persistent_id = number  # type: ignore[method-assign]
        pickler.dump(loaded)
        self.written = written.getvalue()

    def copy(self) -> Any:
        unpickler = pickle.Unpickler(io.BytesIO(self.written))
        unpickler.persistent_load = copy.deepcopy(self.tensors).__getitem__  # type: ignore[method-assign]
        return unpickler.load()


_loaded: dict[str, _Original] = {}


def load_or_copy(spec: PairSpec, **settings: Any) -> Pair:
    """``load_pair``, of models in folders once a process; what a test does to a pair, it does to a copy."""
    folders = [Path(ref.id) for ref in (spec.cloud, spec.edge)]
    if spec.lora or not all(folder.is_absolute() and folder.is_dir() for folder in folders):
        return load_pair(spec, **settings)
    pair: Pair = copied(lambda: load_pair(spec, **settings), folders, spec, settings)
    return pair


def copied(load: Callable[[], object], folders: Sequence[Path], *settings: object) -> Any:
    """What ``load`` makes of the files in folders as they are now, by ``settings``."""
    key = repr((settings, [_stamps(folder) for folder in folders]))
    if key not in _loaded:
        _loaded[key] = _Original(load())
    return _loaded[key].copy()


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    found = [(str(path), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in found]
