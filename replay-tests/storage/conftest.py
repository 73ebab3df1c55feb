"""One deployment for all tests: a guest and a cluster take a while to start."""

import pathlib

import pytest

from lab import Deployment
from user import User


def pytest_configure(config):
    config.addinivalue_line("markers", "brief: part of a plain ./test")


@pytest.fixture(scope="session")
def deployment(tmp_path_factory) -> Deployment:
    running = Deployment(tmp_path_factory.mktemp("storage"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def user(deployment) -> User:
    user = User(deployment)
    for backend in deployment.BACKENDS:
        user.new_type(backend)
    return user


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the ends of all logs with every failure."""
    outcome = yield
    report = outcome.get_result()
    running = getattr(item, "funcargs", {}).get("deployment")
    if report.failed and running is not None:
        logs = [*running.directory.glob("*.log"), running.guest.share / "executor.log", running.guest.share / "forward.log"]
        for log in filter(pathlib.Path.exists, logs):
            report.sections.append((log.name, log.read_text(errors="replace")[-4000:]))
