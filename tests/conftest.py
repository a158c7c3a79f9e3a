"""What holds for all tests: nothing is downloaded, nothing is left behind, long files first."""

from __future__ import annotations

import gc
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries read it: a test that downloads fails at once
os.environ["ECDIFF_CACHE"] = ""  # tests leave nothing in the user's folders

import hypothesis
import pytest

hypothesis.settings.register_profile("ecdiff", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("ecdiff")
gc.set_threshold(50_000, 20, 100)


LONG_FILES = (
    "test_stopped.py",
    "test_distributed.py",
    "test_pairs.py",
    "test_search_commands.py",
    "test_compare.py",
    "test_evaluator.py",
    "test_use.py",
    "test_report.py",
    "test_families.py",
    "test_faults.py",
    "test_bench_search.py",
    "test_generate.py",
    "test_bench_latency.py",
    "test_apply.py",
    "test_pipeline.py",
    "test_tune.py",
)
"""Of several processes none is to be left alone with one of these at the end."""


@pytest.fixture(scope="session", autouse=True)
def written_when_the_system_likes() -> Iterator[None]:
    """A commit that waits for the disk takes 25 ms.

    A process that is killed loses nothing; only a power cut would.
    """

    def unsynced(*given: Any, **settings: Any) -> sqlite3.Connection:
        database = connect(*given, **settings)
        database.execute("PRAGMA synchronous = OFF")
        return database

    connect = sqlite3.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for module in (sqlite3, sqlite3.dbapi2):
            patch.setattr(module, "connect", unsynced)
        yield


def pytest_configure(config: pytest.Config) -> None:
    """The pairs, but where this process only hands tests to others: models' libraries take seconds."""
    if not config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        with pytest.MonkeyPatch.context() as patch:
            # Else each worker says that torchvision is missing; what it starts is to be quiet of itself.
            patch.setenv("TRANSFORMERS_VERBOSITY", "error")
            from . import pair_fixtures

        config.pluginmanager.register(pair_fixtures)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the others keep their order."""
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """A full collection, which `free()` asks for, need not go through the libraries' million objects."""
    gc.collect()
    gc.freeze()
