"""Choice of the cases of a parametrised test that every change has to pass."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], is_kept: Callable[[Any], bool]) -> list[Any]:
    """Mark the other cases of a test as `thorough`: `make test-all` runs them.

    Args:
      cases: values, or tuples of values, as `pytest.mark.parametrize` takes them.
      is_kept: function of a case, whether `make test` runs it as well.
    """
    return [case if is_kept(case) else _thorough(case) for case in cases]


def _thorough(case: Any) -> Any:
    # A named tuple is one value.
    values = case if type(case) is tuple else (case,)
    return pytest.param(*values, marks=pytest.mark.thorough)
