"""Operators who take over what is on a backend, give it up, and hold a backend still: `cinder`,
`openstack`, and `tephra drift`, on a server of their own."""

import subprocess

import pytest

from commands import Cinder, OpenStack
from tephra_server import BLOCK, Server, binary, content, gib, until, write

PROJECT = "operators"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Server:
    """Its files belong to these tests alone, which look at all of them."""
    running = Server(tmp_path_factory.mktemp("manage")).start()
    yield running
    running.stop()


@pytest.fixture
def cinder(server) -> Cinder:
    return Cinder(server, "admin", PROJECT)


@pytest.fixture
def openstack(server) -> OpenStack:
    return OpenStack(server, "admin_token", f"admin:{PROJECT}", PROJECT)


@pytest.fixture
def admin(server):
    return server.rest(f"admin:{PROJECT}", PROJECT)


@pytest.fixture
def pool(admin) -> str:
    [pool] = admin.get("/scheduler-stats/get_pools")["pools"]
    return pool["name"]


def stray(server: Server, name: str, size: int = gib(1)):
    """A file that somebody put among the volumes."""
    path = server.data_dir / "volumes" / name
    with path.open("wb") as file:
        file.truncate(size)
    write(path, name)
    return path


def drift(server: Server) -> tuple[int, str]:
    """The exit code of `tephra drift` and what it printed."""
    done = subprocess.run([binary(), "drift", "--data-dir", str(server.data_dir)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout


def test_cinder_takes_a_volume_over_and_gives_it_up_with_its_bytes(server, cinder, admin, pool):
    path = stray(server, "legacy")
    before = content(path)
    code, printed = drift(server)
    assert code == 9 and "legacy" in printed and "unknown" in printed
    [listed] = cinder.rows("manageable-list", pool)
    assert "legacy" in listed["reference"] and listed["safe_to_manage"] == "True"

    taken = cinder.properties("manage", pool, "legacy", "--name", "taken", "--metadata", "from=files", "--bootable")
    volume = admin.settled("volumes", taken["id"])
    assert (volume["name"], volume["size"], volume["bootable"], volume["metadata"]) == ("taken", 1, "true", {"from": "files"})
    assert content(server.volume_file(taken["id"])) == before
    assert not path.exists()
    assert drift(server)[0] == 0
    assert cinder.rows("manageable-list", pool) == [] or cinder.rows("manageable-list", pool)[0]["safe_to_manage"] == "False"

    cinder("unmanage", "taken")
    admin.gone("volumes", taken["id"])
    path = server.data_dir / "volumes" / f"unmanaged-volume-{taken['id']}"
    assert content(path) == before
    assert drift(server)[0] == 9
    path.unlink()
    assert drift(server)[0] == 0


def test_a_snapshot_is_given_up_and_taken_over_again(server, cinder, admin):
    volume = admin.volume()["id"]
    write(server.volume_file(volume), "kept")
    before = content(server.volume_file(volume))
    snapshot = admin.snapshot(volume)["id"]
    write(server.volume_file(volume), "changed")
    cinder("snapshot-unmanage", snapshot)
    admin.gone("snapshots", snapshot)

    again = cinder.properties("snapshot-manage", volume, f"unmanaged-snapshot-{snapshot}", "--name", "again")["id"]
    assert admin.settled("snapshots", again)["name"] == "again"
    cinder("revert-to-snapshot", again)
    admin.settled("volumes", volume)
    assert content(server.volume_file(volume)) == before
    admin.settled("snapshots", again)
    admin.delete(f"/snapshots/{again}")
    admin.gone("snapshots", again)
    admin.delete(f"/volumes/{volume}")
    admin.gone("volumes", volume)


def test_openstack_takes_a_volume_over_and_gives_it_up(server, openstack, admin, pool):
    path = stray(server, "remote", gib(1) + BLOCK)
    before = content(path)
    taken = openstack.json("volume create", "--remote-source", "source-name=remote", "--host", pool, "--non-bootable", "theirs")["id"]
    assert admin.settled("volumes", taken)["size"] == 2, "rounded up"
    assert content(server.volume_file(taken)) == before
    openstack("volume delete", "--remote", taken)
    admin.gone("volumes", taken)
    (server.data_dir / "volumes" / f"unmanaged-volume-{taken}").unlink()


def test_what_cannot_be_taken_over_is_refused_with_its_reason(server, cinder, admin, pool):
    assert "nowhere" in cinder.refused("manage", pool, "nowhere")
    assert "HTTP 40" in cinder.refused("manage", "no@such#pool", "anything")
    volume = admin.volume()["id"]
    assert "managed" in cinder.refused("manage", pool, f"volume-{volume}")
    assert "HTTP 403" in Cinder(server, "mia", PROJECT).refused("unmanage", volume)
    admin.delete(f"/volumes/{volume}")
    admin.gone("volumes", volume)


def test_a_frozen_backend_keeps_what_it_has_until_it_is_thawed(server, cinder, admin, pool):
    volume = admin.volume()["id"]
    host = pool.split("#")[0]
    cinder("freeze-host", host)
    [service] = [it for it in cinder.rows("service-list", "--withreplication") if it["Host"] == host]
    assert service["Frozen"] == "True"
    assert "frozen" in cinder.refused("delete", volume)
    assert "frozen" in cinder.refused("snapshot-create", volume)
    stray(server, "waits")
    cinder.refused("manage", pool, "waits")
    cinder("thaw-host", host)
    cinder("delete", volume)
    admin.gone("volumes", volume)

    done = subprocess.run(
        [binary(), "drift", "--clean", "waits", "--url", server.url, "--token", f"admin:{PROJECT}"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done
    until("the stray is gone", lambda: drift(server)[0] == 0)
    assert not (server.data_dir / "volumes" / "waits").exists()
