"""Public events from end to end: real NATS servers, processes that are killed, and the documents' own examples."""

import asyncio
import datetime
import ipaddress
import json
import os
import pathlib
import random
import socket
import ssl
import subprocess
import sys
import threading
import time

import nats
import nkeys
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tephra_server import ROOT, Rest, Server, binary, unique, until

EXAMPLES = ROOT / "docs/examples"
STREAM = "TEPHRA_EVENTS"


class Nats:
    """A real server with JetStream."""

    def __init__(self, directory: pathlib.Path, *options: str):
        self.directory = directory
        said = self.lab("start", "--servers", "1", "--while", str(os.getpid()), *options)
        self.url = next(line.removeprefix("NATS_URL=") for line in said.splitlines() if line.startswith("NATS_URL="))

    def lab(self, action: str, *arguments: str) -> str:
        command = [ROOT / "labs/nats-cluster", action, "--dir", self.directory, *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


class Deployment:
    """One server with everything but the publishing, and two processes that publish."""

    def __init__(self, directory: pathlib.Path):
        self.nats = Nats(directory / "nats")
        self.config = f'[nats]\nservers = ["{self.nats.url}"]\nservers_sync = true\nlease_ms = 500\n'
        self.file = directory / "operator.toml"
        self.file.write_text(self.config)
        roles = 'roles = ["api", "executor", "sequencer", "projector"]\n'
        (directory / "server").mkdir()
        self.server = Server(directory / "server", roles + self.config)
        self.log = (directory / "publishers.log").open("ab")
        self.directories = [directory / "one", directory / "two"]
        self.publishers = [None, None]

    def start(self) -> "Deployment":
        self.server.start()
        admin = Rest(self.server, "admin:operators", None, "3.71")
        pools = f"{self.server.url}/v3/scheduler-stats/get_pools"
        until("a pool is known", lambda: admin.call("GET", pools).json()["pools"])
        for number in (0, 1):
            self.start_publisher(number)
        return self

    def start_publisher(self, number: int) -> None:
        command = [binary(), "serve", "--roles", "events", "--config", self.file, "--data-dir", self.directories[number]]
        self.publishers[number] = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def kill_publisher(self, number: int) -> None:
        self.publishers[number].kill()
        self.publishers[number].wait()

    def stop(self) -> None:
        for number in (0, 1):
            self.kill_publisher(number)
        self.server.stop()
        self.nats.lab("destroy")

    def events(self, *arguments: str) -> str:
        command = [binary(), "events", *arguments, "--config", self.file]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict:
        return json.loads(self.events("status", "--json"))

    def ledger(self) -> list:
        """Every event of the ledger, as an administrator is shown them."""
        admin = Rest(self.server, "admin:operators", None, None)
        found, after = [], 0
        while after is not None:
            url = f"{self.server.url}/ledger/v1/events?after={after}&limit=1000"
            page = admin.call("GET", url).json()
            found += page["events"]
            after = page["next"]
        return found

    def published(self) -> dict:
        """Waits until all that happened is published."""

        def is_all():
            status = self.status()
            return status if status["block"] == status["head_block"] else None

        return until("all events are published", is_all)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    running = Deployment(tmp_path_factory.mktemp("events")).start()
    yield running
    running.stop()


def live(deployment, project: str, volumes: int) -> None:
    """Volumes that come, grow older by a snapshot, and go."""
    user = deployment.server.rest(f"mia:{project}", project)
    for _ in range(volumes):
        made = user.call("POST", "/volumes", {"volume": {"size": 1}})
        assert made.status_code == 202, made.text
        path = f"/volumes/{made.json()['volume']['id']}"
        until("available", lambda: user.call("GET", path).json()["volume"]["status"] == "available")
        user.call("DELETE", path)


def read_with_bash(deployment, consumer: str, count: int) -> list:
    """What the example in bash prints."""
    host, port = deployment.nats.url.removeprefix("nats://").split(":")
    command = [EXAMPLES / "follow-events.sh", host, port, consumer, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_with_python(deployment, consumer: str, count: int) -> list:
    """The sequence and the id of each line that the example in Python prints."""
    command = [sys.executable, EXAMPLES / "follow_events.py", deployment.nats.url, consumer, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    return [line.split()[:2] for line in done.stdout.splitlines()]


def test_each_event_is_published_once_while_publishers_are_killed(deployment):
    project = unique("shop")
    rng = random.Random(7)
    busy = threading.Thread(target=live, args=(deployment, project, 60))
    busy.start()
    kills = 0
    while busy.is_alive() or kills < 6:
        # At whatever moment: one of them, and now and then both.
        time.sleep(rng.uniform(0.05, 0.9))
        for number in rng.choice([(0,), (1,), (0, 1)]):
            deployment.kill_publisher(number)
            deployment.start_publisher(number)
            kills += 1
    busy.join()
    status = deployment.published()
    ledger = deployment.ledger()
    assert status["events"] == len(ledger) > 300
    deployment.events("consumer", "all")
    events = read_with_bash(deployment, "all", len(ledger))
    for number, (event, expected) in enumerate(zip(events, ledger, strict=True), 1):
        assert event["sequence"] == f"{number:020}"
        assert event["id"] == expected["sequence"]
        assert event["type"] == f"tephra.{expected['kind']}"
        shown = event["data"]
        shown["actor"]["address"] = expected["actor"]["address"] = None
        assert shown == expected
    assert len({event["source"] for event in events}) == 1
    assert project in {event.get("project") for event in events}


def test_both_examples_read_the_same_and_go_on_where_they_stopped(deployment):
    live(deployment, unique("shop"), 2)
    count = deployment.published()["events"]
    for name in ("bash", "python"):
        deployment.events("consumer", name)
    with_bash = [[event["sequence"], event["id"]] for event in read_with_bash(deployment, "bash", count)]
    first = read_with_python(deployment, "python", count // 3)
    rest = read_with_python(deployment, "python", count - count // 3)
    assert first + rest == with_bash
    # A consumer that begins after an event, as one does that is made again.
    deployment.events("consumer", "again", "--after", str(count - 5))
    assert read_with_python(deployment, "again", 5) == with_bash[-5:]


def test_a_project_s_consumer_sees_that_project_and_no_other(deployment):
    mine, other = unique("mine"), unique("other.with.dots")
    for project in (mine, other):
        live(deployment, project, 2)
    deployment.published()
    ledger = deployment.ledger()
    for name, project in (("mine", mine), ("other", other)):
        deployment.events("consumer", name, "--project", project)
        expected = [event["sequence"] for event in ledger if event["project"] == project]
        assert len(expected) > 10
        events = read_with_bash(deployment, name, len(expected))
        assert [event["id"] for event in events] == expected
        assert {event["project"] for event in events} == {project}


def test_a_rebuild_gives_the_same_events_while_others_publish(deployment):
    live(deployment, unique("shop"), 2)
    count = deployment.published()["events"]
    deployment.events("consumer", "before")
    before = read_with_bash(deployment, "before", count)
    assert f"events are published again on {STREAM}" in deployment.events("rebuild")
    live(deployment, unique("shop"), 1)
    assert deployment.published()["events"] > count
    deployment.events("consumer", "after")
    assert read_with_bash(deployment, "after", count) == before
    assert deployment.published()["events"] == len(deployment.ledger())


def test_the_example_in_bash_fails_when_the_server_ends_the_connection():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        command = [EXAMPLES / "follow-events.sh", host, str(port), "any"]
        following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"INFO {}\r\n")
            # What it asks is read, so that the end is an orderly one.
            asked = b""
            while b"MSG.NEXT" not in asked:
                asked += connection.recv(4096)
    _, said = following.communicate(timeout=60)
    assert following.returncode != 0
    assert "has closed the connection" in said


def own_certificate(directory: pathlib.Path) -> str:
    """Writes `server.pem` and its key, which vouches for itself. Returns what a server is told of them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a server")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    (directory / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "server-key.pem").write_bytes(private)
    return f'tls {{ cert_file: "{directory}/server.pem", key_file: "{directory}/server-key.pem" }}\n'


def test_the_example_in_python_says_who_it_is_and_asks_who_the_server_is(tmp_path):
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "seed").write_bytes(seed)
    key = nkeys.from_seed(bytearray(seed)).public_key.decode()
    include = tmp_path / "include.conf"
    include.write_text(own_certificate(tmp_path) + f"authorization {{ users: [ {{ nkey: {key} }} ] }}\n")
    server = Nats(tmp_path / "nats", "--include", str(include))
    url = server.url.replace("nats://", "tls://")

    async def publish():
        tls = ssl.create_default_context(cafile=tmp_path / "server.pem")
        connection = await nats.connect(url, nkeys_seed=str(tmp_path / "seed"), tls=tls)
        stream = connection.jetstream()
        await stream.add_stream(name=STREAM, subjects=["tephra.event.>"])
        await stream.add_consumer(STREAM, durable_name="one", ack_policy="explicit")
        event = {"sequence": "1", "id": "1-0", "time": "now", "type": "t", "subject": "s"}
        await stream.publish("tephra.event.a", json.dumps(event).encode())
        await connection.close()

    def follow(*options: str) -> subprocess.CompletedProcess:
        command = [sys.executable, EXAMPLES / "follow_events.py", url, "one", "1", *options]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=20)
        except subprocess.TimeoutExpired as endless:
            # nats-py tries a server again that it does not believe.
            return subprocess.CompletedProcess(command, 1, "", (endless.stderr or b"").decode())

    try:
        asyncio.run(publish())
        authority, identity = ("--ca", str(tmp_path / "server.pem")), ("--nkey", str(tmp_path / "seed"))
        assert follow(*authority).returncode != 0
        assert follow(*identity).returncode != 0
        done = follow(*authority, *identity)
        assert done.stdout.split()[:2] == ["1", "1-0"], done.stderr
    finally:
        server.lab("destroy")
