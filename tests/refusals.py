"""What a refusal says, by the error's attributes in place of its sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ecdiff_core.errors import ECDiffError


@contextmanager
def refused(
    error: type[ECDiffError] | tuple[type[ECDiffError], ...] = ECDiffError, **attributes: Any
) -> Iterator[pytest.ExceptionInfo[ECDiffError]]:
    """Expect an error of one line with these attributes (``key``, ``got``, ``expected``, ``advice``).

    Args:
        attributes: equal to the error's (a path as text), or a compiled pattern that is found in it;
            ``nearest`` is the name that it asks about, ``source`` the file that its line begins with,
            ``line`` a pattern in a line that is not composed of attributes.
    """
    with pytest.raises(error) as caught:
        yield caught
    check_refusal(caught.value, **attributes)


def check_refusal(found: ECDiffError, **attributes: Any) -> None:
    """See that an error is one line with these attributes, as ``refused`` has them."""
    nearest, source, pattern = (attributes.pop(name, "") for name in ("nearest", "source", "line"))
    line = str(found)
    for name, wanted in attributes.items():
        value, wanted = getattr(found, name), str(wanted) if isinstance(wanted, Path) else wanted
        assert wanted.search(str(value)) if isinstance(wanted, re.Pattern) else value == wanted, (name, value)
    assert line.startswith(source)
    assert "\n" not in line
    assert re.search(pattern, line)
    assert not nearest or f"(did you mean {nearest}?)" in line
