"""Attaching and detaching as Nova, tempest and their users do it: by attachments (3.27 and later),
and by the volume actions that were there before."""

import http.server
import json
import threading
import uuid

import pytest
from cinderclient import client as cinder_client
from cinderclient.contrib import noauth
from cinderclient.exceptions import ClientException
from keystoneauth1 import session
from openstack import exceptions

from commands import Cinder, OpenStack
from tephra_server import NEWEST, content, fault, gib, unique, until, write
from test_sdk import available, connect, gone

HOST = {
    "initiator": "iqn.1993-08.org.debian:01:cad181614cec", "ip": "192.0.2.20", "platform": "x86_64",
    "host": "compute-1", "os_type": "linux2", "multipath": False,
}
OTHER_HOST = HOST | {"initiator": "iqn.1993-08.org.debian:01:0ba5e", "ip": "192.0.2.21", "host": "compute-2"}


@pytest.fixture
def sdk(server, project):
    return connect(server, "admin", project).block_storage


@pytest.fixture
def as_member(server, project):
    return connect(server, "mia", project).block_storage


@pytest.fixture
def old(server, project):
    """cinderclient as other programs use it, Nova among them."""
    auth = noauth.CinderNoAuthPlugin(f"admin:{project}", project, endpoint=f"{server.url}/v3")
    return cinder_client.Client("3.71", session=session.Session(auth=auth))


@pytest.fixture
def nova():
    """A compute service that knows servers by their ids, for a client that looks there first."""
    version = {"version": {"id": "v2.1", "status": "CURRENT", "version": "2.96", "min_version": "2.1"}}

    class Nova(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            last = self.path.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
            body = {"server": {"id": last, "name": "s"}} if "/servers/" in self.path else version
            link = f"http://127.0.0.1:{self.server.server_port}/v2.1/"
            version["version"]["links"] = [{"rel": "self", "href": link}]
            text = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nova)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{service.server_port}/v2.1/"
    service.shutdown()
    service.server_close()


def new_server() -> str:
    return str(uuid.uuid4())


def shown(admin, volume_id: str) -> dict:
    return admin.get(f"/volumes/{volume_id}")["volume"]


# Attachments.


def test_nova_boots_and_deletes_a_server_with_a_volume(server, admin, member):
    """reserve at the api, connect on the compute host, complete, and delete."""
    volume = member.volume()
    path = server.volume_file(volume["id"])
    instance = new_server()

    reserved = member.post("/attachments", {"attachment": {
        "volume_uuid": volume["id"], "instance_uuid": instance}}, 200)["attachment"]
    assert reserved == {
        "id": reserved["id"], "status": "reserved", "instance": instance, "volume_id": volume["id"],
        "attached_at": "", "detached_at": "", "attach_mode": "null", "connection_info": {},
    }
    assert (shown(member, volume["id"])["status"], shown(member, volume["id"])["attachments"]) == ("reserved", [])

    connector = HOST | {"mountpoint": "/dev/vdb"}
    attaching = member.put(f"/attachments/{reserved['id']}", {"attachment": {"connector": connector}})["attachment"]
    assert (attaching["status"], attaching["attach_mode"]) == ("attaching", "rw")
    info = attaching["connection_info"]
    assert (info["driver_volume_type"], info["device_path"]) == ("local", str(path))
    assert (info["volume_id"], info["attachment_id"], info["access_mode"]) == (volume["id"], reserved["id"], "rw")
    assert (info["encrypted"], info["qos_specs"], info["enforce_multipath"]) == (False, None, False)
    assert shown(member, volume["id"])["status"] == "attaching"

    member.action(f"/attachments/{reserved['id']}", "os-complete", None, 204)
    in_use = shown(member, volume["id"])
    assert in_use["status"] == "in-use"
    [attachment] = in_use["attachments"]
    assert attachment == {
        "id": volume["id"], "attachment_id": reserved["id"], "volume_id": volume["id"], "server_id": instance,
        "host_name": None, "device": "/dev/vdb", "attached_at": attachment["attached_at"],
    }
    assert attachment["attached_at"]
    [attachment] = shown(admin, volume["id"])["attachments"]
    assert attachment["host_name"] == "compute-1"

    write(path, "of the guest")
    before = content(path)
    assert member.delete(f"/attachments/{reserved['id']}", 200) == {"attachments": []}
    assert shown(member, volume["id"])["status"] == "available"
    fault(member.call("GET", f"/attachments/{reserved['id']}"), 404, "itemNotFound")
    fault(member.call("DELETE", f"/attachments/{reserved['id']}"), 404, "itemNotFound")
    assert content(path) == before
    member.delete(f"/volumes/{volume['id']}")
    member.gone("volumes", volume["id"])


