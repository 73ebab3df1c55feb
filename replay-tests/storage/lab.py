"""One ledger with storage on two hosts: logical volumes in a guest, and Ceph on this machine.

The guest (`labs/lvm-vm`) has nothing of the host but a directory and NATS: its executor takes the
orders for its volume groups there. Everything else runs here.
"""

import contextlib
import itertools
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time

import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "replay-tests/clients"))

from glance_server import TOKEN, Glance  # noqa: E402
from tephra_server import Rest, binary, free_port  # noqa: E402

DEADLINE_S = 600
"""How long anything that must happen may take. Emulated lvm2 on a busy machine is slow."""

HOST_IN_GUEST = "10.0.2.2"

BLOCK_STORAGE = ("thick", "thin", "ceph")
LVM = ("thick", "thin")

FIRST, SECOND, THIRD = 0x11, 0x22, 0x33
"""What volumes are filled with."""

PORTAL = "127.0.0.1:3260"
"""Where the executor has the guest's tgtd listen: its own kernel is the initiator."""

INITIATOR = "iqn.2026-01.test.lvm-vm:guest"
"""As `labs/lvm-vm` names its guest."""


def until(what: str, condition, deadline_s: float = DEADLINE_S):
    """Waits until `condition` gives something true and returns it; fails naming `what`."""
    end = time.monotonic() + deadline_s
    while True:
        last = condition()
        if last:
            return last
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.1)


def run(*argv, check: bool = True, **options) -> subprocess.CompletedProcess:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
    return done


class Guest:
    """A host with two volume groups, `tephra-thick` and `tephra-thin`, and a small file system."""

    def __init__(self, directory: pathlib.Path):
        self.share = directory
        (self.share / "requests").mkdir(parents=True)
        self.numbers = itertools.count(1)
        script = (ROOT / "labs/storage-guest").read_text()
        self.output = (self.share / "guest.log").open("wb")
        self.process = subprocess.Popen(
            [ROOT / "labs/lvm-vm", "run", "--backend", "uml", "--net", "yes", "--disks", "1", "--disk-size", "60G",
             "--timeout", "5400", "--share", self.share, "--", "bash", "-c", script, "guest", self.share],
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, cwd=self.share,
        )
        until("the guest is ready", lambda: self._alive() and (self.share / "ready").exists())

    def _alive(self) -> bool:
        assert self.process.poll() is None, f"the guest ended:\n{(self.share / 'guest.log').read_text(errors='replace')}"
        return True

    def ask(self, script: str) -> tuple[int, str]:
        """Runs a script in the guest: its exit code and what it printed."""
        base = self.share / "requests" / str(next(self.numbers))
        base.with_suffix(".draft").write_text(script + "\n")
        base.with_suffix(".draft").rename(base.with_suffix(".sh"))
        until(f"the guest has done {script!r}", lambda: self._alive() and base.with_suffix(".code").exists())
        return int(base.with_suffix(".code").read_text()), base.with_suffix(".out").read_text(errors="replace")

    def __call__(self, script: str) -> str:
        """Runs a script in the guest that must succeed; gives what it printed."""
        code, text = self.ask(script)
        assert code == 0, f"{script}: {code}: {text}"
        return text

    def reach(self, ceph: "Ceph") -> None:
        """Gives the guest what clients of Ceph need: the host's programs behind its own, and a way there."""
        for name in ("ceph.conf", "cinder.keyring"):
            shutil.copy(ceph.directory / name, self.share)
        shutil.copy(pathlib.Path(__file__).with_name("forward.py"), self.share)
        ports = " ".join(ceph.ports())
        self(f"""
mkdir -p /usr-of-host
mountpoint -q /usr-of-host || mount -r -t hostfs -o /usr none /usr-of-host
mountpoint -q /usr || mount -t overlay -o lowerdir=/usr:/usr-of-host none /usr
setsid /usr/bin/python3 {self.share}/forward.py {HOST_IN_GUEST} {ports} >{self.share}/forward.log 2>&1 </dev/null &
echo $! >/run/forward.pid
until timeout 60 rbd --conf {self.share}/ceph.conf --keyring {self.share}/cinder.keyring --id cinder ls volumes; do sleep 1; done
""")

    def let_go_of_ceph(self) -> None:
        self("kill $(cat /run/forward.pid)")

    def end_tgtd(self) -> None:
        self("kill -9 $(pgrep -x tgtd); while pgrep -x tgtd; do sleep 0.1; done")

    def start_tgtd(self) -> None:
        self("setsid tgtd -f --iscsi portal=127.0.0.1:3261 >/dev/null 2>&1 </dev/null &")

    @contextlib.contextmanager
    def mortal_tgtd(self):
        """Meanwhile tgtd can be told under which of the next requests of `tgtadm` it dies; gives what tells it."""
        self("""
cp /usr/sbin/tgtadm /run/tgtadm
cat >/run/mortal-tgtadm <<'SCRIPT'
#!/bin/bash
left=$(($(cat /run/tgtd-has-left) - 1))
echo "$left" >/run/tgtd-has-left
[ "$left" = 0 ] || exec /run/tgtadm "$@"
tgtd=$(pgrep -x tgtd)
kill -STOP "$tgtd"
/run/tgtadm "$@" &
# until it waits for the answer
until read -r _ name state _ </proc/$!/stat && [ "$name $state" = "(tgtadm) S" ]; do :; done
kill -KILL "$tgtd"
wait $!
SCRIPT
chmod +x /run/mortal-tgtadm
echo 0 >/run/tgtd-has-left
mount --bind /run/mortal-tgtadm /usr/sbin/tgtadm
""")
        try:
            yield lambda command: self(f"echo {command} >/run/tgtd-has-left")
        finally:
            self("umount --lazy /usr/sbin/tgtadm")

    def tgtd_has_died(self) -> None:
        self("timeout 120 bash -c 'while pgrep -x tgtd; do sleep 0.1; done'")

    def stop(self) -> None:
        (self.share / "stop").touch()
        try:
            code = self.process.wait(120)
        finally:
            self.process.terminate()
        assert code == 0, (self.share / "guest.log").read_text(errors="replace")


