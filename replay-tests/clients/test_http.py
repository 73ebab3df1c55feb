"""What is on the wire and no client shows: versions, exact bodies, lists, repeats, the ledger."""

import hashlib
import threading

import pytest
import requests

from tephra_server import Rest, fault, gib, unique, until

LINKS = {"self", "bookmark"}

VOLUME_3_0 = {
    "id", "status", "size", "availability_zone", "created_at", "updated_at", "name", "description",
    "volume_type", "snapshot_id", "source_volid", "metadata", "links", "user_id", "bootable", "encrypted",
    "replication_status", "consistencygroup_id", "multiattach", "attachments", "os-vol-tenant-attr:tenant_id",
}
VOLUME_3_71 = VOLUME_3_0 | {"group_id", "shared_targets", "service_uuid", "volume_type_id", "consumes_quota"}
VOLUME_ADMIN_3_0 = {"migration_status", "os-vol-host-attr:host", "os-vol-mig-status-attr:migstat", "os-vol-mig-status-attr:name_id"}
VOLUME_ADMIN_3_71 = VOLUME_ADMIN_3_0 | {"provider_id", "cluster_name"}
OPTIONAL = {"encryption_key_id", "volume_image_metadata"}

SNAPSHOT_3_0 = {
    "id", "name", "description", "volume_id", "status", "size", "metadata", "created_at", "updated_at",
    "os-extended-snapshot-attributes:project_id", "os-extended-snapshot-attributes:progress",
}
SNAPSHOT_3_71 = SNAPSHOT_3_0 | {"group_snapshot_id", "user_id", "consumes_quota"}


def test_version_documents_need_no_token(server):
    bare = Rest(server, None, None, None)
    many = bare.call("GET", f"{server.url}/")
    assert many.status_code == 300
    [version] = [entry for entry in many.json()["versions"] if entry["id"] == "v3.0"]
    assert (version["status"], version["version"], version["min_version"]) == ("CURRENT", "3.71", "3.0")
    for path in ("/v3", "/v3/"):
        one = bare.call("GET", server.url + path)
        assert one.status_code == 200, one.text
        assert one.json()["versions"][0]["version"] == "3.71"


@pytest.mark.parametrize(("asked", "status", "answered"), [
    (None, 200, "3.0"), ("volume 3.0", 200, "3.0"), ("volume 3.27", 200, "3.27"), ("volume 3.71", 200, "3.71"),
    ("volume latest", 200, "3.71"), ("compute 2.1,volume 3.5", 200, "3.5"),
    ("volume 3.72", 406, None), ("volume 3.999", 406, None), ("volume 2.0", 406, None), ("volume 4.0", 406, None),
    ("volume 3", 400, None), ("volume three", 400, None), ("volume 3.x", 400, None), ("volume 3.1.2", 400, None),
    ("volume -3.1", 400, None),
])
def test_microversions_are_negotiated(server, project, asked, status, answered):
    headers = {"OpenStack-API-Version": asked} if asked else {}
    answer = Rest(server, f"mia:{project}", project, None).call("GET", "/volumes", headers=headers)
    assert answer.status_code == status, answer.text
    if answered:
        assert answer.headers["OpenStack-API-Version"] == f"volume {answered}"
        assert "OpenStack-API-Version" in answer.headers["Vary"]
    assert answer.headers["x-compute-request-id"].startswith("req-")


def test_bodies_have_exactly_cinders_keys(member, admin):
    volume = member.volume(name="v", metadata={"a": "b"})
    snapshot = member.snapshot(volume["id"], name="s")

    def keys(rest, path, name, version):
        return set(rest.get(path, version=version)[name]) - OPTIONAL

    path = f"/volumes/{volume['id']}"
    assert keys(member, path, "volume", "3.0") == VOLUME_3_0
    assert keys(member, path, "volume", "3.71") == VOLUME_3_71
    assert keys(admin, path, "volume", "3.0") == VOLUME_3_0 | VOLUME_ADMIN_3_0
    assert keys(admin, path, "volume", "3.71") == VOLUME_3_71 | VOLUME_ADMIN_3_71
    path = f"/snapshots/{snapshot['id']}"
    assert keys(member, path, "snapshot", "3.0") == SNAPSHOT_3_0
    assert keys(member, path, "snapshot", "3.71") == SNAPSHOT_3_71
    assert set(member.get("/volumes")["volumes"][0]) == {"id", "name", "links"}
    assert set(member.get("/volumes/detail")["volumes"][0]) - OPTIONAL == VOLUME_3_71


