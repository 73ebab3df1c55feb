"""A whole ledger with logical volumes and Ceph at once, as its users and operators see it.

In the order of the file: the last test insists that nothing is left anywhere.
"""

import signal
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from interrupted import Interrupted
from lab import BLOCK_STORAGE, FIRST, INITIATOR, LVM, SECOND, THIRD, until
from user import at_once, is_empty


@pytest.mark.brief
def test_the_type_chooses_the_backend_and_every_operation_keeps_the_data(deployment, user):
    def lives(backend: str) -> None:
        volume = user.made("--type", backend)
        host = user.openstack.json("volume show", volume)["os-vol-host-attr:host"]
        assert f"@{backend}#" in host
        deployment.write(backend, volume, FIRST)
        snapshot = user.taken(volume)
        deployment.write(backend, volume, SECOND)
        clone = user.made("--source", volume, size=2)
        user.cinder("revert-to-snapshot", snapshot)
        user.settled("volume", volume)
        user.settled("snapshot", snapshot)
        deployment.holds(backend, volume, FIRST)
        deployment.holds(backend, clone, SECOND)
        made = user.made("--snapshot", snapshot)
        deployment.holds(backend, made, FIRST)
        user.cinder("extend", volume, 2)
        assert user.settled("volume", volume)["size"] == 2
        deployment.holds(backend, volume, FIRST)
        deployment.io(backend, volume, "read -P 0 2047M 1M")
        assert user.openstack.json("volume show", made)["type"] == backend
        user.deleted(("snapshot", snapshot), ("volume", volume))
        deployment.holds(backend, clone, SECOND)
        deployment.holds(backend, made, FIRST)
        user.deleted(("volume", made), ("volume", clone))
        is_empty(deployment, backend)

    at_once(lives, BLOCK_STORAGE)
    assert user.drift() == []


def test_what_is_given_up_and_taken_over_again_keeps_its_data(deployment, user):
    def goes_and_comes(backend: str) -> None:
        volume = user.made("--type", backend)
        deployment.write(backend, volume, FIRST)
        user.cinder("unmanage", volume)
        user.gone("volume", volume)
        assert ("unknown", f"unmanaged-volume-{volume}") in user.drift()
        user.cinder("manage", user.pool(backend), f"unmanaged-volume-{volume}", "--name", f"again-{backend}", "--volume-type", backend)
        [again] = [row["id"] for row in user.rest.get("/volumes")["volumes"] if row["name"] == f"again-{backend}"]
        user.settled("volume", again)
        deployment.holds(backend, again, FIRST)
        snapshot = user.taken(again)
        deployment.write(backend, again, SECOND)
        user.cinder("snapshot-unmanage", snapshot)
        user.gone("snapshot", snapshot)
        user.cinder("snapshot-manage", again, f"unmanaged-snapshot-{snapshot}", "--name", f"kept-{backend}")
        [kept] = [row["id"] for row in user.rest.get("/snapshots")["snapshots"] if row["name"] == f"kept-{backend}"]
        user.settled("snapshot", kept)
        user.cinder("revert-to-snapshot", kept)
        user.settled("volume", again)
        deployment.holds(backend, again, FIRST)
        user.deleted(("snapshot", kept), ("volume", again))
        is_empty(deployment, backend)

    at_once(goes_and_comes, BLOCK_STORAGE)
    assert user.drift() == []


def test_what_nobody_knows_is_shown_and_cleaned_when_an_operator_says_so(deployment, user):
    deployment.guest("lvcreate -y -L 1g -n stray tephra-thick")
    deployment.ceph.admin("rbd", "create", "--size", "1G", "volumes/stray-image")
    assert user.drift() == [("unknown", "stray"), ("unknown", "stray-image")]
    for name in ("stray", "stray-image"):
        done = deployment.tephra("drift", "--clean", name)
        assert done.returncode == 0, done
    until("the strays are gone", lambda: user.drift() == [])
    at_once(lambda backend: is_empty(deployment, backend), ("thick", "ceph"))


def test_a_frozen_backend_keeps_what_it_has(deployment, user):
    volume = user.made("--type", "thin")
    host = user.pool("thin").split("#")[0]
    user.cinder("freeze-host", host)
    assert "frozen" in user.openstack.refused("volume delete", volume)
    user.cinder("thaw-host", host)
    user.deleted(("volume", volume))