class Ceph:
    """A cluster on this machine."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.conf = directory / "ceph.conf"
        self.lab("start")

    def lab(self, *arguments) -> str:
        return run(ROOT / "labs/ceph-lab", *arguments, env=os.environ | {"CEPH_LAB_DIR": str(self.directory)}).stdout

    def admin(self, program: str, *arguments) -> str:
        return run(program, "--conf", self.conf, *arguments).stdout

    def ports(self) -> list[str]:
        """Where its daemons listen for clients and for each other, on the loopback."""
        known = "".join(self.admin("ceph", *daemons, "dump") for daemons in (["mon"], ["osd"], ["mgr"]))
        return sorted(set(re.findall(r"127\.0\.0\.1:([1-9][0-9]*)", known)))

    def limit(self, bytes: int) -> None:
        """Sets how much the pool for volumes may hold (0: anything), and waits until it knows."""
        self.admin("ceph", "osd", "pool", "set-quota", "volumes", "max_bytes", str(bytes))
        is_full = lambda: "full_quota" in self.admin("ceph", "osd", "pool", "ls", "detail")  # noqa: E731
        until("the pool knows its limit", lambda: is_full() == (bytes != 0))

    def signal_osd(self, what: signal.Signals) -> None:
        os.kill(int(self.lab("pid", "osd.0")), what)

    def destroy(self) -> None:
        self.lab("destroy")


class IscsiDisk:
    """A volume in the guest's own kernel, over iSCSI."""

    def __init__(self, guest: Guest, volume: str, connection: dict):
        assert connection["driver_volume_type"] == "iscsi", connection
        self.guest = guest
        self.node = f"iscsiadm --mode node --targetname {connection['target_iqn']} --portal {connection['target_portal']}"
        settings = {
            "node.session.auth.authmethod": connection["auth_method"],
            "node.session.auth.username": connection["auth_username"],
            "node.session.auth.password": connection["auth_password"],
        }
        guest("\n".join([
            f"{self.node} --op new",
            *(f"{self.node} --op update --name {name} --value {value}" for name, value in settings.items()),
            f"{self.node} --login",
        ]))
        self.device = until("the disk shows", lambda: self._found(volume))

    def _found(self, volume: str) -> str | None:
        _, text = self.guest.ask(f"grep -l {volume} /sys/class/block/*/device/vpd_pg80 || true")
        return f"/dev/{text.split('/')[4]}" if text.startswith("/sys") else None

    def io(self, *commands: str) -> None:
        words = " ".join(f"-c {command!r}" for command in commands)
        said = self.guest(f"qemu-io -f raw -t none {self.device} {words}")
        assert "failed" not in said, said

    def grown(self, gib: int) -> None:
        until("the kernel sees the new size", lambda: (
            int(self.guest(f"{self.node} --rescan >/dev/null; blockdev --getsize64 {self.device}")) == gib << 30))

    def disconnect(self) -> None:
        self.guest(f"{self.node} --logout; {self.node} --op delete")


