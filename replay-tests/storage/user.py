"""What users and operators do, with the clients that they have."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

from lab import Deployment, until

from commands import Cinder, OpenStack

PROJECT = "operators"


class Gone(AssertionError):
    """A resource that was waited for has ended in another status."""


class User:
    """An administrator with `openstack`, `cinder`, and plain HTTP for looking."""

    def __init__(self, deployment: Deployment):
        self.deployment = deployment
        self.openstack = OpenStack(deployment, "admin_token", f"admin:{PROJECT}", PROJECT)
        self.cinder = Cinder(deployment, "admin", PROJECT)
        self.rest = deployment.rest(f"admin:{PROJECT}", PROJECT)

    # Looking.

    def shown(self, kind: str, id: str) -> dict | None:
        answer = self.rest.call("GET", f"/{kind}s/{id}")
        assert answer.status_code in (200, 404), answer.text
        return answer.json()[kind] if answer.status_code == 200 else None

    def settled(self, kind: str, id: str, status: str = "available") -> dict:
        """Waits for a status; fails at once if it is an error instead."""

        def reached():
            shown = self.shown(kind, id)
            found = shown and shown["status"]
            if found != status and (found is None or found.startswith("error")):
                raise Gone(f"{kind} {id} is {found}, not {status}: {self._operations(kind, id) or self.history(kind, id)}")
            return shown if found == status else None

        return until(f"{kind} {id} is {status}", reached)

    def ends(self, kind: str, id: str, status: str) -> dict:
        """Waits for a status, whatever comes before."""
        return until(f"{kind} {id} is {status}", lambda: (shown := self.shown(kind, id)) and shown["status"] == status and shown)

    def gone(self, kind: str, id: str) -> None:
        def is_gone():
            shown = self.shown(kind, id)
            if shown and shown["status"].startswith("error"):
                raise Gone(f"{kind} {id} is {shown['status']}: {self.operation(kind, id)}")
            return shown is None

        until(f"{kind} {id} is gone", is_gone)

    def operation(self, kind: str, id: str) -> dict:
        """The latest operation on something."""
        [operation] = self._operations(kind, id)
        return operation

    def _operations(self, kind: str, id: str) -> list[dict]:
        return self.rest.get(f"{self.deployment.url}/ledger/v1/operations?resource={kind}:{id}&limit=1")["operations"]

    def reason(self, kind: str, id: str) -> str:
        """Why the latest operation on something failed."""
        operation = until(f"the operation on {kind} {id} ends", lambda: (it := self.operation(kind, id))["status"] != "open" and it)
        assert operation["status"] == "failed", operation
        return operation["failure"]["message"]

    def history(self, kind: str, id: str) -> str:
        """All that is on record of something. A volume that no pool takes has no operation."""
        return self.rest.call("GET", f"{self.deployment.url}/ledger/v1/history/{kind}/{id}").text

    def pool(self, backend: str) -> str:
        [pool] = [pool["name"] for pool in self.deployment.pools() if f"@{backend}#" in pool["name"]]
        return pool

    def capacity(self, backend: str) -> dict:
        """What the scheduler knows of a backend's only pool; zeroes as long as it is down."""
        pools = self.rest.call("GET", "/scheduler-stats/get_pools?detail=true").json()["pools"]
        found = [pool["capabilities"] for pool in pools if f"@{backend}#" in pool["name"]]
        return found[0] if found else {"total_capacity_gb": 0, "free_capacity_gb": 0}

    # Doing, and waiting until it is done.

    def new_type(self, backend: str) -> None:
        self.openstack("volume type create", backend, "--property", f"volume_backend_name={backend}")

    def volume(self, *arguments, size: int = 1) -> str:
        """Asks for a volume."""
        size = [] if any(str(word).startswith("--s") for word in arguments) else ["--size", size]
        return self.openstack.json("volume create", *size, *arguments, "v")["id"]

    def made(self, *arguments, size: int = 1) -> str:
        volume = self.volume(*arguments, size=size)
        self.settled("volume", volume)
        return volume

    def snapshot(self, volume: str, *arguments) -> str:
        """Asks for a snapshot."""
        return self.openstack.json("volume snapshot create", "--volume", volume, *arguments, "s")["id"]

    def attached(self, volume: str, initiator: str) -> tuple[str, dict]:
        """Attaches a volume to a host, as Nova does: the attachment, and how to connect."""
        self.cinder("attachment-create", volume, uuid.uuid4())
        [row] = self.cinder.rows("attachment-list", "--volume-id", volume)
        self.cinder(
            "attachment-update", row["ID"], "--host", "guest", "--initiator", initiator, "--ip", "127.0.0.1")
        self.cinder("attachment-complete", row["ID"])
        self.settled("volume", volume, "in-use")
        return row["ID"], self.rest.get(f"/attachments/{row['ID']}")["attachment"]["connection_info"]

    def taken(self, volume: str, *arguments) -> str:
        snapshot = self.snapshot(volume, *arguments)
        self.settled("snapshot", snapshot)
        return snapshot

    def deleted(self, *things: tuple[str, str]) -> None:
        """Deletes one after the other."""
        for kind, id in things:
            self.openstack("volume delete" if kind == "volume" else "volume snapshot delete", id)
            self.gone(kind, id)

    def forced(self, volume: str) -> None:
        """Deletes a volume that a deletion has failed on."""
        self.openstack("volume delete", "--force", volume)
        until(f"volume {volume} is gone", lambda: self.shown("volume", volume) is None)

    def drift(self) -> list[tuple[str, str]]:
        """What `tephra drift` finds, as kinds and names; its exit code fits."""
        done = self.deployment.tephra("drift", "--json")
        report = json.loads(done.stdout)
        assert report["unseen"] == 0, report
        found = [(it["finding"], it["name"]) for pool in report["pools"] for it in pool["findings"]]
        assert done.returncode == (9 if report["drift"] else 0), done
        return sorted(found)


def is_empty(deployment: Deployment, backend: str) -> None:
    until(f"nothing is left on {backend}", lambda: deployment.objects(backend) == [])


def at_once(function, arguments) -> list:
    """Calls a function with every argument at the same time; what each call gave."""
    with ThreadPoolExecutor(8) as pool:
        return [future.result() for future in [pool.submit(function, argument) for argument in arguments]]
