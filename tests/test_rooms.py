"""The rooms of the house: imports only go down, csrc stays on the stable ABI, one operator has one name everywhere."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400
FULL = 360  # lines of a file of csrc that is not to take another file in: it could not grow
FORMS = ("full", "low_rank")  # of a covariance

# Room -> rooms of this package it may import besides itself. "ops" may also name kernels inside a function.
MAY_IMPORT = {
    "reference": {"labels"},
    "kernels": set(),
    "labels": set(),
    "ranks": set(),
    "ops": {"reference", "labels", "ranks", "_ext"},
    "nn": {"ops", "labels", "ranks"},
    "models": {"ops", "ranks", "_paths"},
    "data": {"ops", "labels", "_paths", "_outside"},
    "metrics": {"ops", "labels", "ranks"},
    "methods": {"ops", "labels", "ranks", "nn", "models", "data", "metrics", "_outside"},
    "train": {"ops", "labels", "ranks", "nn", "models", "data", "metrics", "methods", "_paths"},
    "report": {"ops", "labels", "ranks", "nn", "models", "data", "metrics", "methods", "train", "_paths"},
    "cli": {"ops", "labels", "ranks", "nn", "models", "data", "metrics", "methods", "train", "report", "_paths"},
    "__main__": {"cli", "methods", "data"},
    "_ext": {"_C"},
    "_C": set(),
    "_paths": set(),
    "_outside": set(),
    "__init__": set(),
}
# What ``python -m fastuda.NAME`` runs: a module, or a room's __main__, that hands over to a command in cli.
COMMANDS = {"evaluate", "predict", "analyse", "memory", "export"}
MAY_IMPORT |= {command: {"cli"} for command in COMMANDS}
# Modules that nothing in their own room imports: all else in train/ serves the loop or stands beside it.
LAST = {"fastuda.train.loop"}
# Rooms whose third-party imports are listed; the others are bound by pyproject.toml alone.
LIBRARIES = {"reference": {"torch"}, "kernels": {"torch", "triton"}, "ops": {"torch"}}
LIBRARIES |= {"labels": {"torch"}, "ranks": {"torch"}, "_ext": {"torch"}}
UNPICKLERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# csrc: a room of native code for each device; csrc/*.h is what both rooms include. C++ may include its own room, that
# top, the stable ABI, the CUDA runtime and the standard library; library.cpp, which is the module, also pybind11.
NATIVE = ("cpu", "cuda")
NATIVE_SUFFIXES = (".h", ".cpp", ".cu", ".cuh")
OUTSIDE = r"torch/csrc/stable/|torch/headeronly/|cuda_runtime\.h$|cooperative_groups\.h$|cxxabi\.h$|mma\.h$|[a-z_0-9]+$"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def python_files(root: Path):
    """(room, dotted module name, path) of each Python file of the package."""
    for base, prefix in ((root / "fastuda", "fastuda"), (root / "kernels", "fastuda.kernels")):
        for path in sorted(base.rglob("*.py")):
            parts = (*prefix.split("."), *path.relative_to(base).with_suffix("").parts)
            yield parts[1], ".".join(parts), path


def imports(path: Path, module: str):
    """(imported dotted name, line, whether it stands inside a function) of each import in a file."""

    def walk(node: ast.AST, inside: bool):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    base = ".".join(filter(None, [*module.split(".")[: -child.level], base]))
                yield from ((f"{base}.{alias.name}", child.lineno, inside) for alias in child.names)
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, inside or function)

    yield from walk(ast.parse(path.read_text()), False)


def import_violations(root: Path) -> list[str]:
    found = []
    for room, module, path in python_files(root):
        where = path.relative_to(root)
        if room not in MAY_IMPORT:
            found.append(f"{where}: {room} is not a room")
            continue
        allowed = {"cli"} if module.endswith(".__main__") and room != "__main__" else MAY_IMPORT[room]
        for name, line, inside in imports(path, module):
            top, *rest = name.split(".")
            if top == "fastuda":
                other = rest[0] if rest else "__init__"
                by_name = room == "ops" and other == "kernels" and inside
                public = other not in MAY_IMPORT  # an attribute of fastuda itself, such as __version__
                if other != room and other not in allowed and not by_name and not public:
                    found.append(f"{where}:{line}: {room} imports {name}")
                if other == room and any(f"{name}.".startswith(f"{last}.") for last in LAST):
                    found.append(f"{where}:{line}: {module} imports {name}")
            elif top not in sys.stdlib_module_names and top not in LIBRARIES.get(room, {top}):
                found.append(f"{where}:{line}: {room} imports {name}")
    return found


def native_files(root: Path) -> dict[str, Path]:
    """Name as it is included (cpu/tile.h) -> path of each file of csrc."""
    files = sorted(p for p in (root / "csrc").rglob("*") if p.suffix in NATIVE_SUFFIXES)
    return {path.relative_to(root / "csrc").as_posix(): path for path in files}


def native_violations(root: Path) -> list[str]:
    found = []
    for name, path in native_files(root).items():
        room = name.split("/")[0] if "/" in name else "cpu"
        allowed = rf"{OUTSIDE}|{room}/[a-z_]+\.h$|[a-z_]+\.h$" + r"|pybind11/" * (name == "library.cpp")
        for line, text in enumerate(path.read_text().splitlines(), 1):
            include = INCLUDE.match(text)
            if include and not re.match(allowed, include[1]):
                found.append(f"csrc/{name}:{line}: includes {include[1]}")
            if re.search(r"\b(at|c10|torch::jit)::", text):
                found.append(f"csrc/{name}:{line}: names ATen or c10: {text.strip()}")
    return found


def header_violations(root: Path) -> list[str]:
    """Each header of csrc has a room, a name of its own, and readers.

    A header that one operator reads bears the operator's name; one that one file reads is a part of that file, unless
    the two together are longer than FULL lines; one above the rooms is read by both.
    """
    files = native_files(root)
    includes = {name: set(INCLUDE.findall(path.read_text())) & set(files) for name, path in files.items()}
    lines = {name: len(path.read_text().splitlines()) for name, path in files.items()}
    operators = {p.stem for p in (root / "fastuda/ops").glob("*.py")}
    found, rooms = [], {}
    for name in (name for name in files if name.endswith((".h", ".cuh"))):
        *room, base = name.split("/")
        if room and (len(room) > 1 or room[0] not in NATIVE):
            found.append(f"csrc/{name}: {'/'.join(room)} is not a room of csrc")
        if base in rooms:
            found.append(f"csrc/{name} has the name of csrc/{rooms[base]}")
        rooms[base] = name
        readers = {other for other, read in includes.items() if name in read}
        sources = readers.copy()  # that read it themselves or through other headers
        while more := {other for other, read in includes.items() if read & sources} - sources:
            sources |= more
        sources = {source for source in sources if not source.endswith((".h", ".cuh"))}
        read_by = {max((o for o in operators if Path(s).stem.startswith(o)), key=len, default="") for s in sources}
        if not readers:
            found.append(f"csrc/{name} is read by no file")
        elif not room and {source.split("/")[0] for source in sources} & set(NATIVE) != set(NATIVE):
            found.append(f"csrc/{name} is not read by both rooms")
        elif len(readers) == 1 and lines[name] + lines[min(readers)] <= FULL:
            found.append(f"csrc/{name} is read by {min(readers)} alone, and both fit into one file")
        elif room and len(read_by) == 1 and not base.startswith(operator := min(read_by)):
            found.append(f"csrc/{name} is read by {operator} alone: it bears that name")
    return found


def length_violations(root: Path) -> list[str]:
    folders = ("fastuda", "kernels", "csrc", "tests", "benchmarks")
    files = [p for f in folders for p in (root / f).rglob("*") if p.suffix in (".py", ".h", ".cpp", ".cu", ".cuh")]
    lines = {p.relative_to(root): len(p.read_text().splitlines()) for p in files}
    found = [f"{p}: {n} lines, at most {MAX_LINES}" for p, n in sorted(lines.items()) if n > MAX_LINES]
    setup = len((root / "setup.py").read_text().splitlines())
    return [*found, *([f"setup.py: {setup} lines, at most 80"] if setup > 80 else [])]


def operator_violations(root: Path) -> list[str]:
    """Each operator has reference, ops and tests; one with kernels has a benchmark; no kernel without an operator.

    A form of an operator may have a file of kernels of its own, as class_moments has class_moments_full.
    """
    names = {p.stem for p in (root / "fastuda/ops").glob("*.py") if not p.stem.startswith("_")}
    kernels = {p.stem for p in (root / "kernels").glob("*.py") if not p.stem.startswith("_")}
    native = {p.stem for f in ("cpu", "cuda") for p in (root / "csrc" / f).glob("*.c*")}
    forms = {f"{name}_{form}" for name in names for form in FORMS}
    found = [f"kernel {name} has no fastuda/ops/{name}.py" for name in sorted((kernels | native) - names - forms)]
    for name in sorted(names):
        rooms = [f"fastuda/reference/{name}.py", f"tests/ops/test_{name}.py"]
        rooms += [f"benchmarks/ops/test_{name}.py"] * (name in kernels | native)
        found += [f"operator {name} has no {room}" for room in rooms if not (root / room).is_file()]
    return found


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of an expression that is nothing but names; "" of any other."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def trusting(call: ast.Call, safe_loaders: set[str]) -> str:
    """What a call would execute of a file's content; "" if nothing."""
    name, given = dotted(call.func), {keyword.arg: keyword.value for keyword in call.keywords}
    constants = {key: value.value for key, value in given.items() if isinstance(value, ast.Constant)}
    if name == "torch.load" and constants.get("weights_only") is not True:
        return "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and constants.get("allow_pickle", "allow_pickle" in given):
        return f"{name} with allow_pickle"
    if name == "yaml.load" and dotted(given.get("Loader", call)) not in safe_loaders | {"yaml.SafeLoader"}:
        return "yaml.load without a safe loader"
    if re.fullmatch(r"yaml\.(full|unsafe)_load(_all)?|torch\.(jit\.load|hub\.\w+|package\.\w+)|eval|exec", name):
        return name
    return ""


