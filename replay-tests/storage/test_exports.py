"""Bad days of docs/attachments.md: a tgtd that dies under what it is told."""

import uuid
from concurrent.futures import Future, ThreadPoolExecutor

from lab import FIRST, INITIATOR, SECOND, until
from user import is_empty

from commands import Failed


class Attaching:
    """One attachment after the other of a volume to the guest, and what is seen of each meanwhile."""

    def __init__(self, deployment, user, volume: str, asking: ThreadPoolExecutor, dies_under):
        self.deployment, self.user, self.volume, self.asking = deployment, user, volume, asking
        self.dies_under, self.attachment = dies_under, ""

    def shown(self) -> dict:
        return self.user.rest.get(f"/attachments/{self.attachment}")["attachment"]

    def is_attached_while_tgtd_dies(self, under: int) -> dict:
        """Under so manieth command; how to connect."""
        self.user.cinder("attachment-create", self.volume, uuid.uuid4())
        [self.attachment] = [row["ID"] for row in self.user.cinder.rows("attachment-list", "--volume-id", self.volume)]
        self.dies_under(under)
        answer = self.asking.submit(
            self.user.cinder, "attachment-update", self.attachment,
            "--host", "guest", "--initiator", INITIATOR, "--ip", "127.0.0.1")
        self._goes_on(answer, "attachment_connect", "attaching", volume="attaching")
        connection = until("it can be connected to", lambda: self.shown()["connection_info"])
        self.user.cinder("attachment-complete", self.attachment)
        self.user.settled("volume", self.volume, "in-use")
        return connection

    def lets_go_while_tgtd_dies(self, under: int) -> None:
        """Likewise."""
        self.dies_under(under)
        answer = self.asking.submit(self.user.cinder, "attachment-delete", self.attachment)
        self._goes_on(answer, "attachment_disconnect", "detaching", volume="in-use")
        self.user.settled("volume", self.volume)
        path = f"/attachments/{self.attachment}"
        until("the attachment is gone", lambda: self.user.rest.call("GET", path).status_code == 404)

    def _goes_on(self, answer: Future, kind: str, status: str, volume: str) -> None:
        """It is seen to wait, with the reason, for as long as there is no tgtd, and no longer."""
        self.deployment.guest.tgtd_has_died()
        waiting = until(f"the {kind} waits, and says why", lambda: self._waiting(kind))
        assert "tgtadm" in waiting["message"], waiting
        assert waiting["kind"] == "backend_unavailable", waiting
        assert self.shown()["status"] == status
        assert self.user.shown("volume", self.volume)["status"] == volume
        assert "status" in self.user.openstack.refused("volume delete", self.volume)
        self.deployment.guest.start_tgtd()
        # whoever has waited for 45 s, on a busy machine, is told that it goes on
        if failed := answer.exception():
            assert isinstance(failed, Failed) and "is still being worked on" in str(failed), failed

    def _waiting(self, kind: str) -> dict | None:
        url = f"{self.deployment.url}/ledger/v1/operations?status=open"
        is_ours = lambda it: it["operation"] == kind and self.volume in (used["id"] for used in it["resources"])  # noqa: E731
        [operation] = filter(is_ours, self.user.rest.get(url)["operations"])
        [step] = operation["steps"]
        return step["failure"]


def test_a_tgtd_that_dies_under_an_attach_and_a_detach_is_waited_for_and_exports_again_what_it_had(deployment, user):
    kept, volume = user.made("--type", "thin"), user.made("--type", "thin")
    kept_attachment, connection = user.attached(kept, INITIATOR)
    open_disk = deployment.connected("thin", kept, connection)
    open_disk.io(f"write -P {FIRST} 1M 64k")

    def only_the_other_is_left() -> bool:
        targets = deployment.targets()
        return targets.count("Target ") == 1 and connection["target_iqn"] in targets

    with ThreadPoolExecutor(1) as asking, deployment.guest.mortal_tgtd() as dies_under:
        attaching = Attaching(deployment, user, volume, asking, dies_under)
        # nothing is done yet; half of it; all but the last command, of which tgtadm has no answer
        for round, (attach, detach) in enumerate([(1, 1), (6, 5), (9, 8)]):
            used = deployment.connected("thin", volume, attaching.is_attached_while_tgtd_dies(attach))
            used.io(f"read -P {round} 1M 64k", f"write -P {round + 1} 1M 64k")
            used.disconnect()
            attaching.lets_go_while_tgtd_dies(detach)
            until("what it had is there again, and nothing else", only_the_other_is_left)
            deployment.holds("thin", volume, round + 1)
            # the guest's kernel has come back by itself
            open_disk.io(f"read -P {FIRST} 1M 64k", f"write -P {SECOND} {round + 2}M 64k")

    open_disk.disconnect()
    user.cinder("attachment-delete", kept_attachment)
    user.settled("volume", kept)
    assert deployment.targets() == ""
    deployment.holds("thin", kept, FIRST)
    deployment.io("thin", kept, f"read -P {SECOND} 4M 64k")
    user.deleted(("volume", volume), ("volume", kept))
    is_empty(deployment, "thin")
    assert user.drift() == []
