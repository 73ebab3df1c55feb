"""What bad input gets: Cinder's status and body, never a half-done change, never a 500."""

import os
import socket
import time

import pytest

from tephra_server import Rest, Server, fault, until

NOWHERE = "11111111-2222-3333-4444-555555555555"
LONG = "x" * 256


@pytest.fixture(scope="module")
def shop(server):
    """A project with one volume and one snapshot, which nothing here may change."""
    rest = server.rest("mia:bad-input", "bad-input")
    volume = rest.volume(name="v")
    snapshot = rest.snapshot(volume["id"], name="s")
    rest.volume_id, rest.snapshot_id = volume["id"], snapshot["id"]
    before = (rest.get("/volumes/detail"), rest.get("/snapshots/detail"))
    yield rest
    assert (rest.get("/volumes/detail"), rest.get("/snapshots/detail")) == before, "bad input changed something"


RAW_BODIES = {
    "empty": "", "half": '{"volume": {"size": 1', "words": "size=1", "null": "null", "number": "1", "string": '"volume"',
    "list": "[]", "bare object": "{}", "trailing": '{"volume": {"size": 1}} x', "not utf-8": b'{"volume": {"name": "\xff\xfe"}}',
    "nested": "[" * 100_000, "NaN": '{"volume": {"size": NaN}}', "volume null": '{"volume": null}',
    "volume list": '{"volume": []}', "volume string": '{"volume": "x"}', "two roots": '{"volume": {"size": 1}, "more": 1}',
}


@pytest.mark.parametrize("name", RAW_BODIES)
def test_malformed_bodies_are_refused(shop, name):
    fault(shop.call("POST", "/volumes", data=RAW_BODIES[name]), 400, "badRequest")


CREATE = {
    "size zero": ({"size": 0}, 400), "size negative": ({"size": -1}, 400), "size fraction": ({"size": 1.5}, 400),
    "size words": ({"size": "abc"}, 400), "size empty": ({"size": ""}, 400), "size fraction as text": ({"size": "1.5"}, 400),
    "size true": ({"size": True}, 400), "size list": ({"size": [1]}, 400), "size null": ({"size": None}, 400),
    "size missing": ({}, 400), "size beyond 31 bits": ({"size": 2**31}, 400), "size beyond 64 bits": ({"size": 2**70}, 400),
    "size over quota": ({"size": 100_000}, 413),
    "name too long": ({"size": 1, "name": LONG}, 400), "name number": ({"size": 1, "name": 7}, 400),
    "name list": ({"size": 1, "name": ["v"]}, 400), "description too long": ({"size": 1, "description": LONG}, 400),
    "metadata list": ({"size": 1, "metadata": []}, 400), "metadata number": ({"size": 1, "metadata": {"a": 1}}, 400),
    "metadata nested": ({"size": 1, "metadata": {"a": {"b": "c"}}}, 400),
    "metadata key long": ({"size": 1, "metadata": {LONG: "a"}}, 400),
    "metadata value long": ({"size": 1, "metadata": {"a": LONG}}, 400),
    "metadata key empty": ({"size": 1, "metadata": {"": "a"}}, 400),
    "unknown key": ({"size": 1, "banana": 1}, 400), "unknown type": ({"size": 1, "volume_type": "banana"}, 404),
    "type number": ({"size": 1, "volume_type": 7}, 400), "unknown zone": ({"size": 1, "availability_zone": "mars"}, 400),
    "unknown snapshot": ({"snapshot_id": NOWHERE}, 404), "snapshot no id": ({"snapshot_id": "banana"}, 400),
    "unknown source": ({"source_volid": NOWHERE}, 404), "source no id": ({"source_volid": "banana"}, 400),
    "multiattach": ({"size": 1, "multiattach": True}, 400),
}


@pytest.mark.parametrize("name", CREATE)
def test_wrong_creates_are_refused(shop, name):
    body, status = CREATE[name]
    names = {400: "badRequest", 404: "itemNotFound", 413: "overLimit"}
    answer = shop.call("POST", "/volumes", {"volume": body})
    fault(answer, status, names[status])
    if status == 413:
        assert answer.headers["Retry-After"] == "0"


def test_sizes_as_text_and_unknown_keys_are_taken_where_cinder_takes_them(server):
    rest = server.rest("mia:lenient", "lenient")
    assert rest.post("/volumes", {"volume": {"size": "1"}})["volume"]["size"] == 1
    rest.post("/volumes", {"volume": {"size": 1, "banana": 1}}, version="3.52")
    assert rest.post("/volumes", {"volume": {"size": 1, "name": "  padded  "}})["volume"]["name"] == "padded"
    rest.post("/volumes", {"volume": {"size": 1, "name": "x" * 255, "description": "y" * 255}})
    rest.post("/volumes", {"volume": {"size": 1, "name": "größer 卷 🪣"}})