def trust_violations(root: Path) -> list[str]:
    """Nothing in a file from outside is executed: no pickle, no loader that would unpickle."""
    found = []
    for path in sorted(p for f in ("fastuda", "kernels", "benchmarks") for p in (root / f).rglob("*.py")):
        tree, where = ast.parse(path.read_text()), path.relative_to(root)
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        safe = {node.name for node in classes if "yaml.SafeLoader" in map(dotted, node.bases)}
        for name, line, _ in imports(path, ""):
            if name.split(".")[0] in UNPICKLERS or name in ("torch.load", "numpy.load", "yaml.load"):
                found.append(f"{where}:{line}: imports {name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (what := trusting(node, safe)):
                found.append(f"{where}:{node.lineno}: {what}")
    return found


ROOMS = (
    import_violations,
    native_violations,
    header_violations,
    length_violations,
    operator_violations,
    trust_violations,
)
CHECKS = {check.__name__: check for check in ROOMS}


@pytest.mark.parametrize("check", CHECKS)
def test_the_house_keeps_its_rules(check):
    assert not CHECKS[check](ROOT)


def test_the_checkers_see_the_house():
    rooms = {room for room, _, _ in python_files(ROOT)}
    assert {"reference", "ops", "kernels", "data", "models", "methods"} <= rooms
    assert list((ROOT / "csrc/cpu").glob("*.cpp"))


def plant(root: Path, files: dict[str, str]) -> Path:
    clean = {
        "setup.py": "",
        "kernels/__init__.py": "",
        "fastuda/ops/op.py": "from fastuda.reference.op import op\ndef f():\n    from fastuda.kernels import op\n",
        "fastuda/reference/op.py": "import math\nimport torch\n",
        "csrc/cpu/op.cpp": '#include <vector>\n#include <torch/csrc/stable/library.h>\n#include "cpu/simd.h"\n',
        "csrc/cpu/other.cpp": '#include "cpu/simd.h"\n',
        "csrc/cpu/simd.h": '#include "bits.h"\n' + "\n" * 398,
        "csrc/cuda/op.cu": '#include "cuda/op_long.h"\n#include "bits.h"\n' + "\n" * 200,
        "csrc/cuda/op_long.h": "\n" * 200,
        "csrc/bits.h": "",
        "csrc/library.cpp": "#include <pybind11/pybind11.h>\n",
        "fastuda/train/loop.py": "import numpy\nfrom fastuda.methods import source\nfrom . import meter\n",
        "fastuda/train/__main__.py": "from fastuda.cli.train import main\n",
        "fastuda/cli/train.py": "from fastuda.train.loop import train\n",
        "fastuda/predict.py": "from fastuda.cli.predict import main\n",
        "fastuda/data/safe.py": "class L(yaml.SafeLoader): ...\nyaml.load('x', Loader=L)\nnp.load('x')\n"
        "np.load('x', allow_pickle=False)\ntorch.load('x', weights_only=True)\nmodel.eval()\nyaml.safe_load('x')\n",
        **{f"{folder}/test_{name}.py": "" for folder in ("tests/ops", "benchmarks/ops") for name in ("op", "other")},
        **{f"fastuda/{room}/other.py": "" for room in ("ops", "reference")},
    }
    for name, text in (clean | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_clean_house_passes(tmp_path):
    root = plant(tmp_path, {})
    assert [v for check in CHECKS.values() for v in check(root)] == []


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("fastuda/reference/a.py", "import numpy\n", "reference imports numpy"),
        ("fastuda/reference/a.py", "from ..ops import op\n", "reference imports fastuda.ops.op"),
        ("fastuda/ops/op.py", "from fastuda.kernels import op\n", "ops imports fastuda.kernels.op"),
        ("fastuda/ops/op.py", "def f():\n    import fastuda.nn.x\n", "ops imports fastuda.nn.x"),
        ("fastuda/nn/a.py", "def f():\n    from fastuda import kernels\n", "nn imports fastuda.kernels"),
        ("fastuda/nn/a.py", "import fastuda._ext\n", "nn imports fastuda._ext"),
        ("fastuda/ops/op.py", "def f():\n    import fastuda._C\n", "ops imports fastuda._C"),
        ("fastuda/data/a.py", "from fastuda.models import b\n", "data imports fastuda.models.b"),
        ("fastuda/methods/a.py", "if True:\n    from ..train import loop\n", "methods imports fastuda.train.loop"),
        ("fastuda/methods/a.py", "import fastuda.reference.op\n", "methods imports fastuda.reference.op"),
        ("fastuda/train/a.py", "from fastuda.cli.predict import photos\n", "train imports fastuda.cli.predict.photos"),
        ("fastuda/train/a.py", "def f():\n    import fastuda.evaluate\n", "train imports fastuda.evaluate"),
        ("fastuda/train/memory/a.py", "from ..loop import Run\n", "fastuda.train.memory.a imports fastuda.train.loop"),
        ("fastuda/data/a.py", "from fastuda.cli import data\n", "data imports fastuda.cli.data"),
        ("fastuda/data/__main__.py", "from fastuda.train import loop\n", "data imports fastuda.train.loop"),
        ("fastuda/predict.py", "from fastuda.train import loop\n", "predict imports fastuda.train.loop"),
        ("fastuda/ranks.py", "from fastuda.ops import op\n", "ranks imports fastuda.ops.op"),
        ("fastuda/utils/a.py", "", "utils is not a room"),
        ("kernels/op.py", "import numpy\n", "kernels imports numpy"),
        ("kernels/op.py", "from fastuda.ops import op\n", "kernels imports fastuda.ops.op"),
        ("csrc/cpu/op.cpp", "#include <ATen/ATen.h>\n", "includes ATen/ATen.h"),
        ("csrc/cuda/op_long.h", "# include <c10/util/Half.h>\n", "includes c10/util/Half.h"),
        ("csrc/cpu/op.cpp", "#include <torch/extension.h>\n", "includes torch/extension.h"),
        ("csrc/cpu/op.cpp", "#include <pybind11/pybind11.h>\n", "includes pybind11/pybind11.h"),
        ("csrc/cuda/op.cu", "at::Tensor x;\n", "names ATen or c10"),
        ("csrc/cuda/op.cu", '#include "cpu/simd.h"\n', "cuda/op.cu:1: includes cpu/simd.h"),
        ("csrc/bits.h", '#include "cuda/op_long.h"\n', "bits.h:1: includes cuda/op_long.h"),
        ("csrc/common/a.h", "", "common is not a room of csrc"),
        ("csrc/cuda/simd.h", "", "csrc/cuda/simd.h has the name of csrc/cpu/simd.h"),
        ("csrc/cpu/a.h", "", "csrc/cpu/a.h is read by no file"),
        ("csrc/cuda/op.cu", '#include "cuda/op_long.h"\n' + "\n" * 200, "csrc/bits.h is not read by both rooms"),
        ("csrc/cuda/op_long.h", "\n" * 150, "csrc/cuda/op_long.h is read by cuda/op.cu alone"),
        ("csrc/cpu/other.cpp", "", "csrc/cpu/simd.h is read by op alone: it bears that name"),
        ("fastuda/ops/op.py", "x = 1\n" * 401, "401 lines"),
        ("setup.py", "x = 1\n" * 81, "setup.py: 81 lines"),
        ("fastuda/ops/third.py", "", "operator third has no fastuda/reference/third.py"),
        ("fastuda/ops/third.py", "", "operator third has no tests/ops/test_third.py"),
        ("csrc/cuda/lost.cu", "", "kernel lost has no fastuda/ops/lost.py"),
        (
            "fastuda/train/a.py",
            "import torch\ntorch.load('x', 'cpu')\n",
            "a.py:2: torch.load without weights_only=True",
        ),
        ("fastuda/train/a.py", "torch.load('x', weights_only=False)\n", "torch.load without weights_only=True"),
        ("fastuda/train/a.py", "torch.load('x', weights_only=flag)\n", "torch.load without weights_only=True"),
        ("fastuda/train/a.py", "from torch import load\n", "imports torch.load"),
        ("fastuda/train/a.py", "torch.hub.load('x')\n", "torch.hub.load"),
        ("fastuda/data/a.py", "def f():\n    import pickle\n", "imports pickle"),
        ("fastuda/data/a.py", "np.load('x', allow_pickle=True)\n", "np.load with allow_pickle"),
        ("fastuda/data/a.py", "np.load('x', allow_pickle=flag)\n", "np.load with allow_pickle"),
        ("fastuda/data/a.py", "yaml.load('x', Loader=yaml.Loader)\n", "yaml.load without a safe loader"),
        ("fastuda/data/a.py", "yaml.load('x')\n", "yaml.load without a safe loader"),
        ("benchmarks/a.py", "yaml.unsafe_load('x')\n", "yaml.unsafe_load"),
        ("fastuda/data/a.py", "eval('1')\n", "eval"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, path, text, message):
    found = [v for check in CHECKS.values() for v in check(plant(tmp_path, {path: text}))]
    assert any(message in violation for violation in found), found


def test_a_kernel_without_a_benchmark_is_found(tmp_path):
    root = plant(tmp_path, {})
    (root / "benchmarks/ops/test_op.py").unlink()
    assert operator_violations(root) == ["operator op has no benchmarks/ops/test_op.py"]
