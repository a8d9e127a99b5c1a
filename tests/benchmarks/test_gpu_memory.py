"""A step's memory on a card beside its forecast."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "memory.py"
spec = importlib.util.spec_from_file_location("gpu_memory", SCRIPT)
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)

WARM = {"stage": "warm_up", "part": "backward", "step": 2}
FORECAST = {"what": "sdca, batch 1+1", "phases": [WARM | {"bytes": 2**30}, WARM | {"part": "build", "bytes": 5}]}
MEASURED = {
    "what": "sdca, batch 1+1",
    "card": "11g",
    "phases": [{"phase": WARM, "allocated": 2**29, "reserved": 2**31, "card": 2**32, "active": 1, "retries": 0}],
}


def test_phases_that_both_have_stand_beside_each_other(tmp_path, monkeypatch, capsys):
    paths = [tmp_path / name for name in ("forecast.json", "measured.json", "both.json")]
    paths[0].write_text(json.dumps(FORECAST))
    paths[1].write_text(json.dumps(MEASURED))
    monkeypatch.setattr("sys.argv", ["memory.py", str(paths[0]), str(paths[1]), "--json", str(paths[2])])
    assert memory.main() == 0
    (record,) = json.loads(paths[2].read_text())["phases"]
    assert record == WARM | {"forecast": 2**30, "allocated": 2**29, "reserved": 2**31, "card": 2**32}
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split() == ["warm_up", "backward", "2", "1,024", "512", "50.0%", "2,048", "4,096"]


def test_two_different_steps_are_refused():
    with pytest.raises(ValueError, match="the forecast is of 'another'"):
        memory.beside(FORECAST | {"what": "another"}, MEASURED)