def test_smaller_than_its_source_is_refused(server):
    rest = server.rest("mia:small", "small")
    volume = rest.volume(2)
    snapshot = rest.snapshot(volume["id"])
    for source in ({"snapshot_id": snapshot["id"]}, {"source_volid": volume["id"]}):
        message = fault(rest.call("POST", "/volumes", {"volume": {"size": 1, **source}}), 400, "badRequest")
        assert "cannot be smaller" in message


ACTIONS = {
    "unknown": ({"os-banana": {}}, 400), "none": ({}, 400), "two": ({"os-extend": {"new_size": 2}, "revert": {}}, 400),
    "extend nothing": ({"os-extend": {}}, 400), "extend null": ({"os-extend": None}, 400),
    "extend zero": ({"os-extend": {"new_size": 0}}, 400), "extend words": ({"os-extend": {"new_size": "abc"}}, 400),
    "extend negative": ({"os-extend": {"new_size": -2}}, 400), "extend fraction": ({"os-extend": {"new_size": 1.5}}, 400),
    "extend huge": ({"os-extend": {"new_size": 2**40}}, 400), "extend same": ({"os-extend": {"new_size": 1}}, 400),
    "extend over quota": ({"os-extend": {"new_size": 100_000}}, 413), "extend more": ({"os-extend": {"new_size": 2, "x": 1}}, 400),
    "revert unknown": ({"revert": {"snapshot_id": NOWHERE}}, 400), "revert number": ({"revert": {"snapshot_id": 1}}, 400),
    "bootable words": ({"os-set_bootable": {"bootable": "perhaps"}}, 400), "bootable missing": ({"os-set_bootable": {}}, 400),
    "readonly words": ({"os-update_readonly_flag": {"readonly": "perhaps"}}, 400),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_wrong_actions_are_refused(shop, name):
    body, status = ACTIONS[name]
    answer = shop.call("POST", f"/volumes/{shop.volume_id}/action", body)
    fault(answer, status, {400: "badRequest", 413: "overLimit"}[status])


@pytest.mark.parametrize("status", ["banana", "", 7, None, "deleting", "in-use"])
def test_states_that_cannot_be_set_are_refused(server, shop, status):
    admin = server.rest("admin:bad-input", "bad-input")
    answer = admin.call("POST", f"/volumes/{shop.volume_id}/action", {"os-reset_status": {"status": status}})
    fault(answer, 400, "badRequest")


SNAPSHOTS = {
    "nothing": ({}, 400), "unknown volume": ({"volume_id": NOWHERE}, 404), "volume no id": ({"volume_id": "banana"}, 400),
    "volume number": ({"volume_id": 1}, 400), "forced since 3.66": ({"force": False}, 400), "name long": ({"name": LONG}, 400),
    "force words": ({"force": "perhaps"}, 400), "unknown key": ({"banana": 1}, 400), "metadata number": ({"metadata": {"a": 1}}, 400),
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_wrong_snapshots_are_refused(shop, name):
    body, status = SNAPSHOTS[name]
    body = body if name == "nothing" else {"volume_id": shop.volume_id, **body}
    fault(shop.call("POST", "/snapshots", {"snapshot": body}), status, {400: "badRequest", 404: "itemNotFound"}[status])


@pytest.mark.parametrize("body", [{}, {"volume": {}}, {"volume": None}, {"volume": {"banana": 1}}, {"volume": {"name": LONG}},
                                  {"volume": {"size": 2}}, {"volume": {"metadata": {"a": 1}}}])
def test_wrong_updates_are_refused(shop, body):
    fault(shop.call("PUT", f"/volumes/{shop.volume_id}", body), 400, "badRequest")


@pytest.mark.parametrize("resource", [NOWHERE, "banana", "..%2f..%2fetc%2fpasswd", "%00", "x" * 2000, "💾"])
def test_unknown_ids_are_not_found(shop, resource):
    for method, path, body in (
        ("GET", f"/volumes/{resource}", None), ("DELETE", f"/volumes/{resource}", None),
        ("PUT", f"/volumes/{resource}", {"volume": {"name": "x"}}),
        ("POST", f"/volumes/{resource}/action", {"os-extend": {"new_size": 2}}),
        ("GET", f"/volumes/{resource}/metadata", None), ("GET", f"/snapshots/{resource}", None),
        ("DELETE", f"/snapshots/{resource}", None),
    ):
        answer = shop.call(method, path, body)
        assert answer.status_code == 404, f"{method} {path}: {answer.status_code} {answer.text}"
    fault(shop.call("GET", f"/types/{NOWHERE}"), 404, "itemNotFound")


def test_another_projects_resources_look_like_none(server, shop):
    stranger = server.rest("sam:elsewhere", "elsewhere")
    for collection, theirs in (("volumes", shop.volume_id), ("snapshots", shop.snapshot_id)):
        attempts = [("GET", "", None), ("DELETE", "", None), ("PUT", "", {collection.rstrip("s"): {"name": "mine"}}),
                    ("GET", "/metadata", None), ("POST", "/metadata", {"metadata": {"a": "b"}})]
        if collection == "volumes":
            attempts += [("POST", "/action", {"os-extend": {"new_size": 9}}),
                         ("POST", "/action", {"revert": {"snapshot_id": shop.snapshot_id}})]
        for method, suffix, body in attempts:
            real = stranger.call(method, f"/{collection}/{theirs}{suffix}", body)
            none = stranger.call(method, f"/{collection}/{NOWHERE}{suffix}", body)
            assert real.status_code == none.status_code == 404, (method, suffix, real.text)
            assert real.text.replace(theirs, "ID") == none.text.replace(NOWHERE, "ID")
    fault(stranger.call("POST", "/volumes", {"volume": {"snapshot_id": shop.snapshot_id}}), 404, "itemNotFound")
    fault(stranger.call("POST", "/volumes", {"volume": {"source_volid": shop.volume_id}}), 404, "itemNotFound")
    fault(stranger.call("POST", "/snapshots", {"snapshot": {"volume_id": shop.volume_id}}), 404, "itemNotFound")
    fault(stranger.call("GET", f"/volumes?marker={shop.volume_id}"), 404, "itemNotFound")
    assert stranger.get(f"/snapshots?volume_id={shop.volume_id}")["snapshots"] == []


def test_a_member_cannot_act_through_anothers_path(server, shop):
    answer = Rest(server, "sam:elsewhere", "bad-input", "3.71").call("GET", f"/volumes/{shop.volume_id}")
    assert 400 <= answer.status_code < 500 and shop.volume_id not in answer.text, answer.text


QUOTAS = [{}, {"quota_set": {}}, {"quota_set": None}, {"quota_set": {"volumes": -2}}, {"quota_set": {"volumes": "abc"}},
          {"quota_set": {"volumes": 1.5}}, {"quota_set": {"volumes": 2**40}}, {"quota_set": {"volumes": None}}, {"quotas": {"volumes": 1}}]


@pytest.mark.parametrize("body", QUOTAS)
def test_wrong_quotas_are_refused(server, body):
    admin = server.rest("admin:ops", "ops")
    fault(admin.call("PUT", "/os-quota-sets/bad-quota", body), 400, "badRequest")
    assert admin.get("/os-quota-sets/bad-quota")["quota_set"]["volumes"] == 10


TYPES = [{}, {"volume_type": {}}, {"volume_type": {"name": ""}}, {"volume_type": {"name": "   "}}, {"volume_type": {"name": LONG}},
         {"volume_type": {"name": 1}}, {"volume_type": {"name": "x", "os-volume-type-access:is_public": "perhaps"}},
         {"volume_type": {"name": "x", "extra_specs": {"a": {"b": "c"}}}}, {"volume_type": {"name": "x", "banana": 1}}]


@pytest.mark.parametrize("body", TYPES)
def test_wrong_types_are_refused(server, body):
    admin = server.rest("admin:ops", "ops")
    before = admin.get("/types")
    fault(admin.call("POST", "/types", body), 400, "badRequest")
    assert admin.get("/types") == before


def test_a_second_type_of_the_same_name_conflicts(server):
    admin = server.rest("admin:ops", "ops")
    made = admin.post("/types", {"volume_type": {"name": "twin"}}, 200)["volume_type"]
    fault(admin.call("POST", "/types", {"volume_type": {"name": "twin"}}), 409, "conflictingRequest")
    admin.delete(f"/types/{made['id']}")


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/banana"), ("GET", "/volumes/x/y/z/w"), ("PATCH", "/volumes"), ("DELETE", "/volumes"), ("PUT", "/types"),
    ("TRACE", "/volumes"), ("BANANA", "/volumes"),
])
def test_routes_that_are_not_there(shop, method, path):
    assert shop.call(method, path).status_code in (400, 404, 405, 501)


