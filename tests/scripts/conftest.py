"""Scripts run the tuner's commands, as the tuner's own tests do."""

from __future__ import annotations

from ..tune.conftest import composed_and_loaded_once

__all__ = ["composed_and_loaded_once"]
