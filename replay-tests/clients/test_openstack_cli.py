"""Everything that a user of `openstack volume …` does, with both ways to do without Keystone."""

import pytest

from commands import OpenStack
from tephra_server import content, gib, unique, until, write


@pytest.fixture
def openstack(server, project) -> OpenStack:
    return OpenStack(server, "admin_token", f"admin:{project}", project)


@pytest.fixture
def as_member(server, project) -> OpenStack:
    return OpenStack(server, "admin_token", f"mia:{project}", project)


def available(openstack: OpenStack, what: str, name: str) -> dict:
    def reached():
        shown = openstack.json(f"{what} show", name)
        return shown if shown["status"] == "available" else None

    return until(f"{what} {name} is available", reached)


def test_a_volume_lives_from_creation_to_deletion(server, openstack):
    created = openstack.json("volume create", "--size", "1", "--description", "first", "--property", "a=b", "v")
    assert created["size"] == 1
    volume = available(openstack, "volume", "v")
    assert (volume["name"], volume["description"], volume["properties"]) == ("v", "first", {"a": "b"})
    path = server.volume_file(volume["id"])
    write(path, "data")
    before = content(path)

    openstack("volume set", "--name", "w", "--description", "second", "--property", "c=d", "--bootable", "v")
    openstack("volume set", "--size", "2", "w")
    volume = available(openstack, "volume", "w")
    assert (volume["size"], volume["description"], volume["bootable"]) == (2, "second", True)
    assert volume["properties"] == {"a": "b", "c": "d"}
    assert path.stat().st_size == gib(2)
    assert content(path) == before
    openstack("volume unset", "--property", "a", "w")
    openstack("volume set", "--read-only", "--non-bootable", "w")
    shown = openstack.json("volume show", "w")
    assert (shown["properties"].get("c"), "a" in shown["properties"], shown["bootable"]) == ("d", False, False)

    [listed] = openstack.json("volume list", "--long")
    assert (listed["ID"], listed["Name"], listed["Status"], listed["Size"]) == (volume["id"], "w", "available", 2)
    openstack("volume delete", "w")
    until("the volume is gone", lambda: openstack.json("volume list") == [])
    assert not path.exists()
    assert "No Volume found for w" in openstack.refused("volume show", "w")


def test_snapshots_revert_and_copies_keep_the_bytes(server, openstack):
    volume = openstack.json("volume create", "--size", "1", "v")
    available(openstack, "volume", "v")
    path = server.volume_file(volume["id"])
    write(path, "kept")
    kept = content(path)

    snapshot = openstack.json("volume snapshot create", "--volume", "v", "--description", "d", "--property", "k=v", "s")
    shown = available(openstack, "volume snapshot", "s")
    assert (shown["size"], shown["volume_id"], shown["properties"]) == (1, volume["id"], {"k": "v"})
    openstack("volume snapshot set", "--name", "t", "--property", "x=y", "s")
    openstack("volume snapshot unset", "--property", "k", "t")
    assert openstack.json("volume snapshot show", "t")["properties"] == {"x": "y"}
    [listed] = openstack.json("volume snapshot list", "--volume", "v", "--long")
    assert (listed["ID"], listed["Name"], listed["Status"]) == (snapshot["id"], "t", "available")

    write(path, "lost")
    openstack("volume revert", "t")
    available(openstack, "volume", "v")
    assert content(path) == kept

    restored = openstack.json("volume create", "--snapshot", "t", "--size", "2", "restored")
    clone = openstack.json("volume create", "--source", "v", "clone")
    available(openstack, "volume", "restored")
    available(openstack, "volume", "clone")
    assert content(server.volume_file(restored["id"])) == kept
    assert server.volume_file(restored["id"]).stat().st_size == gib(2)
    assert content(server.volume_file(clone["id"])) == kept

    assert "have snapshots" in openstack.refused("volume delete", "v")
    openstack("volume snapshot delete", "t")
    until("the snapshot is gone", lambda: openstack.json("volume snapshot list") == [])
    assert not server.snapshot_file(snapshot["id"]).exists()


