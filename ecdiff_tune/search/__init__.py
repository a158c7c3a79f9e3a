"""Searches: which candidates to measure next. They run no model; Optuna's alone keeps files."""

from ecdiff_tune.search.base import Context, Search
from ecdiff_tune.search.spaces import Space
from ecdiff_tune.search.specs import SEARCHES, SearchSpec

__all__ = ["SEARCHES", "Context", "Search", "SearchSpec", "Space"]