def test_a_body_that_is_no_json_by_its_own_words_is_refused(shop):
    for kind in ("text/plain", "application/xml", "multipart/form-data"):
        answer = shop.call("POST", "/volumes", data='{"volume": {"size": 1}}', headers={"Content-Type": kind})
        assert answer.status_code in (400, 415), (kind, answer.status_code, answer.text)


@pytest.mark.parametrize("token", ["", ":", "::", "a:b:c", "ü:ö", "x" * 5000, "admin", "../x:y"])
def test_odd_tokens_do_not_hurt(server, token):
    answer = Rest(server, token.encode(), None, "3.71").call("GET", "/volumes")
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert answer.json()["volumes"] == [] or token == "admin"


# Connections that misbehave, on a server whose patience is short.

@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("impatient"), "[limits]\nheader_timeout_s = 2\nrequest_timeout_s = 2\n").start()
    yield running
    running.stop()


def test_a_body_over_the_limit_is_refused(server):
    rest = server.rest("mia:large", "large")
    answer = rest.call("POST", "/volumes", data='{"volume": {"size": 1, "description": "' + "x" * 200_000 + '"}}')
    assert answer.status_code == 413, answer.text
    assert rest.get("/volumes")["volumes"] == []
    # One that does not say its length is cut off as well.
    chunks = (b" " * 65536 for _ in range(1000))
    try:
        assert rest.session.post(f"{rest.base}/volumes", data=chunks, timeout=60).status_code == 413
    except OSError:
        pass  # the server closed while we were still sending, which is as good
    assert rest.get("/volumes")["volumes"] == []


