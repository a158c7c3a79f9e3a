"""Searches: which candidates to look at next. They run no model; Optuna's alone keeps files."""

from ecdiff_tune.search.base import Context, Search
from ecdiff_tune.search.spaces import Space
from ecdiff_tune.search.specs import SEARCHES, Kind

__all__ = ["SEARCHES", "Context", "Kind", "Search", "Space"]
