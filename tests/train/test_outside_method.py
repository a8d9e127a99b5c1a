"""A method that is no part of this package: the one that docs/extending.md prints, run as it is printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fastuda.cli import memory
from fastuda.methods import find_method
from fastuda.train.config import config_class, parse
from fastuda.train.loop import train
from fastuda.train.memory.bundle import batches, bundled
from fastuda.train.memory.forecast import forecast
from fastuda.train.restore import restore

PAGE = Path(__file__).resolve().parents[2] / "docs/extending.md"
NAME = "minent:MinEnt"
HALF = "from fastuda.methods import Method\nclass Mine(Method):\n    def stages(self): return []"
NEEDY = "section = 'mine'\n    @dataclass(frozen=True)\n    class Config: x: int"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A directory with the printed file, which is the current one; modules and paths are as before afterwards."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text().split("## A data layout")[0], re.DOTALL)
    assert len(code.splitlines()) <= 45
    (tmp_path / "minent.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    modules = set(sys.modules)
    config_class.cache_clear()
    yield tmp_path
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    config_class.cache_clear()


def options(tiny: Path, *more: str) -> list[str]:
    schedule = "--minent.schedule.iterations=4 --minent.schedule.batch=2 --minent.schedule.learning-rate=0.01".split()
    return ["--task", str(tiny), "--method", NAME, *schedule, "--work-dir", "run", *more]


def test_it_trains_resumes_and_is_restored(tiny, outside):
    config = parse(options(tiny, "--minent.weight", "0.5"))
    result = train(config, Console(quiet=True))
    assert [row["name"] for row in result.stages] == ["source", "target_statistics", "adapted"]
    log = (outside / "run/log.jsonl").read_text().splitlines()
    entropies = [float(re.search(r'"loss_entropy": ([^,}]+)', line)[1]) for line in log if '"loss_entropy"' in line]
    assert len(entropies) == 4 and all(0 < value <= 0.5 for value in entropies)
    assert "minent:\n" in (outside / "run/config.yaml").read_text()

    resumed = parse(["--work-dir", "run", "--resume"])
    assert (resumed.minent, resumed.method) == (config.minent, NAME)
    assert train(resumed, Console(quiet=True)).stages == result.stages
    with pytest.raises(ValueError, match=r"they differ in minent\.weight"):
        train(parse(["--work-dir", "run", "--resume", "--minent.weight", "1"]), Console(quiet=True))

    restored = restore(outside / "run")
    assert restored.method.has_target_statistics and type(restored.method).__name__ == "MinEnt"
    with torch.no_grad():
        assert restored.method.predict(torch.zeros(1, 3, 32, 64)).shape[:2] == (1, restored.classes.num_classes)


def test_a_task_file_names_it_and_holds_its_section(tiny, outside):
    tiny.write_text(tiny.read_text() + f"method: {NAME}\nminent: {{weight: 0.25}}\n")
    config = parse(["--task", str(tiny), "--preset", "released"])
    assert (config.method, config.minent.weight, config.model.norm) == (NAME, 0.25, "frozen")
    tiny.write_text(tiny.read_text().replace("weight: 0.25", "wieght: 0.25"))
    with pytest.raises(ValueError, match=r"minent: unknown field 'wieght' .did you mean 'weight'"):
        parse(["--task", str(tiny)])


def test_its_memory_is_forecast(outside):
    sizes = [f"--data.{data}.size=64 128" for data in ("source", "target", "validation")]
    words = [word for size in sizes for word in size.replace("=", " ").split()]
    _, config = memory.arguments(["--method", NAME, "--model.name", "unet", "--model.width", "0.25", *words])
    found = forecast(config)
    assert {"warm_up", "adapt"} <= {phase.stage for phase in found.peaks} and found.owner.bytes > 0
    bundle = bundled(parse(["--task", "gta5_cityscapes", "--method", NAME, "--memory", "8g"]))
    assert batches(bundle) == [1, 1] and bundle.accumulate == 4


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("absent:Mine", None, "cannot import absent .ModuleNotFoundError: No module named 'absent'"),
        ("broken:Mine", "import torch\n1 / 0", "cannot import broken .ZeroDivisionError: division by zero"),
        ("empty:Mine", "", r"empty \(.*empty.py\) has no Mine"),
        ("plain:Mine", "class Mine: pass", "no subclass of fastuda.methods.Method"),
        ("plain:value", "value = 3", "no subclass of fastuda.methods.Method"),
        ("half:Mine", HALF, r"does not define networks\(\)"),
        ("taken:Mine", "section = 'sdca'", "the section 'sdca' has the name of a field"),
        ("bare:Mine", "section = 'mine'\n    Config = None", "the section 'mine' needs a dataclass"),
        ("loose:Mine", "section = 'mine'\n    Config = dict", "Config must be a dataclass with frozen=True"),
        ("odd:Mine", "section = 'My-Own'", "section must be a name of small letters"),
        ("needy:Mine", NEEDY, "every field of Config must have a default"),
        ("a b:Mine", None, "must have the form package.module:Class"),
        ("spcla", None, r"is not one of source, .* .did you mean 'spcl'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_method_is_one_sentence(tiny, outside, name, code, message):
    if code and code.startswith("section"):
        head = "from dataclasses import dataclass\nfrom fastuda.methods import Source\nclass Mine(Source):\n"
        usual = "" if "Config" in code else "    @dataclass(frozen=True)\n    class Config: x: int = 0\n"
        code = f"{head}{usual}    {code}\n"
    if code is not None:
        (outside / f"{name.partition(':')[0]}.py").write_text(code)
    with pytest.raises(ValueError, match=message) as raised:
        parse(["--task", str(tiny), "--method", name])
    assert "\n" not in str(raised.value)


def test_the_current_directory_is_searched_last(outside):
    (outside / "json.py").write_text("1 / 0")
    assert find_method(NAME).__module__ == "minent" and sys.path[-1] == str(outside)