def test_cascade_and_force_delete(server, openstack):
    volume = openstack.json("volume create", "--size", "1", "v")
    available(openstack, "volume", "v")
    snapshot = openstack.json("volume snapshot create", "--volume", "v", "s")
    available(openstack, "volume snapshot", "s")
    openstack("volume delete", "--cascade", "v")
    until("the volume is gone", lambda: openstack.json("volume list") == [])
    assert not server.volume_file(volume["id"]).exists()
    assert not server.snapshot_file(snapshot["id"]).exists()

    openstack("volume create", "--size", "1", "broken")
    available(openstack, "volume", "broken")
    openstack("volume set", "--state", "error", "broken")
    assert openstack.json("volume show", "broken")["status"] == "error"
    openstack("volume delete", "--force", "broken")
    until("the volume is gone", lambda: openstack.json("volume list") == [])


def test_types_and_extra_specs(openstack, as_member):
    name = unique("silver")
    openstack("volume type create", "--description", "d", "--property", "tier=2", name)
    openstack("volume type set", "--property", "more=less", "--description", "e", name)
    shown = openstack.json("volume type show", name)
    assert (shown["description"], shown["properties"]) == ("e", {"tier": "2", "more": "less"})
    openstack("volume type unset", "--property", "tier", name)
    listed = {row["Name"]: row for row in openstack.json("volume type list", "--long")}
    assert listed[name]["Properties"] == {"more": "less"}
    assert "__DEFAULT__" in listed
    assert "doesn't allow" in as_member.refused("volume type create", "mine")
    openstack("volume type delete", name)
    assert name not in [row["Name"] for row in openstack.json("volume type list")]


def test_operators_switch_services_off_and_on_and_see_pools_and_zones(openstack):
    [service] = [row for row in openstack.json("volume service list") if row["Binary"] == "cinder-volume"]
    assert (service["Status"], service["State"]) == ("enabled", "up")
    assert openstack.json("volume backend pool list", "--long")[0]["Name"].startswith(service["Host"])
    assert any(zone["Zone Status"] == "available" for zone in openstack.json("availability zone list", "--volume"))
    summary = openstack.json("volume summary")
    assert summary["Total Count"] == 0


def test_lists_are_filtered_and_paged(openstack, member):
    ids = {name: member.volume(name=name)["id"] for name in ("a", "b", "c")}
    assert [row["Name"] for row in openstack.json("volume list", "--name", "b")] == ["b"]
    assert openstack.json("volume list", "--status", "error") == []
    newest_first = [row["ID"] for row in openstack.json("volume list")]
    assert newest_first == [ids["c"], ids["b"], ids["a"]]
    # To this client a limit is the size of its pages, of which it reads all.
    assert [row["ID"] for row in openstack.json("volume list", "--limit", "1", "--marker", ids["c"])] == [ids["b"], ids["a"]]
    # Where one of them is attached, this client wants to ask Nova for the server's name.
    everybodys = openstack.json("volume list", "--all-projects", "--status", "available")
    assert set(ids.values()) <= {row["ID"] for row in everybodys}


def test_the_plain_endpoint_without_a_token_serves_a_first_look(server):
    openstack = OpenStack(server, "none")
    volume = openstack.json("volume create", "--size", "1", unique("plain"))
    shown = available(openstack, "volume", volume["id"])
    assert server.volume_file(volume["id"]).stat().st_size == gib(1)
    assert shown["id"] in [row["ID"] for row in openstack.json("volume list")]
    openstack("volume snapshot create", "--volume", volume["id"], "s")
    available(openstack, "volume snapshot", "s")
    openstack("volume revert", "s")
    available(openstack, "volume", volume["id"])
    openstack("volume delete", "--cascade", volume["id"])
    until("the volume is gone", lambda: openstack.json("volume list") == [])


def test_refusals_reach_the_user(openstack, as_member, admin, project):
    admin.put(f"/os-quota-sets/{project}", {"quota_set": {"volumes": 0}})
    refused = as_member.refused("volume create", "--size", "1", "v")
    assert "VolumeLimitExceeded" in refused and "413" in refused, refused
    assert "doesn't allow" in as_member.refused("volume service list")
    assert "No Volume found" in openstack.refused("volume show", "nothing")
