"""Volumes made from images of a Glance, by the real clients, and what strangers' images try."""

import json
import os
import pathlib
import shutil
import stat
import subprocess

import openstack
import pytest
import requests

from commands import BIN, TIMEOUT_S, Cinder
from glance_server import Glance
from tephra_server import BLOCK, NEWEST, Server, content, fault, gib, pattern, unique, until, write

MIB = 1 << 20
QEMU_IMG = shutil.which("qemu-img")

# Does its work, but where the test says so it waits before the work or after it.
WRAPPER = """#!/bin/sh
hold() {{
    [ -e "{gates}/$1" ] || return 0
    touch "{gates}/$1.reached"
    while [ -e "{gates}/$1" ]; do sleep 0.02; done
}}
[ "$1" != convert ] || hold before
{qemu_img} "$@"
code=$?
[ "$1" != convert ] || hold after
exit $code
"""


class Site:
    """A server with its Glance, whose `qemu-img` can be held."""

    def __init__(self, directory: pathlib.Path, config: str = ""):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.glance = Glance(directory / "glance")
        self.gates = directory / "gates"
        self.gates.mkdir()
        wrapper = directory / "bin" / "qemu-img"
        wrapper.parent.mkdir()
        wrapper.write_text(WRAPPER.format(gates=self.gates, qemu_img=QEMU_IMG))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        self.server = Server(directory, self.glance.config() + config)
        self.start()

    def start(self) -> None:
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{self.directory / 'bin'}:{path}"
        try:
            self.server.start()
        finally:
            os.environ["PATH"] = path

    def restart(self) -> None:
        """As a power cut and a boot."""
        self.server.kill()
        for gate in self.gates.iterdir():
            gate.unlink()
        self.start()

    def stop(self) -> None:
        self.glance.stop()
        for gate in self.gates.iterdir():
            gate.unlink()
        self.server.stop()

    def hold(self, when: str):
        gate = self.gates / when
        gate.touch()
        return lambda: until(f"qemu-img is held {when} its work", (self.gates / f"{when}.reached").exists)

    def left_behind(self) -> list[str]:
        """What lies where files are converted, which is nothing when nothing is under way."""
        return sorted(path.name for path in (self.server.data_dir / "conversion").iterdir())

    def why(self, volume_id: str, kind: str = "VolumeCreateFailed") -> str:
        """The reason on the ledger for what failed."""
        answer = requests.get(
            f"{self.server.url}/ledger/v1/events?resource=volume:{volume_id}&limit=100",
            headers={"X-Auth-Token": "admin:ops"}, timeout=30,
        ).json()
        [failed] = [event for event in answer["events"] if event["kind"] == kind]
        return json.dumps(failed)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    running = Site(tmp_path_factory.mktemp("images"))
    yield running
    running.stop()


@pytest.fixture
def member(site, project):
    return site.server.rest(f"mia:{project}", project)


@pytest.fixture
def cinder(site, project) -> Cinder:
    return Cinder(site.server, "mia", project)


def disk(size: int = 8 * MIB, seed: str = "disk") -> bytes:
    """A disk with a hole in its middle."""
    data = bytearray(size)
    for offset in (0, BLOCK, size - BLOCK):
        data[offset : offset + BLOCK] = pattern(seed, offset)
    return bytes(data)