def golden_image(deployment, directory) -> str:
    disk = directory / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", disk, "-c", f"write -P {FIRST} 1M 64k"], check=True, stdout=subprocess.DEVNULL)
    return deployment.glance.add(disk, "qcow2", name="golden")


def uploaded_holds(deployment, name: str, byte: int) -> None:
    [uploaded] = [it for it in deployment.glance.images.values() if it["name"] == name]
    assert uploaded["status"] == "active", uploaded
    read = subprocess.run(
        ["qemu-io", "-f", "qcow2", deployment.glance.path(uploaded["id"]), "-c", f"read -P {byte} 1M 64k"],
        capture_output=True, text=True, check=True)
    assert "failed" not in read.stdout, read.stdout


@pytest.mark.brief
def test_a_volume_is_made_of_an_image_attached_snapshot_grown_and_uploaded(deployment, user, tmp_path):
    image = golden_image(deployment, tmp_path)

    def lives(backend: str) -> None:
        volume = user.cinder.properties("create", 1, "--image-id", image, "--volume-type", backend)["id"]
        assert user.settled("volume", volume)["bootable"] == "true"
        deployment.holds(backend, volume, FIRST)
        attachment, connection = user.attached(volume, INITIATOR)
        used = deployment.connected(backend, volume, connection)
        used.io(f"read -P {FIRST} 1M 64k", f"write -P {SECOND} 1M 64k")
        refused = user.openstack.refused("volume delete", volume)
        assert "attached" in refused or "in-use" in refused, refused

        snapshot = user.taken(volume, "--force")
        used.io(f"write -P {THIRD} 1M 64k")
        if backend != "thick":  # lvm2 resizes what has thick snapshots only while its device is away
            user.cinder("extend", volume, 2)
            until("it has grown", lambda: (it := user.shown("volume", volume))["size"] == 2 and it["status"] == "in-use")
            used.grown(2)
            used.io("read -P 0 2047M 1M", f"write -P {THIRD} 2047M 1M")
        used.disconnect()
        user.cinder("attachment-delete", attachment)
        user.settled("volume", volume)

        made = user.made("--snapshot", snapshot)
        deployment.holds(backend, made, SECOND)
        name = f"upload-of-{backend}"
        user.cinder("upload-to-image", made, name, "--disk-format", "qcow2")
        user.settled("volume", made)
        uploaded_holds(deployment, name, SECOND)
        user.deleted(("volume", made), ("snapshot", snapshot), ("volume", volume))
        is_empty(deployment, backend)

    at_once(lives, BLOCK_STORAGE)
    assert user.drift() == []


def test_an_executor_that_was_away_exports_again_what_tgtd_has_lost(deployment, user):
    volume = user.made("--type", "thin")
    deployment.write("thin", volume, FIRST)
    attachment, connection = user.attached(volume, INITIATOR)
    deployment.executors["lvm"].kill()
    deployment.guest.end_tgtd()
    deployment.guest.start_tgtd()
    deployment.executors["lvm"].start()
    until("the target is there again", lambda: connection["target_iqn"] in deployment.targets())
    used = deployment.connected("thin", volume, connection)
    used.io(f"read -P {FIRST} 1M 64k", f"write -P {SECOND} 1M 64k")
    used.disconnect()
    user.cinder("attachment-delete", attachment)
    user.settled("volume", volume)
    deployment.holds("thin", volume, SECOND)
    user.deleted(("volume", volume))
    assert deployment.targets() == ""


@pytest.mark.brief
def test_a_clone_goes_where_there_is_room_when_its_source_s_backend_is_disabled(deployment, user):
    user.openstack("volume type create", "either", "--property", "volume_backend_name=<or> thick <or> thin")
    volume = user.made("--type", "either")
    host = user.openstack.json("volume show", volume)["os-vol-host-attr:host"]
    here = host.split("@")[1].split("#")[0]
    [there] = set(LVM) - {here}
    deployment.write(here, volume, FIRST)
    snapshot = user.taken(volume)
    deployment.write(here, volume, SECOND)
    user.openstack("volume service set", host.split("#")[0], "cinder-volume", "--disable")
    clone, made = user.made("--source", volume), user.made("--snapshot", snapshot)
    user.openstack("volume service set", host.split("#")[0], "cinder-volume", "--enable")
    for copy, data in ((clone, SECOND), (made, FIRST)):
        assert f"@{there}#" in user.openstack.json("volume show", copy)["os-vol-host-attr:host"]
        deployment.holds(there, copy, data)
    user.deleted(("snapshot", snapshot), ("volume", volume), ("volume", clone), ("volume", made))
    at_once(lambda backend: is_empty(deployment, backend), LVM)


