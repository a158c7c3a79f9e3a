"""A hub of folders: what the code under test asks of ``huggingface_hub``, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by id, and the cache that they are fetched into.

    Args:
        fetched: the files that were fetched, in order.
        reachable: whether there is a network.
    """

    repositories: dict[str, Path]
    cache: Path
    fetched: list[str] = field(default_factory=list)
    reachable: bool = True

    def snapshot_download(
        self,
        name: str,
        revision: str | None = None,
        allow_patterns: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> Any:
        if not self.reachable or name not in self.repositories:
            raise OSError("no network")
        root, target = self.repositories[name], self.folder(name)
        names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
        if dry_run:
            return [SimpleNamespace(filename=name) for name in names]
        for each in names:
            if allow_patterns is not None and not any(fnmatch(each, one) for one in allow_patterns):
                continue
            if not (target / each).is_file():
                (target / each).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / each, target / each)
                self.fetched.append(each)
        return str(target)

    def try_to_load_from_cache(self, name: str, file: str, revision: str | None = None) -> str | None:
        path = self.folder(name) / file
        return str(path) if path.is_file() else None

    def folder(self, name: str) -> Path:
        """Where a repository is cached."""
        return self.cache / name.replace("/", "--") / COMMIT
