"""A small deployment with a token file: administrators, members and readers."""

import pytest

from commands import Cinder, OpenStack
from tephra_server import Rest, Server, fault

ADMIN = "admin-0123456789abcdef"
MEMBER = "member-0123456789abcdef"
READER = "reader-0123456789abcdef"
STRANGER = "stranger-0123456789abcdef"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokens")
    rows = ((ADMIN, "root", "ops", "admin"), (MEMBER, "mia", "shop", "member"),
            (READER, "rob", "shop", "reader"), (STRANGER, "sam", "other", "member"))
    tokens = directory / "tokens.toml"
    tokens.write_text("".join(
        f'[[token]]\ntoken = "{token}"\nuser = "{user}"\nproject = "{project}"\nrole = "{role}"\n\n'
        for token, user, project, role in rows))
    tokens.chmod(0o600)
    running = Server(directory, f'[auth]\nmode = "tokens"\ntoken_file = "{tokens}"\n').start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def volume(guarded):
    return Rest(guarded, MEMBER, "shop", "3.71").volume(name="v")


def test_no_token_and_a_wrong_one_are_refused_but_versions_are_open(guarded):
    for token in (None, "", "member", "admin:shop"):
        answer = Rest(guarded, token, None, "3.71").call("GET", "/volumes")
        # The body is Keystone's, whose middleware answers here in front of a Cinder.
        assert fault(answer, 401, "error") == "The request you have made requires authentication."
    assert Rest(guarded, None, None, None).call("GET", "/").status_code == 200
    assert Rest(guarded, None, None, None).call("GET", f"{guarded.url}/").status_code == 300


def test_a_member_may_only_act_for_the_own_project(guarded):
    answer = Rest(guarded, MEMBER, "other", "3.71").call("GET", "/volumes")
    assert answer.status_code in (400, 403, 404), answer.text
    Rest(guarded, MEMBER, None, "3.71").get("/volumes")


def test_a_reader_reads_and_changes_nothing(guarded, volume):
    reader = Rest(guarded, READER, "shop", "3.71")
    assert reader.get(f"/volumes/{volume['id']}")["volume"]["name"] == "v"
    attempts = (
        ("POST", "/volumes", {"volume": {"size": 1}}),
        ("PUT", f"/volumes/{volume['id']}", {"volume": {"name": "x"}}),
        ("DELETE", f"/volumes/{volume['id']}", None),
        ("POST", f"/volumes/{volume['id']}/action", {"os-extend": {"new_size": 2}}),
        ("POST", f"/volumes/{volume['id']}/metadata", {"metadata": {"a": "b"}}),
        ("POST", "/snapshots", {"snapshot": {"volume_id": volume["id"]}}),
    )
    for method, path, body in attempts:
        message = fault(reader.call(method, path, body), 403, "forbidden")
        assert message.startswith("Policy doesn't allow "), message
    assert reader.get(f"/volumes/{volume['id']}")["volume"]["size"] == 1


def test_a_member_may_not_do_what_administrators_do(guarded, volume):
    member = Rest(guarded, MEMBER, "shop", "3.71")
    attempts = (
        ("POST", "/types", {"volume_type": {"name": "mine"}}),
        ("PUT", "/os-quota-sets/shop", {"quota_set": {"volumes": 99}}),
        ("DELETE", "/os-quota-sets/shop", None),
        ("GET", "/os-services", None),
        ("GET", "/scheduler-stats/get_pools", None),
        ("POST", f"/volumes/{volume['id']}/action", {"os-reset_status": {"status": "error"}}),
        ("POST", f"/volumes/{volume['id']}/action", {"os-force_delete": {}}),
        ("DELETE", f"/volumes/{volume['id']}?force=true", None),
    )
    for method, path, body in attempts:
        fault(member.call(method, path, body), 403, "forbidden")


def test_an_administrator_sees_all_projects_when_asking(guarded, volume):
    admin = Rest(guarded, ADMIN, "ops", "3.71")
    assert admin.get("/volumes")["volumes"] == []
    assert volume["id"] in [row["id"] for row in admin.get("/volumes?all_tenants=1")["volumes"]]
    shown = admin.get(f"/volumes/{volume['id']}")["volume"]
    assert shown["os-vol-tenant-attr:tenant_id"] == "shop"
    # A member who asks for all gets the own project's.
    stranger = Rest(guarded, STRANGER, "other", "3.71")
    assert stranger.get("/volumes?all_tenants=1")["volumes"] == []
    fault(stranger.call("GET", f"/volumes/{volume['id']}"), 404, "itemNotFound")


def test_the_clients_log_in_with_their_tokens(guarded, volume):
    openstack = OpenStack(guarded, "admin_token", MEMBER, "shop")
    assert openstack.json("volume show", volume["id"])["name"] == "v"
    refused = OpenStack(guarded, "admin_token", "nobody-0123456789abcdef", "shop").refused("volume list")
    assert "401" in refused or "nauthorized" in refused or "uthenticat" in refused, refused
    # cinderclient's noauth makes its token of user and project, so it cannot have one from the file.
    assert "401" in Cinder(guarded, "mia", "shop").refused("list")


def test_tokens_stay_out_of_the_log_and_the_data(guarded, volume):
    Rest(guarded, MEMBER, "shop", "3.71").call("GET", "/volumes")
    for path in [guarded.log, *guarded.data_dir.rglob("*")]:
        if path.is_file() and not path.name.startswith(("volume-", "snapshot-")):
            assert b"0123456789abcdef" not in path.read_bytes(), path