def test_a_live_migration_holds_the_volume_from_two_hosts(admin, member):
    """A second attachment of the same server, to another host; the first one goes when it has moved."""
    volume, instance = member.volume(), new_server()
    first = member.post("/attachments", {"attachment": {
        "volume_uuid": volume["id"], "instance_uuid": instance, "connector": HOST}}, 200)["attachment"]
    member.action(f"/attachments/{first['id']}", "os-complete", None, 204)

    stranger = member.call("POST", "/attachments", {"attachment": {"volume_uuid": volume["id"], "instance_uuid": new_server()}})
    assert fault(stranger, 400, "badRequest") == (
        f"Invalid volume: Volume {volume['id']} status must be available or downloading to reserve, "
        "but the current status is in-use."
    )
    second = member.post("/attachments", {"attachment": {
        "volume_uuid": volume["id"], "instance_uuid": instance}}, 200)["attachment"]
    member.put(f"/attachments/{second['id']}", {"attachment": {"connector": OTHER_HOST}})
    member.action(f"/attachments/{second['id']}", "os-complete", None, 204)
    assert {one["host_name"] for one in shown(admin, volume["id"])["attachments"]} == {"compute-1", "compute-2"}

    [left] = member.delete(f"/attachments/{first['id']}", 200)["attachments"]
    assert (left["id"], left["status"]) == (second["id"], "attached")
    assert shown(member, volume["id"])["status"] == "in-use"
    member.delete(f"/attachments/{second['id']}", 200)
    assert shown(member, volume["id"])["status"] == "available"


def test_cinderclient_makes_shows_lists_and_ends_attachments(server, project):
    cinder = Cinder(server, "mia", project)
    cinder("create", "1", "--name", "v")
    until("v is available", lambda: cinder.properties("show", "v")["status"] == "available")
    volume, instance = cinder.properties("show", "v")["id"], new_server()

    cinder("attachment-create", "v", instance, "--mode", "ro")
    [listed] = cinder.rows("attachment-list")
    assert (listed["Volume ID"], listed["Status"], listed["Server ID"]) == (volume, "reserved", instance)
    attachment = listed["ID"]
    connection = cinder.properties(
        "attachment-update", attachment, "--host", "compute-1", "--initiator", HOST["initiator"],
        "--ip", "192.0.2.20", "--mountpoint", "/dev/vdc",
    )
    assert (connection["driver_volume_type"], connection["access_mode"]) == ("local", "ro")
    cinder("attachment-complete", attachment)
    text = cinder("attachment-show", attachment)
    assert "attached" in text and "/dev/vdc" not in text
    assert cinder.properties("show", "v")["status"] == "in-use"
    assert [row["ID"] for row in cinder.rows("attachment-list", "--volume-id", volume)] == [attachment]
    assert cinder.rows("attachment-list", "--volume-id", new_server()) == []
    assert "must not be migrating, attached" in cinder.refused("delete", "v")
    cinder("attachment-delete", attachment)
    assert cinder.rows("attachment-list") == []
    assert cinder.properties("show", "v")["status"] == "available"

    cinder("attachment-create", "v", instance, "--connect", "True", "--host", "compute-1", "--ip", "192.0.2.20")
    [listed] = cinder.rows("attachment-list", "--status", "attaching")
    cinder("attachment-delete", listed["ID"])
    cinder("delete", "v")


