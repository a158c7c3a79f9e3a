"""What a refusal says, by the error's attributes in place of its sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ecdiff_core.errors import ECDiffError


@contextmanager
def refused(error: type[ECDiffError] = ECDiffError, **attributes: Any) -> Iterator[None]:
    """Expect an error of one line with these attributes (``key``, ``got``, ``expected``, ``advice``).

    Args:
        attributes: equal to the error's; ``nearest`` is the name that it asks about, ``source`` the file that
            its line begins with, ``line`` a pattern in a line that is not composed of attributes.
    """
    nearest, source, pattern = (attributes.pop(name, "") for name in ("nearest", "source", "line"))
    with pytest.raises(error) as caught:
        yield
    found, line = caught.value, str(caught.value)
    assert {name: getattr(found, name) for name in attributes} == attributes
    assert line.startswith(source)
    assert "\n" not in line
    assert re.search(pattern, line)
    assert not nearest or f"(did you mean {nearest}?)" in line
