"""What all commands share: exit codes, errors in one line, colours, and the help in README."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from starfish_outbox.cli.exits import COMMANDS, MEANINGS
from starfish_outbox.cli.fields import FIELDS
from starfish_outbox.cli.helptext import between_markers, helptext, with_section
from tests.cli import cli, cli_process, command, fill, on_a_terminal, store

ROOT = Path(__file__).resolve().parents[1]


def filled(folder: Path) -> Path:
    place = store(folder, "sqlite")
    fill(place, [(f"obs-{number}", "x" * 2000) for number in range(20)], fail=["obs-3"])
    return place.path


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_exit_code_and_every_field(name: str) -> None:
    ran = cli(name, "--help")
    assert ran.code == 0
    text = " ".join(ran.out.split())
    for code, meaning in COMMANDS[name].items():
        assert f"{code}: {meaning}" in text
    assert ", ".join(FIELDS[name]) in text


def test_usage_errors_are_told_with_2_on_standard_error() -> None:
    for args in (["nix"], ["list", "--nix"], ["show"], ["list", "--limit", "x"], ["drain"]):
        ran = cli(*args)
        assert ran.code == 2, args
        assert ran.out == ""
        assert "Usage: " in ran.err


def test_version_and_help() -> None:
    assert cli("--version").out == f"starfish-outbox {version('starfish-outbox')}\n"
    for args in ([], ["--help"], ["-h"]):
        text = cli(*args)
        assert all(name in text.out + text.err for name in COMMANDS)


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("starfish-outbox")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"starfish-outbox {version('starfish-outbox')}\n")


@pytest.mark.parametrize("library", ["typer", "rich", "jsonschema"])
def test_without_the_extra_it_says_which_one_to_install(library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; from starfish_outbox.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: the command line needs {library}, which is not installed. "
        "Install the extra: pip install 'starfish-outbox[cli]'\n"
    )


def test_only_check_loads_what_takes_a_second_to_load(tmp_path: Path) -> None:
    code = "import sys; from starfish_outbox.cli.app import app; app(sys.argv[1:], standalone_mode=False); "
    code += "print('jsonschema' in sys.modules)"
    path = filled(tmp_path)
    for args, loaded in ((["list", "--store", path], "False"), (["check", path], "True")):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.splitlines()[-1] == loaded, args


def test_an_error_as_json_is_a_document_too(tmp_path: Path) -> None:
    ran = cli("list", "--store", tmp_path / "nix.db", "--json")
    message = f"there is no outbox at {tmp_path}/nix.db"
    assert ran.document == {"error": {"type": "RefusedError", "message": message, "exit": 2}}
    assert ran.err == f"error: {message}\n"


def test_colours_are_for_terminals_and_can_be_switched_off(tmp_path: Path) -> None:
    path = filled(tmp_path)
    shown = on_a_terminal("list", "--store", path)
    assert "\x1b[31mfailed\x1b[0m" in shown
    assert "\x1b" not in on_a_terminal("list", "--store", path, "--no-color")
    assert "\x1b" not in on_a_terminal("list", "--store", path, NO_COLOR="1")
    assert "\x1b" not in cli_process("list", "--store", path).out


def test_a_table_fits_the_terminal_and_is_whole_where_it_is_piped_on(tmp_path: Path) -> None:
    path = filled(tmp_path)
    shown = on_a_terminal("list", "--store", path, "--items", "--no-color")
    assert max(map(len, shown.splitlines())) <= 80
    assert "x" * 2000 in cli_process("list", "--store", path, "--items").out


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whoever_has_read_enough_ends_it_without_a_word(tmp_path: Path, unbuffered: str) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [(f"obs-{number}", "x" * 1_000_000) for number in range(5)])
    for args in (["list", "--items"], ["list", "--items", "--json"], ["export", "-"]):  # more than any pipe holds
        child = subprocess.Popen(
            command(*args, "--store", place.path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.read(10)
        child.stdout.close()
        assert child.stderr is not None
        err = child.stderr.read()
        child.stderr.close()
        assert (child.wait(60), err) == (141, ""), args


def test_what_is_piped_on_is_whole_whatever_the_buffer(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [(f"obs-{number}", "x" * 1_000_000) for number in range(3)])
    for unbuffered in ("", "1"):
        for args in (["list", "--items"], ["list", "--items", "--json"], ["export", "-"]):
            ran = cli_process(*args, "--store", place.path, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
            assert (ran.code, ran.out.count("x" * 1_000_000)) == (0, 3)


def test_a_terminal_that_knows_few_letters_stops_nothing(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [("ä→", "ö")])
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = cli_process("list", "--store", place.path, env=plain)
    assert ran.code == 0
    assert "\\xe4\\u2192" in ran.out


def test_readme_has_the_help_of_all_commands_as_it_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert between_markers(readme) == helptext(), "run: python -m starfish_outbox.cli.helptext README.md"


def test_the_help_in_readme_names_every_command_option_code_and_field() -> None:
    text = helptext()
    for name, fields in FIELDS.items():
        assert f"**`starfish-outbox {name}" in text
        assert all(f"`{field}`" in text for field in fields)
    for option in ("--store", "--identity", "--key", "--json", "--no-color", "--status", "--header", "--move", "--max"):
        assert f"`{option}" in text
    assert all(f"| {code} |" in text for code in MEANINGS)


def test_a_section_between_markers_is_replaced_and_a_readme_without_them_is_refused(tmp_path: Path) -> None:
    readme = "# Title\n\n<!-- cli:begin -->\nold\n<!-- cli:end -->\n\nrest\n"
    assert with_section(readme) == f"# Title\n\n<!-- cli:begin -->\n{helptext()}<!-- cli:end -->\n\nrest\n"
    assert with_section(with_section(readme)) == with_section(readme)
    with pytest.raises(ValueError, match="cli:begin"):
        with_section("# Title\n")