def test_openstackclient_makes_shows_lists_and_ends_attachments(server, project, nova):
    openstack = OpenStack(server, "admin_token", f"admin:{project}", project)
    openstack("volume create", "--size", "1", "v")
    until("v is available", lambda: openstack.json("volume show", "v")["status"] == "available")
    instance = new_server()

    with_nova = OpenStack(server, "admin_token", f"admin:{project}", project, compute=nova)
    made = with_nova.json("volume attachment create", "v", "--server", instance, "--mode", "rw")
    attachment = made["ID"]
    assert (made["Status"], made["Instance ID"]) == ("reserved", instance)
    set_ = openstack.json(
        "volume attachment set", attachment, "--host", "compute-1", "--ip", "192.0.2.20",
        "--initiator", HOST["initiator"], "--platform", "x86_64", "--os-type", "linux2", "--mountpoint", "/dev/vdb",
    )
    assert set_["Status"] == "attaching"
    openstack("volume attachment complete", attachment)
    assert openstack.json("volume show", "v")["status"] == "in-use"
    [listed] = openstack.json("volume attachment list")
    assert (listed["ID"], listed["Status"], listed["Server ID"]) == (attachment, "attached", instance)
    assert openstack.json("volume attachment list", "--status", "reserved") == []
    detail = openstack.json("volume attachment show", attachment)
    assert detail["Properties"]["driver_volume_type"] == "local"
    openstack("volume attachment delete", attachment)
    assert openstack.json("volume show", "v")["status"] == "available"

    openstack("volume set", "--read-only", "v")
    connected = with_nova.json(
        "volume attachment create", "v", "--server", instance, "--connect", "--host", "compute-1", "--ip", "192.0.2.20")
    assert (connected["Status"], connected["Properties"]["access_mode"]) == ("attaching", "ro")
    openstack("volume attachment delete", connected["ID"])
    openstack("volume set", "--read-write", "v")
    openstack("volume delete", "v")


def test_openstacksdk_makes_shows_lists_and_ends_attachments(sdk, as_member):
    volume = available(as_member, as_member.create_volume(size=1))
    instance = new_server()
    attachment = as_member.create_attachment(volume, connector=None, instance=instance)
    assert (attachment.status, attachment.instance) == ("reserved", instance)
    attachment = as_member.update_attachment(attachment, connector=HOST)
    assert attachment.connection_info["driver_volume_type"] == "local"
    as_member.complete_attachment(attachment)
    assert as_member.get_attachment(attachment.id).status == "attached"
    assert [one.id for one in as_member.attachments(volume_id=volume.id, status="attached")] == [attachment.id]
    assert as_member.get_volume(volume).status == "in-use"
    with pytest.raises(exceptions.BadRequestException, match="must not be migrating, attached"):
        as_member.delete_volume(volume)

    # a snapshot of what is in use, and growing it
    snapshot = available(as_member, as_member.create_snapshot(volume_id=volume.id, is_forced=True))
    as_member.extend_volume(volume, 2)
    as_member.wait_for_status(as_member.get_volume(volume), status="in-use", failures=["error"], interval=0.05, wait=60)
    assert as_member.get_volume(volume).size == 2
    as_member.delete_attachment(attachment)
    as_member.delete_snapshot(snapshot)
    gone(as_member, snapshot)
    as_member.delete_volume(volume)
    gone(as_member, volume)


def test_multiattach_volumes_are_shared_until_the_last_lets_go(admin, member):
    name = unique("shared")
    admin.post("/types", {"volume_type": {"name": name, "extra_specs": {"multiattach": "<is> True"}}}, 200)
    volume = member.volume(volume_type=name)
    assert volume["multiattach"] is True
    attachments = []
    for host in (HOST, OTHER_HOST):
        one = member.post("/attachments", {"attachment": {
            "volume_uuid": volume["id"], "instance_uuid": new_server(), "connector": host}}, 200)["attachment"]
        member.action(f"/attachments/{one['id']}", "os-complete", None, 204)
        attachments.append(one["id"])
    assert {one["attachment_id"] for one in shown(member, volume["id"])["attachments"]} == set(attachments)
    detach = member.call("POST", f"/volumes/{volume['id']}/action", {"os-detach": {}})
    assert "More than one attachment, but no attachment_id provided." in fault(detach, 400, "badRequest")
    [left] = member.delete(f"/attachments/{attachments[0]}", 200)["attachments"]
    assert left["id"] == attachments[1]
    assert shown(member, volume["id"])["status"] == "in-use"
    assert member.delete(f"/attachments/{attachments[1]}", 200) == {"attachments": []}
    assert shown(member, volume["id"])["status"] == "available"


