"""A benchmark session killed at any moment has left every finished row on the disk; kills.py tries more moments."""

from __future__ import annotations

import kills
import needed
import pytest

needed.module("pytest_benchmark")

FEW = ["-k", "class_moments or confusion_matrix or sinkhorn"]


@pytest.mark.slow
def test_a_killed_session_loses_no_finished_row():
    made = kills.kills("session", count=3, seed=0, longest=4.0, more=["--providers", "reference", *FEW])
    assert sum(kill.announced for kill in made) > 0
    assert [kill.lost for kill in made] == [[], [], []]


@pytest.mark.slow
def test_a_killed_profile_loses_no_finished_table():
    (made,) = kills.kills("profile", count=1, seed=0, longest=3.0)
    assert made.announced > 0 and made.lost == []