def test_an_executor_that_is_killed_in_the_middle_of_each_operation_goes_on(deployment, user, tmp_path):
    interrupted = Interrupted(deployment)
    image = golden_image(deployment, tmp_path)

    def survives(executor: str) -> None:
        backends = [backend for backend in BLOCK_STORAGE if (backend == "ceph") == (executor == "ceph")]
        got, volumes = {}, ("volume", "clone", "made", "image")

        def step(name: str, ask, wait) -> None:
            """One operation on every backend of the executor at once, which is killed meanwhile."""
            asked = {}
            interrupted.during(executor, lambda: asked.update(zip(backends, at_once(ask, backends))), name)
            for backend in backends:
                wait(backend, asked[backend])
                got[backend, name] = asked[backend]

        def available(kind: str):
            return lambda _, id: user.settled(kind, id)

        step(
            "image", lambda it: user.cinder.properties("create", 1, "--image-id", image, "--volume-type", it)["id"],
            available("volume"),
        )
        for it in backends:
            deployment.holds(it, got[it, "image"], FIRST)
        step(
            "upload", lambda it: user.cinder("upload-to-image", got[it, "image"], f"saved-{it}", "--disk-format", "qcow2"),
            lambda it, _: user.settled("volume", got[it, "image"]),
        )
        for it in backends:
            uploaded_holds(deployment, f"saved-{it}", FIRST)
        step("volume", lambda it: user.volume("--type", it), available("volume"))
        for it in backends:
            deployment.write(it, got[it, "volume"], FIRST)
        step("snapshot", lambda it: user.snapshot(got[it, "volume"]), available("snapshot"))
        for it in backends:
            deployment.write(it, got[it, "volume"], SECOND)
        step("clone", lambda it: user.volume("--source", got[it, "volume"]), available("volume"))
        step("made", lambda it: user.volume("--snapshot", got[it, "snapshot"]), available("volume"))
        step(
            "revert", lambda it: user.cinder("revert-to-snapshot", got[it, "snapshot"]),
            lambda it, _: (user.settled("volume", got[it, "volume"]), user.settled("snapshot", got[it, "snapshot"])),
        )
        for it in backends:
            deployment.holds(it, got[it, "volume"], FIRST)
            deployment.holds(it, got[it, "clone"], SECOND)
            deployment.holds(it, got[it, "made"], FIRST)
        step(
            "extend", lambda it: user.cinder("extend", got[it, "volume"], 2),
            lambda it, _: user.settled("volume", got[it, "volume"]),
        )
        for it in backends:
            deployment.holds(it, got[it, "volume"], FIRST)
        step(
            "delete snapshot", lambda it: user.openstack("volume snapshot delete", got[it, "snapshot"]),
            lambda it, _: user.gone("snapshot", got[it, "snapshot"]),
        )
        step(
            "delete", lambda it: user.openstack("volume delete", *(got[it, which] for which in volumes)),
            lambda it, _: [user.gone("volume", got[it, which]) for which in volumes],
        )
        for it in backends:
            is_empty(deployment, it)

    at_once(survives, ("lvm", "ceph"))
    assert user.drift() == []


def test_an_executor_that_is_killed_while_it_connects_and_lets_go_finishes_both(deployment, user):
    interrupted = Interrupted(deployment)
    volume = user.made("--type", "thin")
    user.cinder("attachment-create", volume, uuid.uuid4())
    [attachment] = [row["ID"] for row in user.cinder.rows("attachment-list", "--volume-id", volume)]
    path = f"/attachments/{attachment}"
    connector = {"host": "guest", "ip": "127.0.0.1", "initiator": INITIATOR}
    with ThreadPoolExecutor(2) as asking:
        # the answers wait for the executor, which dies meanwhile
        interrupted.during(
            "lvm", lambda: asking.submit(user.rest.call, "PUT", path, {"attachment": {"connector": connector}}), "connect"
        )
        connection = until("it is connected", lambda: user.rest.get(path)["attachment"]["connection_info"])
        user.cinder("attachment-complete", attachment)
        used = deployment.connected("thin", volume, connection)
        used.io(f"write -P {FIRST} 1M 64k")
        used.disconnect()
        interrupted.during("lvm", lambda: asking.submit(user.rest.call, "DELETE", path), "disconnect")
    user.settled("volume", volume)
    assert deployment.targets() == ""
    deployment.holds("thin", volume, FIRST)
    user.deleted(("volume", volume))