def closed_by_peer(connection: socket.socket, deadline_s: float = 30) -> bytes:
    """Reads until the server ends the connection; gives what it said before."""
    connection.settimeout(deadline_s)
    said = b""
    try:
        while chunk := connection.recv(65536):
            said += chunk
    except ConnectionResetError:
        pass
    return said


@pytest.mark.parametrize("sent", [
    b"", b"GET /v3/volumes HT", b"GET /v3/volumes HTTP/1.1\r\nHost: x\r\nX-Slow",
    b"POST /v3/volumes HTTP/1.1\r\nHost: x\r\nX-Auth-Token: mia:slow\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{\"vol",
], ids=["silent", "half a line", "half a header", "half a body"])
def test_a_slow_client_is_cut_off(impatient, sent):
    with socket.create_connection(("127.0.0.1", impatient.port)) as connection:
        connection.sendall(sent)
        said = closed_by_peer(connection)
    assert said == b"" or said.split(b" ", 2)[1] in (b"400", b"408"), said


@pytest.mark.parametrize("sent", [
    b"\x00\x01\x02\x03\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET /v3 HTTP/1.1\r\nHost: x\r\nContent-Length: banana\r\n\r\n",
    b"GET /v3 HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
], ids=["zeroes", "version", "no path", "tls", "length", "many headers", "long path"])
def test_what_is_not_http_is_answered_or_closed(impatient, sent):
    with socket.create_connection(("127.0.0.1", impatient.port)) as connection:
        try:
            connection.sendall(sent)
        except (BrokenPipeError, ConnectionResetError):
            return
        said = closed_by_peer(connection)
    assert said == b"" or said.split(b" ", 2)[1].startswith(b"4") or said.split(b" ", 2)[1] == b"505", said[:200]
    assert Rest(impatient, "mia:x", None, "3.71").call("GET", "/volumes").status_code == 200


def test_thousands_of_open_connections_do_not_hurt(server):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    if min(hard, 8192) < 2500:
        pytest.skip("this system allows too few open files")
    idle = []
    try:
        for _ in range(2000):
            idle.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        rest = server.rest("mia:crowd", "crowd")
        volume = rest.volume(name="in the crowd")
        rest.delete(f"/volumes/{volume['id']}")
        rest.gone("volumes", volume["id"])
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until("it goes on after they are gone", lambda: server.rest("mia:crowd", "crowd").call("GET", "/volumes").status_code == 200)


def test_abandoned_requests_do_not_hurt(server):
    """Clients that hang up right after asking: each either happened or did not."""
    rest = server.rest("mia:abandoned", "abandoned")
    body = b'{"volume": {"size": 1}}'
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(
                b"POST /v3/volumes HTTP/1.1\r\nHost: x\r\nX-Auth-Token: mia:abandoned\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    marker = rest.volume(name="last")
    time.sleep(0)
    for row in rest.get("/volumes")["volumes"]:
        shown = rest.settled("volumes", row["id"])
        assert shown["status"] == "available"
        assert os.path.exists(server.volume_file(row["id"]))
    assert marker["id"] in [row["id"] for row in rest.get("/volumes")["volumes"]]


def test_after_all_this_nothing_broke(server):
    log = server.log.read_text(errors="replace")
    assert "panicked" not in log, log[-4000:]