def test_values_have_cinders_form(server, member, project):
    volume = member.volume(name="v")
    assert volume["bootable"] == "false"
    assert volume["attachments"] == []
    assert volume["encrypted"] is False
    assert volume["volume_type"] == "__DEFAULT__"
    assert volume["os-vol-tenant-attr:tenant_id"] == project
    assert len(volume["created_at"]) == 26 and volume["created_at"][10] == "T" and "Z" not in volume["created_at"]
    links = {link["rel"]: link["href"] for link in volume["links"]}
    assert links == {"self": f"{server.url}/v3/{project}/volumes/{volume['id']}",
                     "bookmark": f"{server.url}/{project}/volumes/{volume['id']}"}
    assert Rest(server, f"mia:{project}", None, "3.71").get(f"/volumes/{volume['id']}")["volume"]["id"] == volume["id"]


def test_a_post_is_seen_by_the_very_next_get(member):
    for n in range(5):
        created = member.post("/volumes", {"volume": {"size": 1, "name": f"v{n}"}})["volume"]
        assert member.get(f"/volumes/{created['id']}")["volume"]["name"] == f"v{n}"
        assert created["id"] in [row["id"] for row in member.get("/volumes")["volumes"]]
        member.put(f"/volumes/{created['id']}", {"volume": {"name": "renamed"}})
        assert member.get(f"/volumes/{created['id']}")["volume"]["name"] == "renamed"


# Lists.

@pytest.fixture
def five(member):
    """Five volumes, a snapshot of each, by name; oldest first."""
    made = {}
    for n, size in enumerate((3, 1, 2, 1, 2)):
        volume = member.volume(size, name=f"v{n}", metadata={"parity": str(n % 2)}, description=f"number {n}")
        made[volume["name"]] = volume
        member.snapshot(volume["id"], name=f"s{n}")
    return made


def test_pages_join_into_the_whole_list(member, five):
    for collection, prefix in (("volumes", "v"), ("snapshots", "s")):
        for detail in ("", "/detail"):
            seen, path = [], f"/{collection}{detail}?limit=2"
            for _ in range(4):
                page = member.get(path)
                seen += [row["name"] for row in page[collection]]
                following = [link["href"] for link in page.get(f"{collection}_links", []) if link["rel"] == "next"]
                if not following:
                    break
                path = following[0]
            assert seen == [f"{prefix}{n}" for n in (4, 3, 2, 1, 0)], (collection, detail)


def test_limits_markers_and_offsets(member, five):
    def names(query):
        return [row["name"] for row in member.get(f"/volumes?{query}")["volumes"]]

    assert names("limit=0") == []
    assert names("limit=100000") == ["v4", "v3", "v2", "v1", "v0"]
    assert names("offset=3") == ["v1", "v0"]
    assert names(f"marker={five['v3']['id']}&limit=2") == ["v2", "v1"]
    assert names(f"marker={five['v3']['id']}&offset=1&limit=1") == ["v1"]
    assert names("sort=size:asc,name:desc") == ["v3", "v1", "v4", "v2", "v0"]
    assert names("sort_key=name&sort_dir=asc&limit=2") == ["v0", "v1"]
    # A marker within a sorted list goes on in that order, also between equals.
    assert names(f"sort=size:asc,name:desc&marker={five['v1']['id']}") == ["v4", "v2", "v0"]
    assert member.get("/volumes?with_count=true&limit=1")["count"] == 5
    assert member.get("/snapshots?with_count=true&limit=1")["count"] == 5
    assert "count" not in member.get("/volumes?limit=1")


@pytest.mark.parametrize("query", [
    "limit=-1", "limit=abc", "offset=-1", "offset=abc", "sort=name:sideways", "sort=banana", "sort=name&sort_key=id",
    "created_at=banana", "created_at=gt:yesterday", "created_at=near:2020-01-01T00:00:00", "banana=1",
    "with_count=banana",
])
@pytest.mark.parametrize("collection", ["volumes", "snapshots"])
def test_wrong_list_parameters_are_refused(member, collection, query):
    fault(member.call("GET", f"/{collection}?{query}"), 400, "badRequest")


def test_an_unknown_marker_is_not_found(member):
    nowhere = "11111111-2222-3333-4444-555555555555"
    fault(member.call("GET", f"/volumes?marker={nowhere}"), 404, "itemNotFound")
    fault(member.call("GET", f"/snapshots?marker={nowhere}"), 404, "itemNotFound")