class CephDisk:
    """A volume that is reached as QEMU reaches it."""

    def __init__(self, ceph: Ceph, connection: dict):
        assert connection["driver_volume_type"] == "rbd", connection
        monitors = zip(connection["hosts"], connection["ports"])
        where = "\\;".join(f"{host}\\:{port}" for host, port in monitors)
        keyring = ceph.directory / "cinder.keyring"
        self.name = f"rbd:{connection['name']}:id={connection['auth_username']}:keyring={keyring}:mon_host={where}:conf=/dev/null"

    def io(self, *commands: str) -> None:
        words = [word for command in commands for word in ("-c", command)]
        done = run("qemu-io", "-f", "raw", self.name, *words, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0 and "failed" not in said, said

    def grown(self, gib: int) -> None:
        """It is opened anew every time."""

    def disconnect(self) -> None:
        """Likewise."""


class Program:
    """One process of tephra on this machine."""

    def __init__(self, log: pathlib.Path, *arguments):
        self.log, self.arguments, self.process = log, [binary(), *map(str, arguments)], None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class GuestProgram:
    """The guest's executor."""

    def __init__(self, guest: Guest, *arguments):
        self.guest = guest
        self.log = guest.share / "executor.log"
        words = " ".join(map(str, arguments))
        self.command = f"cd {guest.share}; setsid ./tephra {words} >>{self.log} 2>&1 </dev/null & echo $! >/run/tephra.pid"

    def start(self) -> None:
        self.guest(self.command)

    def kill(self) -> None:
        self.guest("kill -9 $(cat /run/tephra.pid); while [ -d /proc/$(cat /run/tephra.pid) ]; do sleep 0.1; done")


class Deployment:
    """Everything, with a URL that clients talk to."""

    BACKENDS = ("thick", "thin", "files", "ceph")

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.parts = []
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        nats = self.directory / "nats"
        started = run(ROOT / "labs/nats-cluster", "start", "--servers", 1, "--dir", nats, "--while", os.getpid()).stdout
        self.parts.append(lambda: run(ROOT / "labs/nats-cluster", "destroy", "--dir", nats))
        [nats_url] = [line.removeprefix("NATS_URL=") for line in started.splitlines() if line.startswith("NATS_URL=")]
        self.ceph = Ceph(self.directory / "ceph")
        self.parts.append(self.ceph.destroy)
        self.guest = Guest(self.directory / "guest")
        self.parts.append(self.guest.stop)

        self.glance = Glance(self.directory / "glance")
        self.parts.append(self.glance.stop)

        here, there = self._common(nats_url)
        server = self._config("server.toml", here)
        ceph = self._config("ceph.toml", here + self._rbd(self.ceph.directory, timeout_s=10))
        groups = "".join(
            f"""
[[backends]]
name = "{kind}"
driver = "lvm"
[backends.lvm]
volume_group = "tephra-{kind}"
provisioning = "{kind}"
command_time_limit_s = 300
[backends.iscsi]
portal = "{PORTAL}"
""" for kind in ("thick", "thin"))
        files = '\n[[backends]]\nname = "files"\ndriver = "directory"\ndirectory = "/files/volumes"\n'
        lvm = self._config("guest/lvm.toml", there + groups + files)
        both = self._config("guest/both.toml", there + groups + files + self._rbd(self.guest.share, timeout_s=50))
        shutil.copy(binary(), self.guest.share / "tephra")

        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.directory / "server.log"
        self.server = Program(
            self.log, "serve", "--roles", "api,sequencer", "--listen", f"127.0.0.1:{self.port}",
            "--config", server, "--data-dir", self.directory / "server")
        self.executors = {
            "ceph": Program(self.directory / "ceph.log", "executor", "--config", ceph, "--data-dir", self.directory / "ceph-data"),
            "lvm": GuestProgram(self.guest, "executor", "--config", lvm, "--data-dir", "/run/tephra-data"),
            "both": GuestProgram(self.guest, "executor", "--config", both, "--data-dir", "/run/tephra-data"),
        }
        for program in (self.server, self.executors["ceph"]):
            program.start()
            self.parts.append(program.kill)
        self.executors["lvm"].start()
        until("the server is ready", self._ready)
        self.admin = self.rest("admin:operators", "operators")
        until("every backend has shown its pool", lambda: len(self.pools()) == len(self.BACKENDS))

    @staticmethod
    def _rbd(directory: pathlib.Path, timeout_s: int) -> str:
        """The backend on Ceph, for a process that finds the cluster's files in a directory."""
        return f"""
[[backends]]
name = "ceph"
driver = "rbd"
[backends.rbd]
pools = ["volumes"]
ceph_conf = "{directory}/ceph.conf"
keyring = "{directory}/cinder.keyring"
command_timeout_s = {timeout_s}
sweep_interval_s = 5
"""

    @contextlib.contextmanager
    def one_executor(self):
        """Ceph moves into the guest: meanwhile one process serves logical volumes and Ceph."""
        self.guest.reach(self.ceph)
        self._change_executors(("ceph", "lvm"), ("both",))
        try:
            yield
        finally:
            self._change_executors(("both",), ("ceph", "lvm"))
            self.guest.let_go_of_ceph()

    def _change_executors(self, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        for name in before:
            self.executors[name].kill()
        for name in after:
            self.executors[name].start()

    @property
    def conf(self) -> pathlib.Path:
        return self.ceph.conf

    def _common(self, nats_url: str) -> tuple[str, str]:
        """What every configuration begins with: on this machine, and in the guest."""
        master_key = secrets.token_hex(32)
        conversion = {self.directory: "", self.guest.share: 'conversion_directory = "/disks/conversion"\n'}
        heads = []
        for directory, more in conversion.items():
            self._secret(directory / "master.key", master_key)
            self._secret(directory / "token", TOKEN)
            heads.append(
                # one name for both hosts, as a backend may move from one to the other
                f'host = "storage"\n'
                f"[limits]\nservice_down_time_s = 60\n[nats]\nservers_sync = true\nservers = [{nats_url!r}]\n"
                f'[secrets]\nmaster_key_file = "{directory}/master.key"\n'
                f'[images]\nstore = "glance"\nurl = "{self.glance.url}"\ntoken_file = "{directory}/token"\n{more}')
        here, there = heads
        return here, there.replace("//127.0.0.1", f"//{HOST_IN_GUEST}")

    @staticmethod
    def _secret(path: pathlib.Path, text: str) -> None:
        path.touch(0o600)
        path.write_text(text)

    def _config(self, name: str, text: str) -> pathlib.Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def _ready(self) -> bool:
        assert self.server.process.poll() is None, self.log.read_text(errors="replace")[-4000:]
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def rest(self, token: str, project: str | None = None, version: str = "3.71") -> Rest:
        return Rest(self, token, project, version)

    def pools(self) -> list:
        answer = self.admin.call("GET", "/scheduler-stats/get_pools")
        return answer.json()["pools"] if answer.status_code == 200 else []

    def stop(self) -> None:
        """Ends everything, the last first, and says afterwards what would not end."""
        failures = []
        for end in reversed(self.parts):
            try:
                end()
            except (AssertionError, OSError, subprocess.SubprocessError) as failure:
                failures.append(failure)
        self.parts = []
        assert not failures, failures

    def tephra(self, *arguments) -> subprocess.CompletedProcess:
        """The program's own command line, asking the server."""
        words = [binary(), *arguments, "--url", self.url, "--token", "admin:operators"]
        return run(*words, check=False)

    def connected(self, backend: str, volume: str, connection: dict) -> "IscsiDisk | CephDisk":
        """Connects as a host does with what the attachment says, and nothing else."""
        if backend == "ceph":
            return CephDisk(self.ceph, connection)
        return IscsiDisk(self.guest, volume, connection)

    def targets(self) -> str:
        """What the guest's tgtd exports."""
        return self.guest("tgtadm --lld iscsi --op show --mode target").strip()

    # The bytes of volumes, behind everybody's back.

    def io(self, backend: str, volume: str, command: str) -> None:
        """Runs a command of `qemu-io` on a volume, as its user's machine would."""
        if backend == "ceph":
            done = run("qemu-io", "-f", "raw", f"rbd:volumes/volume-{volume}:conf={self.conf}", "-c", command, check=False)
            code, said = done.returncode, done.stdout + done.stderr
        else:
            code, said = self.guest.ask(f"qemu-io -f raw /dev/tephra-{backend}/volume-{volume} -c {command!r}")
        assert code == 0 and "failed" not in said, f"{backend} {volume}: {command}: {said}"

    def write(self, backend: str, volume: str, byte: int) -> None:
        self.io(backend, volume, f"write -P {byte} 1M 64k")

    def holds(self, backend: str, volume: str, byte: int) -> None:
        self.io(backend, volume, f"read -P {byte} 1M 64k")

    def checksum(self, backend: str, volume: str) -> str:
        """Of all of its bytes."""
        if backend == "ceph":
            said = run("bash", "-o", "pipefail", "-c", f"rbd --conf {self.conf} export --no-progress volumes/volume-{volume} - | sha256sum").stdout
        else:
            said = self.guest(f"sha256sum </dev/tephra-{backend}/volume-{volume}")
        return said.split()[0]

    def objects(self, backend: str) -> list[str]:
        """Everything that a backend holds, however hidden, but for what a thin pool is made of."""
        if backend == "ceph":
            return (self.ceph.admin("rbd", "ls", "volumes") + self.ceph.admin("rbd", "trash", "ls", "--all", "volumes")).split("\n")[:-1]
        if backend == "files":
            return self.guest("ls -A /files/volumes | grep -v '^\\.' || true").split()
        return self.guest(f"lvs --noheadings -o lv_name -S 'lv_attr!~\"^t\"' tephra-{backend}").split()
