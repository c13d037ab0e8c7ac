"""The main job, end to end: every claim the demo makes is checked by the demo itself."""

from __future__ import annotations

from tests.system.demo_run import DemoRun


def test_every_check_of_the_demo_holds_though_connectors_are_killed_between_scenes(demo_run: DemoRun) -> None:
    """Mission X2, X3, X6, C1, C4, D5, L1-L3, L6; crash safety between two steps."""
    failed = [c for c in demo_run.checks if not c["ok"]]
    assert demo_run.exit_code == 0, (failed, demo_run.stderr[-2_000:])
    assert not failed
    assert len(demo_run.checks) > 40


def test_consent_reaches_outreach_within_ten_seconds(demo_run: DemoRun) -> None:
    """Mission C6: the time from consent to contact is measured."""
    assert 0 < demo_run.facts["from consent to event, seconds"] < 10
