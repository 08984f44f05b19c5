"""Clusters end without a line of Dask's, whatever they hold and however they end.

These are cases of each kind; ``python -m tests.e2e.quiet`` plays all.
"""

from __future__ import annotations

import pytest

from tests.e2e.quiet.play import play

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("hold", "end"),
    [
        ("nested", "client_first"),
        ("nested", "exception_in_with"),
        ("gathered_elsewhere", "client_first"),
        ("subscribed", "cluster_first"),
        ("booting", "at_exit"),
        ("callbacks", "at_exit"),
        pytest.param("graph_60k", "at_exit", marks=pytest.mark.slow),
        ("pending", "restarted"),
        ("scattered", "remote_client_left"),
        ("placed", "two_clusters"),
        ("running_with_data", "interrupted"),
        ("persisted", "asynchronous"),
        ("shuffle", "with_blocks"),
        ("at_home", "terminated"),
        ("streamed", "asynchronous_cluster_first"),
        ("synchronized", "closed_twice"),
        ("executor", "forgotten"),
        ("broadcast", "runner_killed"),
        ("results", "resized_to_zero"),
    ],
)
def test_nothing_is_said(hold: str, end: str) -> None:
    assert play(hold, end).wrong == ""
