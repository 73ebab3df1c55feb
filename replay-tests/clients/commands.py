"""The two command lines as their users type them, and what they print."""

import json
import os
import pathlib
import subprocess
import sys

from tephra_server import NEWEST, Server

BIN = pathlib.Path(sys.executable).parent
TIMEOUT_S = 120


class Failed(AssertionError):
    """A command that was to succeed did not."""


def _run(argv: list[str], more: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    # Nothing of the caller's cloud may leak in.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OS_", "CINDER_"))}
    environment |= {"HOME": "/nonexistent", "COLUMNS": "400", "PYTHONWARNINGS": "ignore"} | (more or {})
    return subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, stdin=subprocess.DEVNULL)


class Cinder:
    """`cinder`, with its noauth plugin."""

    def __init__(self, server: Server, user: str, project: str, version: str = NEWEST):
        self.argv = [
            str(BIN / "cinder"), "--os-auth-type", "noauth", "--os-endpoint", f"{server.url}/v3",
            "--os-user-id", user, "--os-project-id", project, "--os-volume-api-version", version,
        ]

    def __call__(self, *arguments) -> str:
        """Runs a command that must succeed; gives what it printed."""
        done = _run(self.argv + [str(argument) for argument in arguments])
        if done.returncode != 0:
            raise Failed(f"cinder {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done.stdout

    def rows(self, *arguments) -> list[dict]:
        """Runs a command that prints a table with a row each."""
        return rows(self(*arguments))

    def properties(self, *arguments) -> dict:
        """Runs a command that prints a table of names and values, however it heads them."""
        return dict(tuple(row.values())[:2] for row in self.rows(*arguments))

    def refused(self, *arguments) -> str:
        """Runs a command that must be refused; gives what it said."""
        done = _run(self.argv + [str(argument) for argument in arguments])
        assert done.returncode != 0, f"cinder {' '.join(map(str, arguments))} was to be refused: {done.stdout}"
        return done.stdout + done.stderr


def rows(text: str) -> list[dict]:
    """The rows of the last PrettyTable in a text, by column."""
    table, header = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            if not line.startswith("+"):
                table, header = [], None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
        else:
            table.append(dict(zip(header, cells)))
    return table


class OpenStack:
    """`openstack`, with either of the two ways to do without Keystone."""

    def __init__(self, server: Server, auth: str, token: str | None = None, project: str | None = None, compute: str | None = None):
        self.environment = {"OS_COMPUTE_ENDPOINT_OVERRIDE": compute} if compute else {}
        self.argv = [str(BIN / "openstack"), "--os-volume-api-version", NEWEST, "--os-auth-type", auth]
        if auth == "none":
            self.argv += ["--os-endpoint", f"{server.url}/v3"]
        else:
            self.argv += ["--os-endpoint", f"{server.url}/v3/{project}", "--os-token", token]

    def __call__(self, command: str, *arguments) -> str:
        """Runs a command that must succeed; gives what it printed."""
        done = _run(self.argv + command.split() + [str(argument) for argument in arguments], self.environment)
        if done.returncode != 0:
            raise Failed(f"openstack {command} {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done.stdout

    def json(self, command: str, *arguments):
        """Runs a command that shows something."""
        return json.loads(self(command, *arguments, "-f", "json"))

    def refused(self, command: str, *arguments) -> str:
        """Runs a command that must be refused; gives what it said."""
        done = _run(self.argv + command.split() + [str(argument) for argument in arguments], self.environment)
        assert done.returncode != 0, f"openstack {command} {' '.join(map(str, arguments))} was to be refused: {done.stdout}"
        return done.stdout + done.stderr