def test_another_project_sees_none_of_it(server, member, admin):
    volume = member.volume()
    one = member.post("/attachments", {"attachment": {"volume_uuid": volume["id"], "connector": HOST}}, 200)["attachment"]
    other = unique("project")
    stranger = server.rest(f"eve:{other}", other)
    for method, path, body in [
        ("GET", f"/attachments/{one['id']}", None),
        ("PUT", f"/attachments/{one['id']}", {"attachment": {"connector": HOST}}),
        ("POST", f"/attachments/{one['id']}/action", {"os-complete": None}),
        ("DELETE", f"/attachments/{one['id']}", None),
        ("POST", "/attachments", {"attachment": {"volume_uuid": volume["id"]}}),
        ("POST", f"/volumes/{volume['id']}/action", {"os-detach": {"attachment_id": one["id"]}}),
        ("POST", f"/volumes/{volume['id']}/action", {"os-terminate_connection": {"connector": HOST}}),
    ]:
        assert stranger.call(method, path, body).status_code == 404, (method, path)
    assert stranger.get("/attachments") == {"attachments": []}
    assert stranger.get("/attachments?all_tenants=1") == {"attachments": []}
    operators = server.rest(f"admin:{other}", other)
    assert one["id"] not in [row["id"] for row in operators.get("/attachments")["attachments"]]
    assert one["id"] in [row["id"] for row in operators.get("/attachments?all_tenants=1")["attachments"]]
    assert member.get(f"/attachments/{one['id']}")["attachment"]["status"] == "attaching"


def test_lists_are_paged_filtered_and_sorted(member):
    made = []
    for _ in range(3):
        volume, instance = member.volume(), new_server()
        one = member.post("/attachments", {"attachment": {"volume_uuid": volume["id"], "instance_uuid": instance}}, 200)
        made.append(one["attachment"])
    ids = [one["id"] for one in made]

    def listed(query: str) -> list[str]:
        return [one["id"] for one in member.get(f"/attachments{query}")["attachments"]]

    assert listed("") == ids[::-1]
    assert listed("?sort_key=created_at&sort_dir=asc") == ids
    assert listed("?limit=2") == ids[:0:-1]
    assert listed(f"?limit=2&marker={ids[1]}") == ids[:1]
    assert listed("?offset=1&limit=1") == [ids[1]]
    assert listed(f"?instance_id={made[1]['instance']}") == [ids[1]]
    assert listed(f"?volume_id={made[2]['volume_id']}") == [ids[2]]
    assert listed("?attach_status=attached") == []
    [brief] = member.get(f"/attachments?instance_id={made[0]['instance']}")["attachments"]
    assert set(brief) == {"id", "status", "instance", "volume_id"}
    [detail] = member.get(f"/attachments/detail?instance_id={made[0]['instance']}")["attachments"]
    assert detail == made[0]
    fault(member.call("GET", f"/attachments?marker={new_server()}"), 404, "itemNotFound")


@pytest.mark.parametrize(("body", "version"), [
    ({}, NEWEST), ({"attachment": None}, NEWEST), ({"attachment": {}}, NEWEST),
    ({"attachment": {"volume_uuid": "x"}}, NEWEST),
    ({"attachment": {"volume_uuid": None}}, NEWEST),
    ({"attachment": {"volume_uuid": "VOLUME", "instance_uuid": "x"}}, NEWEST),
    ({"attachment": {"volume_uuid": "VOLUME", "connector": "x"}}, NEWEST),
    ({"attachment": {"volume_uuid": "VOLUME", "connector": {"initiator": "no name; rm -rf"}}}, NEWEST),
    ({"attachment": {"volume_uuid": "VOLUME", "connector": {"ip": "ALL"}}}, NEWEST),
    ({"attachment": {"volume_uuid": "VOLUME", "mode": "rx"}}, NEWEST),
    ({"attachment": {"volume_uuid": "VOLUME", "mode": "ro"}}, "3.53"),
    ({"attachment": {"volume_uuid": "VOLUME", "color": "red"}}, NEWEST),
])
def test_a_body_that_is_none_reserves_nothing(member, body, version):
    volume = member.volume()
    if body.get("attachment", {}) and body["attachment"].get("volume_uuid") == "VOLUME":
        body = {"attachment": body["attachment"] | {"volume_uuid": volume["id"]}}
    fault(member.call("POST", "/attachments", body, version=version), 400, "badRequest")
    assert shown(member, volume["id"])["status"] == "available"
    assert member.get("/attachments") == {"attachments": []}


