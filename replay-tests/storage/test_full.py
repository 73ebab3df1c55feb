"""Bad days of docs/storage.md: no room."""

import contextlib
import random

from lab import DEADLINE_S, FIRST, SECOND, until
from user import PROJECT, at_once, is_empty

THIN_POOL = "tephra-thin/tephra-thin-pool"


def is_told_of(user, refused: str, said: str) -> None:
    """A volume that has no room ends, with the reason: the scheduler's or the backend's, whoever knows first."""
    user.ends("volume", refused, "error")
    history = user.history("volume", refused)
    assert said in history or "No valid backend was found" in history and "(capacity)" in history, history


def takes_nothing(deployment, user, backend: str, elsewhere: str, kept: str, said: str) -> None:
    """What users see of a backend that is full: `kept` is on it. What is asked of it ends, and is cleaned up."""
    before = deployment.objects(backend)
    refused, snapshot = user.volume("--type", backend), user.snapshot(kept)
    is_told_of(user, refused, said)
    user.ends("snapshot", snapshot, "error")
    assert said in user.reason("snapshot", snapshot)

    if backend != "thin":  # where the new space is not taken before it is used
        user.cinder("extend", kept, 11)
        assert said in user.reason("volume", kept).lower()
        assert user.settled("volume", kept)["size"] == 1

    either = f"{backend}-or-{elsewhere}"
    user.openstack("volume type create", either, "--property", f"volume_backend_name=<or> {backend} <or> {elsewhere}")
    goes = user.made("--type", either)
    assert f"@{elsewhere}#" in user.openstack.json("volume show", goes)["os-vol-host-attr:host"]
    user.deleted(("snapshot", snapshot), ("volume", refused), ("volume", goes))
    until(f"{backend} is as it was", lambda: deployment.objects(backend) == before)
    is_empty(deployment, elsewhere)


def is_usable(deployment, user, backend: str) -> None:
    """Takes volumes again, once the scheduler has heard of the room."""
    until(f"{backend} has room", lambda: user.capacity(backend)["free_capacity_gb"] >= 0.1)
    user.deleted(("volume", user.made("--type", backend)))
    is_empty(deployment, backend)


def test_a_full_volume_group_takes_nothing_until_something_is_deleted(deployment, user):
    kept = user.made("--type", "thick")
    deployment.write("thick", kept, FIRST)
    large = user.made("--type", "thick", size=10)
    until("the scheduler has heard of it", lambda: user.capacity("thick")["free_capacity_gb"] < 1)
    takes_nothing(deployment, user, "thick", "ceph", kept, "insufficient free space")
    deployment.holds("thick", kept, FIRST)
    user.deleted(("volume", large))
    user.deleted(("snapshot", user.taken(kept)), ("volume", kept))
    is_usable(deployment, user, "thick")


@contextlib.contextmanager
def small_thin_pool(deployment, user):
    """A thin pool of half a GiB in place of the large one. Both are empty."""
    def make(size: str) -> None:
        deployment.guest(
            f"! lvs {THIN_POOL} || lvremove -y {THIN_POOL}; lvcreate -y -T -Zy {size} --errorwhenfull y --addtag tephra {THIN_POOL}")

    is_empty(deployment, "thin")
    try:
        make("-L 512m")
        until("the pool is small", lambda: 0 < user.capacity("thin")["total_capacity_gb"] < 1)
        yield
    finally:
        make("-l 95%FREE")
        until("the pool is large", lambda: user.capacity("thin")["total_capacity_gb"] > 1)


def test_a_full_thin_pool_takes_nothing_until_something_is_deleted(deployment, user):
    with small_thin_pool(deployment, user):
        kept, fills = user.made("--type", "thin"), user.made("--type", "thin")
        deployment.write("thin", kept, FIRST)
        code, said = deployment.guest.ask(f"dd if=/dev/zero of=/dev/tephra-thin/volume-{fills} bs=1M count=600 oflag=direct")
        assert code != 0 and "No space left" in said, said
        takes_nothing(deployment, user, "thin", "ceph", kept, "is full")
        deployment.holds("thin", kept, FIRST)
        user.deleted(("volume", fills))
        user.deleted(("snapshot", user.taken(kept)), ("volume", kept))
        is_usable(deployment, user, "thin")


def quota_is_what_is_there(user) -> None:
    """Used is what is listed, in whatever status, and nothing is reserved."""
    volumes, snapshots = user.rest.get("/volumes/detail")["volumes"], user.rest.get("/snapshots/detail")["snapshots"]
    used = {row["Type"]: (int(row["In_use"]), int(row["Reserved"])) for row in user.cinder.rows("quota-usage", PROJECT)}
    gib = sum(it["size"] for it in volumes + snapshots)
    assert (used["volumes"], used["snapshots"], used["gigabytes"]) == ((len(volumes), 0), (len(snapshots), 0), (gib, 0))


