"""Exit codes, errors in one line, and what is printed where."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from lorry import errors
from lorry.cli import output
from lorry.cli.exits import error_line, exit_code
from tests.cli.conftest import Lorry

BEYOND_INT32, BEYOND_INT64 = str(1 << 31), str(1 << 63)
# What Python makes of the bytes a=\xff in an argument.
UNDECODABLE = "a=\udcff"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Internal, 1),
        (errors.InvalidReference, 2),
        (errors.AdapterNotFound, 3),
        (errors.BaseConflict, 4),
        (errors.RevisionConflict, 4),
        (errors.Draining, 5),
        (errors.DeadlineExceeded, 5),
        (errors.IncompatibleAdapter, 6),
        (errors.QueueFull, 7),
        (errors.DigestMismatch, 8),
        (errors.Unauthenticated, 9),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: type[errors.LorryError], code: int) -> None:
    assert exit_code(error("why")) == code


def test_an_error_is_one_line_whatever_its_message_holds() -> None:
    assert error_line("REASON", "one\n  two\n\nthree") == "error: REASON: one; two; three"


def test_neither_an_error_nor_a_note_drives_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert error_line("REASON", "no \x1b[2J such\x9b") == "error: REASON: no ?[2J such?"
    output.note("warning: \x1b]0;yours\x07\nand more")
    assert capfd.readouterr().err == "warning: ?]0;yours?\nand more\n"


def test_an_error_names_its_request_where_that_is_asked_for(lorry: Lorry) -> None:
    said = lorry("--verbose", "show", "nobody").err
    assert re.search(r"^error: ADAPTER_NOT_FOUND: .* \(request [0-9a-f]{16}\)\n$", said), said
    assert "(request" not in lorry("show", "nobody").err


def test_a_defect_names_its_request_without_being_asked() -> None:
    assert error_line("INTERNAL", "why", "id") == "error: INTERNAL: why (request id)"
    assert error_line("INTERNAL", "why") == "error: INTERNAL: why"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("show", "nobody"), 3, "ADAPTER_NOT_FOUND"),
        (("show", "No Name"), 2, "INVALID_NAME"),
        (("ls", "--filter", "colour = red"), 2, "INVALID_FILTER"),
        (("push", "/nowhere", "name"), 2, "USAGE"),
        (("sing",), 2, "USAGE"),
        (("combine", "a=x", "b"), 2, "INVALID_SELECTION"),
        (("combine", "a", "b", "--method", "ties"), 2, "INVALID_COMBINATION"),
        (("combine", "a", "b", "--alias", "x"), 2, "USAGE"),
        (("combine", "a", "--recipe", "b"), 2, "USAGE"),
        (("combine", "--recipe", "b", "--method", "svd"), 2, "USAGE"),
        (("combine", "--recipe", "b", "--dry-run"), 2, "USAGE"),
        (("generate", "hi", "-a", "x", "--base-only"), 2, "USAGE"),
        (("generate", "hi", "-a", "x", "--route", "r"), 2, "INVALID_ARGUMENT"),
        (("pin", "a", "--ttl", "inf"), 2, "USAGE"),
        (("pin", "a", "--ttl", "nan"), 2, "USAGE"),
        (("alias", "set", "a", "prod", "--expect", BEYOND_INT64), 2, "USAGE"),
        (("switch", "a", "--expect", BEYOND_INT64), 2, "USAGE"),
        (("route", "rollback", "r", "--revision", BEYOND_INT64), 2, "USAGE"),
        (("namespace", "set", "team", "--max-versions", BEYOND_INT64), 2, "USAGE"),
        (("namespace", "set", "team", "--max-bytes", "1", "--expect", BEYOND_INT64), 2, "USAGE"),
        (("update", "a", "--keep-last", BEYOND_INT32), 2, "USAGE"),
        (("audit", "--since", "0001-01-01T00:00+14:00"), 2, "INVALID_ARGUMENT"),
        (("ls", "--label", UNDECODABLE), 2, "INVALID_ARGUMENT"),
        (("show", UNDECODABLE), 2, "INVALID_ARGUMENT"),
        (("--registry", "127.0.0.1:1", "ls"), 5, "UNAVAILABLE"),
        (("--worker", "127.0.0.1:1", "ps"), 5, "UNAVAILABLE"),
    ],
)
def test_a_refusal_is_one_line_on_stderr_with_its_reason(
    lorry: Lorry, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    result = lorry(*arguments)
    assert (result.code, result.out) == (code, "")
    assert (result.err.startswith(f"error: {reason}: "), result.err.count("\n")) == (True, 1), result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--token-file", "FILE", "ls"),
        ("generate", "hi", "--json-schema", "FILE"),
        ("generate", "hi", "--grammar", "FILE"),
        ("score", "FILE"),
        ("combine", "--from", "FILE"),
    ],
)
def test_a_file_that_is_no_text_is_told_in_one_line(lorry: Lorry, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xff\xfe")
    refused = lorry(*(str(file) if argument == "FILE" else argument for argument in arguments))
    assert (refused.code, refused.err.startswith("error: INVALID_")) == (2, True)
    assert (str(file) in refused.err, refused.err.count("\n")) == (True, 1), refused.err


def test_a_broken_adapter_says_what_is_wrong(lorry: Lorry, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    result = lorry("push", str(tmp_path), "name")
    assert result.code == 2
    assert result.err.startswith("error: INVALID_ADAPTER: pickle files")


def test_the_version_needs_no_command(lorry: Lorry) -> None:
    assert lorry("--version").out == f"lorry {version('lorry')}\n"


def test_the_help_tells_the_exit_codes_and_the_environment(lorry: Lorry) -> None:
    shown = lorry("--help").out
    for part in ("LORRY_REGISTRY", "LORRY_WORKER", "127.0.0.1:7471", "  3  no such thing", "[namespace/]name"):
        assert part in shown


@pytest.mark.parametrize(
    "command",
    [
        *(
            "push",
            "pull",
            "check",
            "ls",
            "show",
            "resolve",
            "rm",
            "yank",
            "update",
            "generate",
            "chat",
            "switch",
            "interpolate",
        ),
        *("route ls", "route show", "route set", "route history", "route rollback", "route rm"),
        *("combine", "load", "unload", "pin", "ps", "caps", "alias set", "alias rm", "alias ls", "alias history"),
        *("base register", "base update", "base ls", "base show"),
    ],
)
def test_every_command_speaks_json(lorry: Lorry, command: str) -> None:
    shown = lorry(*command.split(), "--help")
    assert shown.code == 0
    assert "--json" in shown.out


def test_json_keeps_numbers_numbers_and_names_enumerations(lorry: Lorry, folder: str) -> None:
    version = lorry("push", folder, "json/pirate", "--json").json
    assert (version["number"], version["manifest"]["variant"]) == (1, "VARIANT_LORA")
    assert isinstance(version["size_bytes"], int)
    assert version["create_time"].endswith("Z")
    assert "yank_reason" not in version
    assert version["aliases"] == []
    (adapter,) = lorry("ls", "--namespace", "json", "--json").json
    assert (adapter["labels"], adapter["latest_number"]) == ({}, 1)


def test_the_command_is_installed_and_its_output_can_be_piped(address: str) -> None:
    command = Path(sys.executable).with_name("lorry")
    done = subprocess.run(
        [command, "--registry", address, "base", "ls", "--json"], capture_output=True, text=True, check=True
    )
    assert (len(json.loads(done.stdout)), done.stderr) == (1, "")


def test_ctrl_c_ends_a_command_that_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-c", "from lorry.cli.main import main; main()", "--registry", address, "ls"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            peer, _ = silent.accept()  # it has connected and waits for an answer
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            peer.close()
    assert (process.returncode, out, err) == (130, "", "")


def test_ctrl_c_ends_a_command_that_reads_standard_input() -> None:
    command = [sys.executable, "-c", "from lorry.cli.main import main; main()", "score", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(b'{"prompt": "a", "continuation": "b"}\n')
        process.stdin.flush()
        while any(fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4))):
            time.sleep(0.05)  # it has not read the line yet
        process.send_signal(signal.SIGINT)
        try:
            assert (process.wait(timeout=20), process.stderr and process.stderr.read()) == (130, b"")
        finally:
            process.kill()
