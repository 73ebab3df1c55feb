"""Executors that die at work."""

import subprocess


class Interrupted:
    """Executors that are killed while a program of theirs changes something, and started again."""

    PROGRAMS = {
        "lvm": "lvcreate|lvremove|lvconvert|lvextend|lvchange|lvrename|qemu-img|blkdiscard|tgtadm",
        "ceph": "rbd|qemu-img",
        "both": "qemu-img",
    }

    def __init__(self, deployment):
        self.deployment = deployment
        self.killed = dict.fromkeys(self.PROGRAMS, 0)

    def during(self, executor: str, action) -> None:
        """Kills it once, in the middle of what `action` asks for, if the middle is met."""
        program = self.deployment.executors[executor]
        action()
        if executor != "ceph":
            watch = f"for _ in $(seq 200); do pgrep -x -P $(cat /run/tephra.pid) '{self.PROGRAMS[executor]}' && exit 0; done; exit 1"
            met = self.deployment.guest.ask(watch)[0] == 0
        else:
            met = self._is_working(program.process.pid, self.PROGRAMS[executor])
        self.killed[executor] += met
        program.kill()
        program.start()

    @staticmethod
    def _is_working(pid: int, programs: str) -> bool:
        for _ in range(200):
            if subprocess.run(["pgrep", "-x", "-P", str(pid), programs], stdout=subprocess.DEVNULL).returncode == 0:
                return True
        return False