def test_attachments_came_with_3_27_and_their_completion_with_3_44(member):
    volume = member.volume()
    for method, path in [("GET", "/attachments"), ("POST", "/attachments"), ("GET", f"/attachments/{new_server()}")]:
        body = {"attachment": {"volume_uuid": volume["id"]}} if method == "POST" else None
        assert member.call(method, path, body, version="3.26").status_code == 404, (method, path)
    one = member.post("/attachments", {"attachment": {"volume_uuid": volume["id"]}}, 200, version="3.27")["attachment"]
    action = {"os-complete": None}
    assert member.call("POST", f"/attachments/{one['id']}/action", action, version="3.43").status_code == 404
    assert shown(member, volume["id"])["status"] == "reserved"
    member.post(f"/attachments/{one['id']}/action", action, 204, version="3.44")
    assert shown(member, volume["id"])["status"] == "in-use"


# The old way.


def test_nova_attaches_the_old_way(server, old, admin):
    """os-reserve, os-initialize_connection, os-attach; os-begin_detaching, os-terminate_connection, os-detach."""
    volume, instance = admin.volume(), new_server()
    path = server.volume_file(volume["id"])
    old.volumes.reserve(volume["id"])
    assert shown(admin, volume["id"])["status"] == "attaching"
    info = old.volumes.initialize_connection(volume["id"], HOST)
    assert (info["driver_volume_type"], info["data"]["device_path"]) == ("local", str(path))
    assert (info["data"]["access_mode"], info["enforce_multipath"]) == ("rw", False)
    old.volumes.attach(volume["id"], instance, "/dev/vdb", mode="rw", host_name="compute-1")
    in_use = shown(admin, volume["id"])
    assert in_use["status"] == "in-use"
    [attachment] = in_use["attachments"]
    assert (attachment["server_id"], attachment["device"], attachment["host_name"]) == (instance, "/dev/vdb", "compute-1")

    old.volumes.begin_detaching(volume["id"])
    assert shown(admin, volume["id"])["status"] == "detaching"
    old.volumes.roll_detaching(volume["id"])
    assert shown(admin, volume["id"])["status"] == "in-use"
    old.volumes.begin_detaching(volume["id"])
    old.volumes.terminate_connection(volume["id"], HOST)
    [attachment] = shown(admin, volume["id"])["attachments"]
    old.volumes.detach(volume["id"], attachment["attachment_id"])
    free = shown(admin, volume["id"])
    assert (free["status"], free["attachments"]) == ("available", [])
    assert admin.get("/attachments") == {"attachments": []}
    admin.delete(f"/volumes/{volume['id']}")


def test_a_boot_that_fails_gives_the_volume_back(sdk, admin):
    volume = admin.volume()
    sdk.reserve_volume(volume["id"])
    with pytest.raises(exceptions.BadRequestException, match="Volume status must be available to reserve, but the status is attaching."):
        sdk.reserve_volume(volume["id"])
    sdk.unreserve_volume(volume["id"])
    assert shown(admin, volume["id"])["status"] == "available"
    # nothing to give back: nothing happens
    sdk.unreserve_volume(volume["id"])

    sdk.reserve_volume(volume["id"])
    sdk.init_volume_attachment(volume["id"], HOST)
    sdk.terminate_volume_attachment(volume["id"], HOST)
    assert shown(admin, volume["id"])["status"] == "available"
    assert admin.get("/attachments") == {"attachments": []}
    # twice is once
    sdk.terminate_volume_attachment(volume["id"], HOST)
    assert shown(admin, volume["id"])["status"] == "available"


