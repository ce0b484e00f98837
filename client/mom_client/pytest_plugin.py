"""A pytest fixture: ``mom_broker``, a :class:`mom_client.testing.TestBroker` of each test's own.

In ``conftest.py``::

    pytest_plugins = ["mom_client.pytest_plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mom_client.testing import TestBroker


@pytest.fixture
def mom_broker() -> Iterator[TestBroker]:
    """A broker in memory, for async and sync tests alike."""
    with TestBroker() as broker:
        yield broker
