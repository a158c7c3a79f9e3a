"""Accelerations of one model as values: each a file, none named in what tunes or runs them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ecdiff_core.errors import ConfigError

if TYPE_CHECKING:
    from ecdiff_core.methods.method import Method

_HOME = {
    "first_block_cache": "first_block_cache",
    "taylorseer": "taylorseer",
    "mag_cache": "mag_cache",
    "sea_cache": "sea_cache",
    "pab": "pyramid_attention_broadcast",
    "faster_cache": "faster_cache",
    "deepcache": "deepcache",
    "tome": "tome",
    "dbcache": "dbcache",
    "step_mask": "step_mask",
}
"""In which module each method is described."""
METHODS = tuple(_HOME)
"""Names of the methods."""


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: there is none.

    >>> get_method("taylorseer").dial
    'cache_interval'
    """
    if name not in _HOME:
        raise ConfigError.unknown("method", name, METHODS)
    method: Method = import_module(f"{__name__}.{_HOME[name]}").METHOD
    return method
