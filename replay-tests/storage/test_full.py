"""Bad days of docs/storage.md: no room."""

import contextlib

from lab import FIRST, SECOND, until
from user import is_empty

THIN_POOL = "tephra-thin/tephra-thin-pool"


def takes_nothing(deployment, user, backend: str, elsewhere: str, kept: str, said: str) -> None:
    """What users see of a backend that is full: `kept` is on it. What is asked of it ends, and is cleaned up."""
    before = deployment.objects(backend)
    refused, snapshot = user.volume("--type", backend), user.snapshot(kept)
    user.ends("volume", refused, "error")
    # the scheduler says so, or the backend itself, whoever knows first
    history = user.history("volume", refused)
    assert said in history or "No valid backend was found" in history and "GiB free" in history, history
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
