"""Servers that tests share. Tests keep apart by projects of their own."""

import pathlib

import pytest

from tephra_server import Server, unique


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Server:
    """As a person starts it: no configuration at all."""
    running = Server(tmp_path_factory.mktemp("noauth")).start()
    yield running
    running.stop()


@pytest.fixture
def project() -> str:
    """A project that no other test knows."""
    return unique("project")


@pytest.fixture
def admin(server, project):
    """An administrator in that project."""
    return server.rest(f"admin:{project}", project)


@pytest.fixture
def member(server, project):
    """An ordinary user of that project."""
    return server.rest(f"mia:{project}", project)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the end of the server's log with every failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for running in {value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Server)}:
            text = pathlib.Path(running.log).read_text(errors="replace")
            report.sections.append((f"log of {running.url}", text[-4000:]))