def lacks_room(reason: str) -> bool:
    """Whichever command found out."""
    return "the pool is full" in reason or "has reached its quota" in reason


def test_a_full_ceph_pool_takes_nothing_and_lets_nothing_go_until_it_has_room(deployment, user):
    there = kept, grows, doomed, parent = at_once(lambda _: user.made("--type", "ceph"), range(4))
    for volume in there:
        deployment.write("ceph", volume, FIRST)
    as_they_were = [deployment.checksum("ceph", volume) for volume in there]
    # what has clones is not removed, but put into the trash
    child = user.made("--source", parent)
    user.openstack("volume type create", "ceph-or-files", "--property", "volume_backend_name=<or> ceph <or> files")
    # placed while there is room; the half of the image is on its way when there is none any more
    image = deployment.glance.add(random.randbytes(32 << 20), "raw")
    gate = deployment.glance.holds(image)
    poured = user.cinder.properties("create", 1, "--image-id", image, "--volume-type", "ceph")["id"]
    assert gate.reached.wait(DEADLINE_S)
    before = deployment.objects("ceph")
    deployment.ceph.limit(1)
    try:
        gate.open()
        clone, snapshot, goes, *_ = at_once(lambda ask: ask(), [
            lambda: user.volume("--source", kept),
            lambda: user.snapshot(grows),
            lambda: user.volume("--type", "ceph-or-files"),
            lambda: user.openstack("volume delete", doomed, parent),
        ])
        user.ends("snapshot", snapshot, "error")
        assert "quota" in user.reason("snapshot", snapshot)
        user.cinder("extend", grows, 2)
        for volume in (poured, clone):
            is_told_of(user, volume, "quota")
        for volume in (doomed, parent):
            user.ends("volume", volume, "error_deleting")
            assert lacks_room(user.reason("volume", volume))
        failed = user.operation("volume", doomed)["id"]
        user.openstack("volume delete", "--force", doomed)
        until("another deletion has begun", lambda: user.operation("volume", doomed)["id"] != failed)
        assert lacks_room(user.reason("volume", doomed))
        assert user.shown("volume", doomed)["status"] == "error_deleting"
        assert "quota" in user.reason("volume", grows)
        assert user.settled("volume", grows)["size"] == 1
        user.settled("volume", goes)
        assert "@files#" in user.openstack.json("volume show", goes)["os-vol-host-attr:host"]
        quota_is_what_is_there(user)
        assert deployment.objects("ceph") == before
    finally:
        deployment.ceph.limit(0)
    assert [deployment.checksum("ceph", volume) for volume in there] == as_they_were
    for volume in (doomed, parent):
        user.forced(volume)
    deployment.holds("ceph", child, FIRST)
    user.deleted(("snapshot", snapshot), *(("volume", it) for it in (poured, clone, goes, child)))
    deployment.holds("ceph", kept, FIRST)
    user.deleted(("snapshot", user.taken(grows)), ("volume", grows), ("volume", kept))
    quota_is_what_is_there(user)
    at_once(lambda backend: is_empty(deployment, backend), ("ceph", "files"))
    is_usable(deployment, user, "ceph")
    assert user.drift() == []


def test_an_overflowed_snapshot_is_told_of_and_deleted_and_its_volume_is_unharmed(deployment, user):
    volume = user.made("--type", "thick")
    deployment.write("thick", volume, FIRST)
    snapshot = user.taken(volume)
    # ours have room for all that may change: a smaller one in its place
    lv = f"_snapshot-{snapshot}"
    deployment.guest(f"lvremove -y tephra-thick/{lv}; lvcreate -y -s -L 8m -n {lv} tephra-thick/volume-{volume}")
    deployment.io("thick", volume, f"write -P {SECOND} 16M 16M")
    user.cinder("revert-to-snapshot", snapshot)
    assert "has overflowed" in user.reason("volume", volume)
    user.settled("volume", volume)
    user.settled("snapshot", snapshot)
    made = user.volume("--snapshot", snapshot)
    user.ends("volume", made, "error")
    assert "has overflowed" in user.reason("volume", made)
    user.deleted(("volume", made), ("snapshot", snapshot))
    deployment.holds("thick", volume, FIRST)
    deployment.io("thick", volume, f"read -P {SECOND} 16M 16M")
    user.deleted(("snapshot", user.taken(volume)), ("volume", volume))
    is_empty(deployment, "thick")
