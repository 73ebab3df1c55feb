"""Executors that die at work."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

# How long an executor may take to begin with what it is asked for. It only bounds a failure.
BEGINS_WITHIN = 60


class Interrupted:
    """Executors that are killed while a program of theirs changes something, and started again."""

    PROGRAMS = {
        "lvm": "lvcreate|lvremove|lvconvert|lvextend|lvchange|lvrename|qemu-img|blkdiscard|tgtadm",
        "ceph": "rbd|qemu-img",
        "both": "qemu-img",
    }

    def __init__(self, deployment):
        self.deployment = deployment

    def during(self, executor: str, action, what: str) -> None:
        """Kills it once, in the middle of what `action` asks for."""
        program = self.deployment.executors[executor]
        with ThreadPoolExecutor(1) as watching:
            killed = watching.submit(self._killed_at_work, executor)
            action()
            was_at_work = killed.result()
        assert was_at_work, f"{what}: {executor} was never seen at work"
        program.start()

    def _killed_at_work(self, executor: str) -> bool:
        programs = self.PROGRAMS[executor]
        if executor == "ceph":
            return self._killed_here(self.deployment.executors[executor].process, programs)
        watch = f"""
pid=$(cat /run/tephra.pid)
# without a program of its own: one that is started takes as long as tgtadm does altogether
is_at_work() {{
    local thread child name
    for thread in /proc/$pid/task/*/children; do
        read -r -d '' -a children <"$thread" || true
        for child in "${{children[@]}}"; do
            read -r name <"/proc/$child/comm" && [[ $name =~ ^({programs})$ ]] && return
        done
    done 2>/dev/null
    return 1
}}
[ -e /proc/$pid/task/$pid/children ]
until is_at_work; do [ $SECONDS -lt {BEGINS_WITHIN} ] || exit 1; done
kill -9 $pid
while [ -d /proc/$pid ]; do sleep 0.1; done"""
        return self.deployment.guest.ask(watch)[0] == 0

    @staticmethod
    def _killed_here(process: subprocess.Popen, programs: str) -> bool:
        look = ["pgrep", "-x", "-P", str(process.pid), programs]
        until = time.monotonic() + BEGINS_WITHIN
        while subprocess.run(look, stdout=subprocess.DEVNULL).returncode != 0:
            if time.monotonic() > until:
                return False
        process.kill()
        process.wait()
        return True