def test_filters_choose(member, admin, five):
    def names(collection, query, rest=member):
        return sorted(row["name"] for row in rest.get(f"/{collection}?{query}")[collection])

    assert names("volumes", "name=v2") == ["v2"]
    # Cinder lets administrators alone search for parts of names, unless it is configured otherwise.
    assert names("volumes", "name~=v", admin) == ["v0", "v1", "v2", "v3", "v4"]
    assert names("volumes", "status=available&size=1") == ["v1", "v3"]
    assert names("volumes", "status=error") == []
    assert names("volumes", "metadata={'parity':'1'}") == ["v1", "v3"]
    assert names("volumes", "bootable=true") == []
    assert names("volumes", "bootable=false&limit=10") == ["v0", "v1", "v2", "v3", "v4"]
    assert names("volumes", f"created_at=gt:{five['v3']['created_at']}") == ["v4"]
    assert names("volumes", f"created_at=lte:{five['v1']['created_at']}") == ["v0", "v1"]
    assert names("volumes", "availability_zone=nova") == ["v0", "v1", "v2", "v3", "v4"]
    assert names("snapshots", f"volume_id={five['v1']['id']}") == ["s1"]
    assert names("snapshots", "name=s3") == ["s3"]
    assert names("snapshots", "status=available&name~=s4", admin) == ["s4"]


# Repeats.

def test_a_repeated_post_with_the_same_key_happens_once(member):
    key = {"Idempotency-Key": unique("key")}
    body = {"volume": {"size": 1, "name": "once"}}
    first = member.post("/volumes", body, headers=key)["volume"]
    again = member.post("/volumes", body, headers=key)["volume"]
    assert again["id"] == first["id"]
    assert len(member.get("/volumes")["volumes"]) == 1
    other = member.call("POST", "/volumes", {"volume": {"size": 2, "name": "other"}}, headers=key)
    assert 400 <= other.status_code < 500, other.text
    assert "Idempotency-Key" in other.text
    assert len(member.get("/volumes")["volumes"]) == 1


def test_a_repeated_action_with_the_same_key_happens_once(member):
    volume = member.volume()
    key = {"Idempotency-Key": unique("key")}
    member.action(f"/volumes/{volume['id']}", "os-extend", {"new_size": 2}, headers=key)
    member.settled("volumes", volume["id"])
    member.action(f"/volumes/{volume['id']}", "os-extend", {"new_size": 2}, headers=key)
    assert member.settled("volumes", volume["id"])["size"] == 2


def test_the_same_key_sent_many_times_at_once_happens_once(server, project, member):
    key = unique("key")
    ids, lock = set(), threading.Lock()

    def post():
        answer = server.rest(f"mia:{project}", project).call(
            "POST", "/volumes", {"volume": {"size": 1}}, headers={"Idempotency-Key": key})
        with lock:
            ids.add(answer.json()["volume"]["id"] if answer.status_code == 202 else answer.text)

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 1, ids
    assert len(member.get("/volumes")["volumes"]) == 1


def test_keys_of_different_projects_do_not_meet(server):
    key = {"Idempotency-Key": unique("key")}
    ids = set()
    for project in (unique("p"), unique("p")):
        rest = server.rest(f"mia:{project}", project)
        ids.add(rest.post("/volumes", {"volume": {"size": 1}}, headers=key)["volume"]["id"])
    assert len(ids) == 2


# Metadata.

def test_metadata_of_volumes_and_snapshots(member):
    volume = member.volume()
    snapshot = member.snapshot(volume["id"])
    for path in (f"/volumes/{volume['id']}/metadata", f"/snapshots/{snapshot['id']}/metadata"):
        assert member.post(path, {"metadata": {"a": "1", "b": "2"}}, 200)["metadata"] == {"a": "1", "b": "2"}
        assert member.get(path)["metadata"] == {"a": "1", "b": "2"}
        assert member.get(f"{path}/a")["meta"] == {"a": "1"}
        assert member.put(f"{path}/a", {"meta": {"a": "3"}})["meta"] == {"a": "3"}
        fault(member.call("PUT", f"{path}/a", {"meta": {"b": "3"}}), 400, "badRequest")
        member.delete(f"{path}/b", 200)
        fault(member.call("DELETE", f"{path}/b"), 404, "itemNotFound")
        fault(member.call("GET", f"{path}/b"), 404, "itemNotFound")
        assert member.put(path, {"metadata": {"z": "9"}})["metadata"] == {"z": "9"}


def test_stale_metadata_is_not_overwritten(member):
    path = f"/volumes/{member.volume(metadata={'a': '1'})['id']}/metadata"
    tag = member.call("GET", path).headers["ETag"].strip('"')
    assert tag == hashlib.md5(b'{"metadata": {"a": "1"}}').hexdigest() or len(tag) == 32
    member.put(path, {"metadata": {"a": "2"}}, headers={"If-Match": f'"{tag}"'})
    answer = member.call("PUT", path, {"metadata": {"a": "3"}}, headers={"If-Match": f'"{tag}"'})
    assert answer.status_code == 412, answer.text
    assert member.get(path)["metadata"] == {"a": "2"}


# States.

