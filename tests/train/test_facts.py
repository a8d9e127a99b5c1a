"""What a run notes of its machine, versions and command."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest
import torch

import fastuda
from fastuda.train.facts import commit, facts


def test_the_facts_are_those_of_this_process():
    found = facts(torch.device("cpu"))
    assert found["torch"] == torch.__version__ and found["fastuda"] == fastuda.__version__
    assert found["date"].endswith("UTC") and found["host"] and found["device"]
    assert shlex.split(found["command"])[1:] == sys.orig_argv[1:]


def test_the_commit_is_that_of_the_packages_own_tree(tmp_path):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    if shutil.which("git") is None:
        pytest.skip("needs git")
    assert commit(tmp_path) == ""  # an installed package
    git("init", "-q")
    assert commit(tmp_path) == ""  # somebody else's tree
    (tmp_path / "fastuda").mkdir()
    (tmp_path / "fastuda" / "a.py").write_text("1")
    assert commit(tmp_path) == ""  # a tree without a commit
    git("add", ".")
    git("commit", "-q", "-m", "a")
    assert commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "fastuda" / "a.py").write_text("2")
    assert commit(tmp_path) == git("rev-parse", "HEAD") + " + changes"