def converted(tmp_path: pathlib.Path, data: bytes, disk_format: str, *options: str) -> bytes:
    raw, made = tmp_path / "raw", tmp_path / unique("made")
    raw.write_bytes(data)
    command = [QEMU_IMG, "convert", "-f", "raw", "-O", disk_format, *options, str(raw), str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made.read_bytes()


def holds_disk(site: Site, volume_id: str, data: bytes, tmp_path: pathlib.Path) -> bool:
    """Whether the volume is exactly this disk, with zeroes after it."""
    expected = tmp_path / "expected"
    expected.write_bytes(data)
    return content(site.server.volume_file(volume_id)) == content(expected)


@pytest.mark.parametrize("disk_format, options", [
    ("raw", []), ("qcow2", []), ("qcow2", ["-c"]), ("vmdk", []), ("vmdk", ["-o", "subformat=streamOptimized"]),
])
def test_cinder_makes_the_same_volume_of_every_format(site, cinder, member, tmp_path, disk_format, options):
    data = disk()
    image = site.glance.add(
        converted(tmp_path, data, disk_format, *options), disk_format,
        name="debian", min_disk=1, min_ram=64, os_distro="debian", hw_disk_bus="virtio",
    )
    volume_id = cinder.properties("create", "1", "--image-id", image, "--name", "boot")["id"]
    volume = member.settled("volumes", volume_id)
    assert volume["bootable"] == "true"
    about = volume["volume_image_metadata"]
    expected = {
        "image_id": image, "image_name": "debian", "disk_format": disk_format, "container_format": "bare",
        "min_disk": "1", "min_ram": "64", "os_distro": "debian", "hw_disk_bus": "virtio",
        "size": str(site.glance.path(image).stat().st_size), "checksum": site.glance.images[image]["checksum"],
    }
    assert about == expected
    assert holds_disk(site, volume_id, data, tmp_path)
    assert site.server.volume_file(volume_id).stat().st_size == gib(1)
    assert site.left_behind() == []


def test_what_a_volume_remembers_goes_to_its_copies_and_can_be_changed(site, cinder, member, tmp_path):
    image = site.glance.add(disk(), "raw", name="base")
    volume_id = cinder.properties("create", "1", "--image-id", image)["id"]
    member.settled("volumes", volume_id)
    cinder("image-metadata", volume_id, "set", "os_distro=debian", "hw_machine=q35")
    shown = cinder.properties("image-metadata-show", volume_id)
    assert (shown["os_distro"], shown["hw_machine"], shown["image_name"]) == ("debian", "q35", "base")
    cinder("image-metadata", volume_id, "unset", "hw_machine")
    cinder.refused("image-metadata", volume_id, "unset", "hw_machine")
    copy = member.volume(source_volid=volume_id)
    assert copy["bootable"] == "true"
    assert copy["volume_image_metadata"]["os_distro"] == "debian"
    assert "hw_machine" not in copy["volume_image_metadata"]
    assert content(site.server.volume_file(copy["id"])) == content(site.server.volume_file(volume_id))


def openstack_of(site, tmp_path, project: str):
    """`openstack`, in a cloud of block storage and images, without Keystone."""
    token = f"mia:{project}"
    site.glance.tokens.add(token)
    config = tmp_path / "clouds.yaml"
    config.write_text(json.dumps({"clouds": {"here": {
        "auth_type": "admin_token", "auth": {"endpoint": f"{site.server.url}/v3/{project}", "token": token},
        "image_endpoint_override": site.glance.url, "image_api_version": "2", "volume_api_version": NEWEST,
    }}}))

    def run(*arguments):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OS_CLIENT_CONFIG_FILE": str(config)}
        command = [str(BIN / "openstack"), "--os-cloud", "here", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


def test_openstack_finds_an_image_by_its_name_and_changes_what_is_remembered(site, project, member, tmp_path):
    data = disk(seed="openstack")
    name = unique("cirros")
    site.glance.add(converted(tmp_path, data, "qcow2"), "qcow2", name=name, hw_vif="e1000")
    run = openstack_of(site, tmp_path, project)
    created = json.loads(run("volume", "create", "from-image", "--size", 1, "--image", name, "-f", "json"))
    volume = member.settled("volumes", created["id"])
    assert holds_disk(site, volume["id"], data, tmp_path)
    run("volume", "set", volume["id"], "--image-property", "os_distro=alpine")
    run("volume", "unset", volume["id"], "--image-property", "hw_vif")
    shown = member.get(f"/volumes/{volume['id']}")["volume"]["volume_image_metadata"]
    assert shown["os_distro"] == "alpine" and "hw_vif" not in shown


def test_the_sdk_creates_from_an_image(site, project, tmp_path):
    data = disk(seed="sdk")
    image = site.glance.add(converted(tmp_path, data, "qcow2"), "qcow2", name="for the sdk")
    connection = openstack.connection.Connection(
        auth_type="admin_token", auth={"endpoint": f"{site.server.url}/v3/{project}", "token": f"mia:{project}"})
    sdk = connection.block_storage
    volume = sdk.create_volume(size=1, name="v", image_id=image)
    volume = sdk.wait_for_status(volume, status="available", failures=["error"], interval=0.05, wait=60)
    assert (volume.is_bootable, volume.volume_image_metadata["image_name"]) == (True, "for the sdk")
    assert holds_disk(site, volume.id, data, tmp_path)
    sdk.set_volume_image_metadata(volume, os_distro="suse")
    sdk.delete_volume_image_metadata(volume, keys=["image_name"])
    remembered = sdk.get_volume(volume.id).volume_image_metadata
    assert remembered["os_distro"] == "suse" and "image_name" not in remembered


def test_what_does_not_fit_is_refused_at_once(site, member):
    small, missing = site.glance.add(disk(), "raw"), "7e947a00-0000-4000-8000-00000000dead"
    cases = [
        ({"min_disk": 3}, "Volume size 2GB cannot be smaller than the image minDisk size 3GB."),
        ({"size": gib(5)}, "Size of specified image 5GB is larger than volume size 2GB."),
        ({"status": "queued"}, "is not active."),
        ({"visibility": "private", "owner": "somebody-else"}, "Invalid image identifier or unable to access requested image."),
    ]
    for fields, message in cases:
        image = site.glance.add(disk(), "raw", **fields)
        answer = member.call("POST", "/volumes", {"volume": {"size": 2, "imageRef": image}})
        assert message in fault(answer, 400, "badRequest"), fields
    answer = member.call("POST", "/volumes", {"volume": {"size": 2, "imageRef": missing}})
    assert "Invalid image identifier" in fault(answer, 400, "badRequest")
    answer = member.call("POST", "/volumes", {"volume": {"imageRef": small}})
    assert answer.status_code == 400
    assert member.get("/volumes")["volumes"] == []


def lying(tmp_path: pathlib.Path) -> dict:
    """Images that are not what they say, by name: data, format, what Glance says, and the reason."""
    data = disk()
    base = tmp_path / "base.qcow2"
    base.write_bytes(converted(tmp_path, data, "qcow2"))
    overlay = tmp_path / "overlay.qcow2"
    subprocess.run(
        [QEMU_IMG, "create", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(overlay)], check=True, capture_output=True)
    passwd = tmp_path / "passwd.qcow2"
    subprocess.run(
        [QEMU_IMG, "create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", str(passwd), "1M"], check=True, capture_output=True)
    outside = tmp_path / "outside.qcow2"
    subprocess.run(
        [QEMU_IMG, "create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on", str(outside), "1M"],
        check=True, capture_output=True)
    large = tmp_path / "large.qcow2"
    subprocess.run([QEMU_IMG, "create", "-f", "qcow2", str(large), "2G"], check=True, capture_output=True)
    descriptor = (
        b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        b'RW 2048 FLAT "/etc/shadow" 0\n')
    qcow2 = base.read_bytes()
    vdi = converted(tmp_path, data, "vdi")
    return {
        "longer than it says": (data, "raw", {"size": len(data) - 1}, "is longer than"),
        "shorter than it says": (data, "raw", {"size": len(data) + 1}, ""),
        "another hash": (data, "raw", {"os_hash_value": "0" * 128}, ""),
        "qcow2 that says raw": (qcow2, "raw", {}, "declared as raw, but its file is qcow2"),
        "raw that says qcow2": (data, "qcow2", {}, "declared as qcow2, but its file is raw"),
        "a disk larger than the volume": (large.read_bytes(), "qcow2", {}, "more than a volume of 1 GiB"),
        "a backing file": (overlay.read_bytes(), "qcow2", {}, "backing file"),
        "a file of the host behind it": (passwd.read_bytes(), "qcow2", {}, "backing file"),
        "its data elsewhere": (outside.read_bytes(), "qcow2", {}, "data file"),
        "a vmdk that names a file of the host": (descriptor, "vmdk", {}, "separate extent"),
        "cut off": (qcow2[: len(qcow2) // 2], "qcow2", {}, "its end is missing"),
        "a vdi cut off": (vdi[: len(vdi) // 2], "vdi", {}, "its end is missing"),
        "a vdi without its last byte": (vdi[:-1], "vdi", {}, "its end is missing"),
        "nonsense": (os.urandom(3 * BLOCK), "vhdx", {}, "declared as vhdx"),
        "a format that nobody reads": (data, "ploop", {}, "disk format"),
        "a wrapped disk": (data, "raw", {"container_format": "ova"}, "container format"),
    }


def test_an_image_that_lies_ends_in_error_with_the_reason_and_leaves_nothing(site, member, project, tmp_path):
    operator = site.server.rest("admin:ops", "ops")
    operator.put(f"/os-quota-sets/{project}", {"quota_set": {"volumes": 50}})
    made = {}
    for name, (data, disk_format, fields, reason) in lying(tmp_path).items():
        image = site.glance.add(data, disk_format, **fields)
        created = member.post("/volumes", {"volume": {"size": 1, "name": name, "imageRef": image}})["volume"]
        made[created["id"]] = (name, reason)
    for volume_id, (name, reason) in made.items():
        until(f"{name} ends", lambda: member.get(f"/volumes/{volume_id}")["volume"]["status"] != "creating")
        assert member.get(f"/volumes/{volume_id}")["volume"]["status"] == "error", name
        why = site.why(volume_id)
        assert reason in why, f"{name}: {why}"
        assert "/etc/" not in why, "no hint of what is on the host"
        assert not site.server.volume_file(volume_id).exists(), name
        member.delete(f"/volumes/{volume_id}")
        member.gone("volumes", volume_id)
    assert site.left_behind() == []


def test_an_image_that_vanishes_midway_ends_in_error(site, member):
    image = site.glance.add(disk(32 * MIB), "raw")
    site.glance.loses(image)
    volume_id = member.post("/volumes", {"volume": {"size": 1, "imageRef": image}})["volume"]["id"]
    until("it ends", lambda: member.get(f"/volumes/{volume_id}")["volume"]["status"] != "creating")
    assert member.get(f"/volumes/{volume_id}")["volume"]["status"] == "error"
    assert f"Image {image} could not be found." in site.why(volume_id)
    assert not site.server.volume_file(volume_id).exists()
    assert site.left_behind() == []


def test_a_glance_that_stops_answering_is_waited_for(site, member, tmp_path):
    """A connection that breaks is tried again: the volume is whole in the end."""
    data = disk(32 * MIB, "again")
    image = site.glance.add(data, "raw")
    site.glance.loses(image)
    kept = site.glance.images[image]
    volume_id = member.post("/volumes", {"volume": {"size": 1, "imageRef": image}})["volume"]["id"]
    until("it is lost", lambda: image not in site.glance.images)
    site.glance.cuts.discard(image)
    site.glance.images[image] = kept
    member.settled("volumes", volume_id)
    assert holds_disk(site, volume_id, data, tmp_path)


@pytest.mark.parametrize("when", ["download", "before", "after"])
def test_a_server_killed_midway_makes_the_volume_whole_afterwards(tmp_path, when):
    """`before` the conversion, and `after` it but before anybody knows."""
    site = Site(tmp_path / "site")
    try:
        data = disk(64 * MIB, when)
        image = site.glance.add(converted(tmp_path, data, "qcow2"), "qcow2")
        reached = site.glance.holds(image).reached.wait if when == "download" else site.hold(when)
        member = site.server.rest("mia:p", "p")
        volume_id = member.post("/volumes", {"volume": {"size": 1, "imageRef": image}})["volume"]["id"]
        assert reached() is not False
        assert member.get(f"/volumes/{volume_id}")["volume"]["status"] == "creating"
        gate = site.glance.gates.pop(image, None)
        site.restart()
        if gate:
            gate.open()
        member.settled("volumes", volume_id)
        assert holds_disk(site, volume_id, data, tmp_path)
        assert site.left_behind() == []
        member.delete(f"/volumes/{volume_id}")
        member.gone("volumes", volume_id)
        assert list((site.server.data_dir / "volumes").glob("*-*-*")) == []
    finally:
        site.stop()


def test_a_conversion_that_takes_too_long_ends_in_error_and_never_in_half_a_volume(tmp_path):
    site = Site(tmp_path / "site", "conversion_timeout_s = 2\n")
    try:
        image = site.glance.add(converted(tmp_path, disk(), "qcow2"), "qcow2")
        reached = site.hold("before")
        member = site.server.rest("mia:p", "p")
        volume_id = member.post("/volumes", {"volume": {"size": 1, "imageRef": image}})["volume"]["id"]
        reached()
        operator = site.server.rest("admin:ops", "p")
        reset = {"os-reset_status": {"status": "available"}}
        assert site.server.volume_file(volume_id).stat().st_size == 1 << 30, "of the right size, and not filled"
        refused = operator.call("POST", f"/volumes/{volume_id}/action", reset)
        assert "never received all of its data" in fault(refused, 400, "badRequest")
        until("it ends", lambda: member.get(f"/volumes/{volume_id}")["volume"]["status"] == "error")
        assert "not done within 2 s" in site.why(volume_id) and "timed_out" in site.why(volume_id)
        assert not site.server.volume_file(volume_id).exists()
        assert site.left_behind() == []
        refused = operator.call("POST", f"/volumes/{volume_id}/action", reset)
        assert "never received all of its data" in fault(refused, 400, "badRequest")
        member.delete(f"/volumes/{volume_id}")
        member.gone("volumes", volume_id)
    finally:
        site.stop()


def test_an_image_deleted_while_the_server_was_down_ends_in_error(tmp_path):
    site = Site(tmp_path / "site")
    try:
        image = site.glance.add(disk(16 * MIB), "raw")
        gate = site.glance.holds(image)
        member = site.server.rest("mia:p", "p")
        volume_id = member.post("/volumes", {"volume": {"size": 1, "imageRef": image}})["volume"]["id"]
        assert gate.reached.wait(60)
        del site.glance.images[image]
        site.restart()
        until("it ends", lambda: member.get(f"/volumes/{volume_id}")["volume"]["status"] == "error")
        assert f"Image {image} could not be found." in site.why(volume_id)
        assert site.left_behind() == []
    finally:
        site.stop()


def downloaded(site: Site, image_id: str, tmp_path: pathlib.Path) -> pathlib.Path:
    """The disk of an image in the Glance, as a raw file."""
    raw = tmp_path / unique("downloaded")
    image = site.glance.images[image_id]
    command = [QEMU_IMG, "convert", "-f", image["disk_format"], "-O", "raw", str(site.glance.path(image_id)), str(raw)]
    subprocess.run(command, check=True, capture_output=True)
    return raw


def filled(site: Site, member, seed: str) -> dict:
    volume = member.volume(name=seed)
    write(site.server.volume_file(volume["id"]), seed)
    return volume


@pytest.mark.parametrize("disk_format", ["raw", "qcow2", "vmdk"])
def test_cinder_makes_an_image_of_a_volume_and_a_volume_of_that_image(site, cinder, member, project, tmp_path, disk_format):
    volume = filled(site, member, disk_format)
    cinder("image-metadata", volume["id"], "set", "os_distro=debian")
    printed = cinder.properties("upload-to-image", volume["id"], "golden", "--disk-format", disk_format, "--visibility", "private")
    assert (printed["status"], printed["image_name"], printed["disk_format"]) == ("uploading", "golden", disk_format)
    member.settled("volumes", volume["id"])
    image = site.glance.images[printed["image_id"]]
    said = {key: image[key] for key in ("name", "status", "visibility", "owner", "os_distro", "protected")}
    assert said == {
        "name": "golden", "status": "active", "visibility": "private", "owner": project, "os_distro": "debian", "protected": False,
    }
    raw = downloaded(site, image["id"], tmp_path)
    assert content(raw) == content(site.server.volume_file(volume["id"]))
    copy = member.settled("volumes", cinder.properties("create", "1", "--image-id", image["id"])["id"])
    assert content(site.server.volume_file(copy["id"])) == content(raw)
    assert copy["volume_image_metadata"]["os_distro"] == "debian"
    assert site.left_behind() == []


def test_openstack_makes_an_image_of_a_volume(site, project, member, tmp_path):
    volume = filled(site, member, "openstack")
    run = openstack_of(site, tmp_path, project)
    run("image", "create", "from-volume", "--volume", volume["id"], "--disk-format", "qcow2", "--protected")
    member.settled("volumes", volume["id"])
    [image] = [image for image in site.glance.images.values() if image["name"] == "from-volume"]
    assert (image["status"], image["protected"], image["disk_format"]) == ("active", True, "qcow2")
    assert content(downloaded(site, image["id"], tmp_path)) == content(site.server.volume_file(volume["id"]))


def test_an_upload_is_answered_and_refused_as_cinder_does(site, member):
    volume = filled(site, member, "answers")
    path = f"/volumes/{volume['id']}"
    refused = [
        ({}, "'image_name' is a required property"),
        ({"image_name": ""}, ""),
        ({"image_name": "i", "disk_format": "iso"}, "'iso' is not one of ['raw', 'vmdk', 'vdi', 'qcow2', 'vhd', 'vhdx'"),
        ({"image_name": "i", "visibility": "mine"}, "'mine' is not one of"),
        ({"image_name": "i", "container_format": "ova"}, ""),
        ({"image_name": "i", "more": 1}, ""),
    ]
    for body, message in refused:
        answer = member.call("POST", f"{path}/action", {"os-volume_upload_image": body})
        assert message in fault(answer, 400, "badRequest"), body
    old = {"os-volume_upload_image": {"image_name": "i", "protected": True}}
    fault(member.call("POST", f"{path}/action", old, version="3.0"), 400, "badRequest")
    public = {"os-volume_upload_image": {"image_name": "i", "visibility": "public"}}
    fault(member.call("POST", f"{path}/action", public), 403, "forbidden")

    release = site.hold("before")
    body = {"image_name": "i", "disk_format": "qcow2", "protected": True}
    said = member.action(path, "os-volume_upload_image", body)["os-volume_upload_image"]
    assert set(said) == {
        "id", "updated_at", "status", "display_description", "size", "volume_type", "image_id", "container_format",
        "disk_format", "image_name", "protected", "visibility",
    }
    assert (said["status"], said["visibility"], said["protected"]) == ("uploading", "private", True)
    release()
    assert member.get(path)["volume"]["status"] == "uploading"
    again = member.call("POST", f"{path}/action", {"os-volume_upload_image": body})
    assert fault(again, 400, "badRequest") == f"Invalid volume: Volume {volume['id']} status must be available"
    (site.gates / "before").unlink()
    (site.gates / "before.reached").unlink()
    member.settled("volumes", volume["id"])
    assert site.glance.images[said["image_id"]]["protected"] is True


def test_an_image_that_is_not_taken_is_taken_back_and_the_volume_is_what_it_was(site, member):
    volume = filled(site, member, "refused")
    before = content(site.server.volume_file(volume["id"]))
    site.glance.refuses_data = True
    try:
        body = {"image_name": "too large", "protected": True}
        said = member.action(f"/volumes/{volume['id']}", "os-volume_upload_image", body)["os-volume_upload_image"]
        member.settled("volumes", volume["id"])
    finally:
        site.glance.refuses_data = False
    assert said["image_id"] not in site.glance.images, "no half-made image"
    assert "POST /v2/images" in site.glance.requests
    assert "it is more than the image service takes" in site.why(volume["id"], "VolumeUploadFailed")
    assert content(site.server.volume_file(volume["id"])) == before
    assert site.left_behind() == []


@pytest.mark.parametrize("when", ["before", "after", "upload"])
def test_a_server_killed_during_an_upload_makes_one_whole_image_afterwards(tmp_path, when):
    site = Site(tmp_path / "site")
    try:
        member = site.server.rest("mia:p", "p")
        volume = filled(site, member, when)
        reached = site.glance.holds("upload").reached.wait if when == "upload" else site.hold(when)
        body = {"image_name": "i", "disk_format": "qcow2"}
        said = member.action(f"/volumes/{volume['id']}", "os-volume_upload_image", body)["os-volume_upload_image"]
        assert reached() is not False
        gate = site.glance.gates.pop("upload", None)
        site.restart()
        if gate:
            gate.open()
        member.settled("volumes", volume["id"])
        assert list(site.glance.images) == [said["image_id"]], "one image"
        assert site.glance.images[said["image_id"]]["status"] == "active"
        assert content(downloaded(site, said["image_id"], tmp_path)) == content(site.server.volume_file(volume["id"]))
        assert site.left_behind() == []
    finally:
        site.stop()
