"""A score has the same digits whether it comes from the ledger or from a YAML file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ecdiff_tune.metrics.score_format import KEPT_DIGITS, shown


@given(st.floats(-2, 2), st.sampled_from([3, 4]))
def test_what_a_yaml_keeps_is_shown_as_what_it_was_rounded_from(value: float, digits: int) -> None:
    kept = round(value, KEPT_DIGITS)
    assert shown(kept, digits) == shown(value, digits)
    assert abs(float(shown(value, digits)) - value) <= 0.5 * 10**-digits + 10**-KEPT_DIGITS


def test_four_digits_of_a_number_just_below_a_half() -> None:
    value = 0.799949  # rounded twice it is 0.8000, at once 0.7999
    assert (f"{value:.4f}", f"{round(value, 5) + 1e-9:.4f}") == ("0.7999", "0.8000")
    assert shown(value) == shown(round(value, 5)) == "0.8000"