def test_wrong_states_are_refused_with_cinders_codes(member, admin):
    volume = member.volume()
    snapshot = member.snapshot(volume["id"])
    path = f"/volumes/{volume['id']}"
    admin.action(path, "os-reset_status", {"status": "maintenance"})
    admin.settled("volumes", volume["id"], "maintenance")
    for method, where, body, status, name in (
        ("POST", f"{path}/action", {"os-extend": {"new_size": 2}}, 400, "badRequest"),
        ("DELETE", path, None, 400, "badRequest"),
        ("POST", "/snapshots", {"snapshot": {"volume_id": volume["id"]}}, 400, "badRequest"),
        ("POST", "/volumes", {"volume": {"source_volid": volume["id"]}}, 400, "badRequest"),
        ("POST", f"{path}/action", {"revert": {"snapshot_id": snapshot["id"]}}, 409, "conflictingRequest"),
    ):
        assert "nvalid volume" in fault(member.call(method, where, body), status, name)
    admin.action(path, "os-reset_status", {"status": "available"})
    member.settled("volumes", volume["id"])
    admin.action(f"/snapshots/{snapshot['id']}", "os-reset_status", {"status": "error"})
    fault(member.call("POST", f"{path}/action", {"revert": {"snapshot_id": snapshot["id"]}}), 409, "conflictingRequest")
    fault(member.call("POST", "/volumes", {"volume": {"snapshot_id": snapshot["id"]}}), 400, "badRequest")
    fault(member.call("POST", f"{path}/action", {"revert": {"snapshot_id": None}}), 400, "badRequest")


def test_routes_of_later_versions_are_not_there_in_earlier_ones(member):
    volume = member.volume()
    snapshot = member.snapshot(volume["id"])
    body = {"revert": {"snapshot_id": snapshot["id"]}}
    assert member.call("POST", f"/volumes/{volume['id']}/action", body, version="3.39").status_code in (400, 404)
    assert member.call("GET", "/volumes/summary", version="3.11").status_code == 404
    member.get("/volumes/summary", version="3.12")
    assert "metadata" not in member.get("/volumes/summary", version="3.35")["volume-summary"]
    assert "metadata" in member.get("/volumes/summary", version="3.36")["volume-summary"]
    fault(member.call("GET", "/volumes?with_count=true", version="3.44"), 400, "badRequest")


# The ledger's own door.

def test_the_ledger_tells_who_did_what_and_verifies(server, member, project):
    volume = member.volume(name="v")
    member.action(f"/volumes/{volume['id']}", "os-extend", {"new_size": 2})
    member.settled("volumes", volume["id"])

    def ledger(path, token, status=200):
        answer = requests.get(f"{server.url}/ledger/v1{path}", headers={"X-Auth-Token": token}, timeout=30)
        assert answer.status_code == status, answer.text
        return answer.json()

    events = ledger(f"/events?resource=volume:{volume['id']}&limit=100", f"mia:{project}")["events"]
    kinds = [event["kind"] for event in events]
    assert kinds == ["VolumeCreateAccepted", "VolumeCreated", "VolumeExtendAccepted", "VolumeExtended"]
    assert (events[0]["actor"]["user"], events[0]["actor"]["project"]) == ("mia", project)
    assert all(event["resource"] == {"kind": "volume", "id": volume["id"]} for event in events)

    for path in (f"/events?resource=volume:{volume['id']}", f"/volumes/{volume['id']}/state"):
        answer = requests.get(f"{server.url}/ledger/v1{path}", headers={"X-Auth-Token": "sam:elsewhere"}, timeout=30)
        assert answer.status_code == 404 or answer.json().get("events") == [], answer.text

    assert ledger("/operations?status=open", f"mia:{project}")["operations"] == []
    assert ledger("/debts", f"admin:{project}")["debts"] == []
    assert ledger("/verify", f"admin:{project}")["intact"] is True


def test_health_and_metrics_are_open(server):
    for path in ("/healthz", "/readyz"):
        assert requests.get(server.url + path, timeout=10).status_code == 200
    metrics = requests.get(f"{server.url}/metrics", timeout=10)
    assert metrics.status_code == 200 and "# TYPE" in metrics.text


def test_a_clean_stop_and_start_keep_everything(tmp_path):
    from tephra_server import Server, content, write

    own = Server(tmp_path).start()
    rest = own.rest("mia:shop", "shop")
    volume = rest.volume(name="kept")
    write(own.volume_file(volume["id"]), "kept")
    kept = content(own.volume_file(volume["id"]))
    listed = rest.get("/volumes/detail")
    own.stop()
    own.start()
    assert rest.get("/volumes/detail") == listed
    assert content(own.volume_file(volume["id"])) == kept
    assert own.volume_file(volume["id"]).stat().st_size == gib(1)
    rest.delete(f"/volumes/{volume['id']}")
    rest.gone("volumes", volume["id"])
    until("the file is gone", lambda: not own.volume_file(volume["id"]).exists())
    own.stop()
