"""Copies between logical volumes and Ceph, by the one executor that has both."""

from typing import NamedTuple

from interrupted import Interrupted
from lab import FIRST, LVM, SECOND
from user import at_once, is_empty


class Source(NamedTuple):
    """What is copied, and where to."""

    backend: str
    there: str
    volume: str
    snapshot: str
    as_it_was: str
    """The checksum of the snapshot."""


def test_a_clone_and_a_volume_from_a_snapshot_go_from_lvm_to_ceph_and_back_with_every_byte(deployment, user):
    interrupted = Interrupted(deployment)

    def cloned(backend: str, there: str) -> Source:
        volume = user.made("--type", backend)
        deployment.io(backend, volume, f"write -P {FIRST} 1023M 1M")
        deployment.write(backend, volume, FIRST)
        as_it_was = deployment.checksum(backend, volume)
        snapshot = user.taken(volume)
        deployment.write(backend, volume, SECOND)
        clone = user.made("--source", volume, "--type", there)
        assert f"@{there}#" in user.openstack.json("volume show", clone)["os-vol-host-attr:host"]
        deployment.holds(there, clone, SECOND)
        assert deployment.checksum(there, clone) == deployment.checksum(backend, volume) != as_it_was
        user.deleted(("volume", clone))
        return Source(backend, there, volume, snapshot, as_it_was)

    def asked(source: Source) -> tuple[Source, str]:
        return source, user.volume("--snapshot", source.snapshot, "--type", source.there)

    def arrived(source: Source, made: str) -> None:
        user.settled("volume", made)
        # it needs its source no more
        user.deleted(("snapshot", source.snapshot), ("volume", source.volume))
        deployment.holds(source.there, made, FIRST)
        assert deployment.checksum(source.there, made) == source.as_it_was
        user.deleted(("volume", made))

    to_ceph, from_ceph = [(kind, "ceph") for kind in LVM], [("ceph", kind) for kind in LVM]
    with deployment.one_executor():
        for pairs in (to_ceph, from_ceph):
            sources, on_their_way = at_once(lambda pair: cloned(*pair), pairs), []
            # the one executor of both ends dies meanwhile
            interrupted.during("both", lambda: on_their_way.extend(at_once(asked, sources)), "copies")
            at_once(lambda it: arrived(*it), on_their_way)
        at_once(lambda backend: is_empty(deployment, backend), (*LVM, "ceph"))
        assert user.drift() == []
