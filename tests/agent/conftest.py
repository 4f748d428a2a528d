"""Shortened waits for groups of nodes."""

import pytest

from mnrl_job.agent import coordinator, node_group, peer, store


@pytest.fixture
def short_waits(monkeypatch):
    """Waits between messages take a twentieth of their time."""
    monkeypatch.setattr(node_group, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(peer, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(coordinator, "ROOT_CAUSE_SECONDS", 0.3)
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.05)
