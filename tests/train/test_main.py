"""The one command in front of the others."""

from __future__ import annotations

import pytest

import fastuda
from fastuda.__main__ import COMMANDS, main
from fastuda.methods import METHODS


def test_facts(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"{fastuda.__version__}\n"
    assert main(["--list-methods"]) == 0 and capsys.readouterr().out.split() == list(METHODS)
    assert main(["--list-tasks"]) == 0 and "streets" in capsys.readouterr().out.split()
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_a_command_gets_its_arguments_and_returns_its_status(capsys):
    assert main(["data", "check", "nothing"]) == 1
    assert "there is no task 'nothing'" in capsys.readouterr().err


def test_every_command_can_be_asked_for_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0 and "usage" in capsys.readouterr().out.lower(), name


def test_a_slip_is_one_sentence_and_the_usage(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no command 'trian' (did you mean 'train'?)\n")