def test_what_is_attached_by_hand_is_detached_by_hand(sdk, admin):
    """As tempest does it, without a server that exists."""
    volume = admin.volume()
    sdk.attach_volume(volume["id"], "/dev/vdc", instance=new_server())
    [attachment] = shown(admin, volume["id"])["attachments"]
    assert attachment["device"] == "/dev/vdc"
    with pytest.raises(exceptions.BadRequestException, match="volume is already attached"):
        sdk.attach_volume(volume["id"], "/dev/vdd", instance=new_server())
    sdk.begin_volume_detaching(volume["id"])
    sdk.abort_volume_detaching(volume["id"])
    sdk.detach_volume(volume["id"], attachment["attachment_id"])
    assert shown(admin, volume["id"])["status"] == "available"
    with pytest.raises(exceptions.BadRequestException, match="Volume status must be 'in-use' and attach_status must be 'attached' to detach."):
        sdk.begin_volume_detaching(volume["id"])

    sdk.attach_volume(volume["id"], "/dev/vdc", host_name="compute-9")
    [attachment] = shown(admin, volume["id"])["attachments"]
    assert (attachment["server_id"], attachment["host_name"]) == (None, "compute-9")
    admin.action(f"/volumes/{volume['id']}", "os-detach", None)
    assert shown(admin, volume["id"])["status"] == "available"


def test_an_administrator_forces_what_does_not_let_go(sdk, as_member, admin):
    volume = admin.volume()
    sdk.reserve_volume(volume["id"])
    sdk.init_volume_attachment(volume["id"], HOST)
    sdk.attach_volume(volume["id"], "/dev/vdb", instance=new_server())
    [attachment] = shown(admin, volume["id"])["attachments"]
    with pytest.raises(exceptions.ForbiddenException):
        as_member.detach_volume(volume["id"], attachment["attachment_id"], force=True, connector=HOST)
    sdk.detach_volume(volume["id"], attachment["attachment_id"], force=True, connector=HOST)
    assert (shown(admin, volume["id"])["status"], shown(admin, volume["id"])["attachments"]) == ("available", [])
    assert admin.get("/attachments") == {"attachments": []}


def test_a_read_only_volume_is_attached_for_reading_only(old, admin):
    volume = admin.volume()
    old.volumes.update_readonly_flag(volume["id"], True)
    info = old.volumes.initialize_connection(volume["id"], HOST)
    assert info["data"]["access_mode"] == "ro"
    with pytest.raises(ClientException, match="Invalid attaching mode 'rw' for volume"):
        old.volumes.attach(volume["id"], new_server(), "/dev/vdb", mode="rw")
    old.volumes.attach(volume["id"], new_server(), "/dev/vdb", mode="ro")
    assert shown(admin, volume["id"])["metadata"].get("attached_mode", "ro") == "ro"
    old.volumes.terminate_connection(volume["id"], HOST)
    admin.action(f"/volumes/{volume['id']}", "os-detach", {})
    assert shown(admin, volume["id"])["status"] == "available"


def test_what_is_in_use_can_be_grown_only_with_3_42(member):
    volume = member.volume()
    one = member.post("/attachments", {"attachment": {"volume_uuid": volume["id"], "connector": HOST}}, 200)["attachment"]
    member.action(f"/attachments/{one['id']}", "os-complete", None, 204)
    extend = {"os-extend": {"new_size": 2}}
    refused = member.call("POST", f"/volumes/{volume['id']}/action", extend, version="3.41")
    fault(refused, 400, "badRequest")
    member.post(f"/volumes/{volume['id']}/action", extend, version="3.42")
    assert member.settled("volumes", volume["id"], "in-use")["size"] == 2
    snapshot = {"snapshot": {"volume_id": volume["id"]}}
    refused = fault(member.call("POST", "/snapshots", snapshot, version="3.65"), 400, "badRequest")
    assert "in-use" in refused
    forced = {"snapshot": {"volume_id": volume["id"], "force": True}}
    taken = member.post("/snapshots", forced, version="3.65")["snapshot"]
    member.settled("snapshots", taken["id"])
    # since 3.66 nobody has to ask twice
    taken = member.post("/snapshots", snapshot, version="3.66")["snapshot"]
    member.settled("snapshots", taken["id"])
    member.delete(f"/attachments/{one['id']}", 200)