def test_a_stalled_cluster_holds_up_its_own_volumes_and_no_others(deployment, user):
    deployment.ceph.signal_osd(signal.SIGSTOP)
    try:
        waits = user.volume("--type", "ceph")
        elsewhere = user.made("--type", "thin")
        assert user.shown("volume", waits)["status"] in ("creating", "error")
    finally:
        deployment.ceph.signal_osd(signal.SIGCONT)
    # it may have been given up before the cluster went on
    until("the waiting volume has settled", lambda: user.shown("volume", waits)["status"] in ("available", "error"))
    if user.shown("volume", waits)["status"] == "error":
        assert "did not answer" in user.reason("volume", waits)
    user.deleted(("volume", waits), ("volume", elsewhere))
    is_empty(deployment, "ceph")


def test_a_volume_group_that_vanishes_is_told_of_and_comes_back_with_its_data(deployment, user):
    volume = user.made("--type", "thick")
    deployment.write("thick", volume, FIRST)
    deployment.guest("vgchange -an tephra-thick; vgexport tephra-thick")
    user.openstack("volume delete", volume)
    user.ends("volume", volume, "error_deleting")
    assert "tephra-thick" in user.reason("volume", volume)
    deployment.guest("vgimport tephra-thick; vgchange -ay tephra-thick")
    deployment.holds("thick", volume, FIRST)
    user.forced(volume)
    is_empty(deployment, "thick")


def test_a_read_only_file_system_makes_an_error_with_its_reason(deployment, user):
    kept = user.made("--type", "files")
    # as the kernel does when it finds the file system damaged, whoever has files open
    deployment.guest("echo 1 >/sys/fs/ext4/$(basename $(findmnt -n -o SOURCE /files))/trigger_fs_error")
    refused = user.volume("--type", "files")
    user.ends("volume", refused, "error")
    assert "Read-only file system" in user.reason("volume", refused)
    user.openstack("volume delete", kept)
    user.ends("volume", kept, "error_deleting")
    assert "Read-only file system" in user.reason("volume", kept)
    deployment.executors["lvm"].kill()
    deployment.guest("umount /files; e2fsck -p /disks/files || [ $? = 1 ]; mount -o loop /disks/files /files")
    deployment.executors["lvm"].start()
    user.forced(kept)
    user.deleted(("volume", refused))
    is_empty(deployment, "files")


def test_a_snapshot_that_was_removed_behind_our_back_is_missed_and_its_volume_unharmed(deployment, user):
    def is_missed(backend: str) -> None:
        volume = user.made("--type", backend)
        deployment.write(backend, volume, FIRST)
        snapshot = user.taken(volume)
        if backend == "ceph":
            spec = f"volumes/volume-{volume}@snapshot-{snapshot}"
            deployment.ceph.admin("rbd", "snap", "unprotect", spec)
            deployment.ceph.admin("rbd", "snap", "rm", spec)
        else:
            deployment.guest(f"lvremove -y tephra-{backend}/_snapshot-{snapshot}")
        assert ("missing", f"snapshot-{snapshot}") in user.drift()
        user.cinder("revert-to-snapshot", snapshot)
        assert "not exist" in user.reason("volume", volume)
        user.settled("volume", volume)
        deployment.holds(backend, volume, FIRST)
        user.deleted(("snapshot", snapshot), ("volume", volume))
        is_empty(deployment, backend)

    at_once(is_missed, BLOCK_STORAGE)


@pytest.mark.brief
def test_nothing_is_left_anywhere_in_the_end(deployment, user):
    assert user.rest.get("/volumes")["volumes"] == user.rest.get("/snapshots")["snapshots"] == []
    assert user.drift() == []
    debts = user.rest.get(f"{deployment.url}/ledger/v1/debts")
    assert debts["debts"] == [], debts
    operations = user.rest.get(f"{deployment.url}/ledger/v1/operations?status=open")
    assert operations["operations"] == [], operations
    at_once(lambda backend: is_empty(deployment, backend), deployment.BACKENDS)
    assert deployment.targets() == ""
    data = "rados", "ls", "--pool", "volumes"
    until("Ceph has given back what volumes held", lambda: "rbd_data" not in deployment.ceph.admin(*data))
