"""Everything that a user of `cinder` does, typed as that user types it."""

import pytest

from commands import Cinder
from tephra_server import content, gib, unique, until, write


@pytest.fixture
def cinder(server, project) -> Cinder:
    """An ordinary user. For an administrator, `cinder` looks names up in all projects."""
    return Cinder(server, "mia", project)


@pytest.fixture
def as_admin(server, project) -> Cinder:
    return Cinder(server, "admin", project)


def wait_status(cinder: Cinder, kind: str, name: str, status: str = "available") -> dict:
    command = "show" if kind == "volume" else "snapshot-show"

    def reached():
        shown = cinder.properties(command, name)
        return shown if shown["status"] == status else None

    return until(f"{kind} {name} is {status}", reached)


def created(cinder: Cinder, *arguments) -> dict:
    """`create --poll` looks only every two seconds."""
    name = cinder.properties("create", *arguments)["id"]
    return wait_status(cinder, "volume", name)


def snapshot_of(cinder: Cinder, volume: str, name: str, *arguments) -> dict:
    """`snapshot-create` has no `--poll`."""
    cinder("snapshot-create", volume, "--name", name, *arguments)
    return wait_status(cinder, "snapshot", name)


def test_versions_are_listed(cinder):
    [version] = cinder.rows("version-list")
    assert (version["Status"], version["Min Version"], version["Version"]) == ("CURRENT", "3.0", "3.71")


def test_a_volume_lives_from_creation_to_deletion(server, cinder):
    created = cinder.properties("create", "1", "--name", "v", "--description", "first", "--metadata", "a=b")
    assert created["status"] in ("creating", "available")
    assert created["size"] == "1"
    volume = wait_status(cinder, "volume", "v")
    assert (volume["name"], volume["description"], volume["bootable"]) == ("v", "first", "false")
    assert volume["metadata"] == "a : b"
    path = server.volume_file(volume["id"])
    assert path.stat().st_size == gib(1)
    assert content(path) == {}

    [listed] = cinder.rows("list")
    assert (listed["ID"], listed["Status"], listed["Name"], listed["Size"]) == (volume["id"], "available", "v", "1")

    cinder("rename", "v", "w", "--description", "second")
    assert cinder.properties("show", "w")["description"] == "second"

    cinder("metadata", "w", "set", "c=d", "a=e")
    assert cinder.properties("metadata-show", "w") == {"a": "e", "c": "d"}
    cinder("metadata", "w", "unset", "a")
    assert cinder.properties("metadata-show", "w") == {"c": "d"}
    cinder("metadata-update-all", "w", "x=y")
    assert cinder.properties("metadata-show", "w") == {"x": "y"}

    cinder("set-bootable", "w", "true")
    assert cinder.properties("show", "w")["bootable"] == "true"
    cinder("readonly-mode-update", "w", "true")
    assert "readonly : True" in cinder.properties("show", "w")["metadata"] or \
        cinder.properties("show", "w").get("readonly") == "True"

    cinder("delete", "w")
    until("the volume is gone", lambda: not cinder.rows("list"))
    assert not path.exists()
    assert "No volume with a name or ID of 'w' exists." in cinder.refused("show", "w")


def test_extending_keeps_the_data_and_grows_the_file(server, cinder):
    volume = cinder.properties("create", "1", "--name", "v", "--poll")
    path = server.volume_file(volume["id"])
    write(path, "before")
    before = content(path)
    cinder("extend", "v", "3")
    assert wait_status(cinder, "volume", "v")["size"] == "3"
    assert path.stat().st_size == gib(3)
    assert content(path) == before
    assert "New size for extend must be greater than current size" in cinder.refused("extend", "v", "2")


def test_reverting_brings_the_snapshots_bytes_back(server, cinder):
    volume = created(cinder, "1", "--name", "v")
    path = server.volume_file(volume["id"])
    write(path, "kept")
    kept = content(path)

    snapshot = snapshot_of(cinder, "v", "s", "--description", "d", "--metadata", "k=v")
    assert content(server.snapshot_file(snapshot["id"])) == kept
    write(path, "lost", offsets=(0, 700 * 65536))
    assert content(path) != kept

    cinder("revert-to-snapshot", "s")
    wait_status(cinder, "volume", "v")
    wait_status(cinder, "snapshot", "s")
    assert content(path) == kept
    assert path.stat().st_size == gib(1)

    # Only the latest, and not after an extend.
    snapshot_of(cinder, "v", "later")
    assert "not the latest one" in cinder.refused("revert-to-snapshot", "s")
    cinder("extend", "v", "2")
    wait_status(cinder, "volume", "v")
    assert "volume size must be equal to the snapshot size" in cinder.refused("revert-to-snapshot", "later")


def test_a_snapshot_lives_from_creation_to_deletion(server, cinder):
    created(cinder, "1", "--name", "v")
    snapshot = snapshot_of(cinder, "v", "s")
    shown = cinder.properties("snapshot-show", "s")
    assert (shown["status"], shown["size"], shown["name"]) == ("available", "1", "s")
    assert shown["volume_id"] == cinder.properties("show", "v")["id"]
    [listed] = cinder.rows("snapshot-list", "--volume-id", shown["volume_id"])
    assert listed["ID"] == snapshot["id"]

    cinder("snapshot-rename", "s", "t", "--description", "renamed")
    assert cinder.properties("snapshot-show", "t")["description"] == "renamed"
    cinder("snapshot-metadata", "t", "set", "a=b", "c=d")
    cinder("snapshot-metadata", "t", "unset", "a")
    assert cinder.properties("snapshot-metadata-show", "t") == {"c": "d"}
    cinder("snapshot-metadata-update-all", "t", "e=f")
    assert cinder.properties("snapshot-metadata-show", "t") == {"e": "f"}

    assert "have snapshots" in cinder.refused("delete", "v"), "a volume with snapshots stays"
    cinder("snapshot-delete", "t")
    until("the snapshot is gone", lambda: not cinder.rows("snapshot-list"))
    assert not server.snapshot_file(snapshot["id"]).exists()


def test_volumes_come_from_snapshots_and_from_volumes_with_their_data(server, cinder):
    source = created(cinder, "1", "--name", "source")
    write(server.volume_file(source["id"]), "data")
    data = content(server.volume_file(source["id"]))
    snapshot = snapshot_of(cinder, "source", "s")
    write(server.volume_file(source["id"]), "later")
    later = content(server.volume_file(source["id"]))

    restored = created(cinder, "--snapshot-id", snapshot["id"], "--name", "restored")
    larger = created(cinder, "2", "--snapshot-id", snapshot["id"], "--name", "larger")
    clone = created(cinder, "2", "--source-volid", source["id"], "--name", "clone")
    for volume, size, expected in ((restored, 1, data), (larger, 2, data), (clone, 2, later)):
        path = server.volume_file(volume["id"])
        assert path.stat().st_size == gib(size), volume["name"]
        assert content(path) == expected, volume["name"]
    assert cinder.properties("show", "restored")["snapshot_id"] == snapshot["id"]
    assert cinder.properties("show", "clone")["source_volid"] == source["id"]

    # Writing to a clone leaves its source alone.
    write(server.volume_file(clone["id"]), "own")
    assert content(server.volume_file(source["id"])) == later
    assert content(server.snapshot_file(snapshot["id"])) == data


def test_cascade_takes_the_snapshots_along_and_force_takes_anything(server, cinder, as_admin):
    volume = created(cinder, "1", "--name", "v")
    snapshots = [snapshot_of(cinder, "v", f"s{n}")["id"] for n in range(2)]
    cinder("delete", "--cascade", "v")
    until("the volume is gone", lambda: not cinder.rows("list"))
    assert cinder.rows("snapshot-list") == []
    assert not server.volume_file(volume["id"]).exists()
    assert not any(server.snapshot_file(snapshot).exists() for snapshot in snapshots)

    stuck = created(cinder, "1", "--name", "stuck")["id"]
    as_admin("reset-state", stuck, "--state", "maintenance")
    wait_status(cinder, "volume", "stuck", "maintenance")
    assert "Invalid volume" in cinder.refused("delete", "stuck")
    assert "Policy doesn't allow" in cinder.refused("force-delete", "stuck")
    as_admin("force-delete", stuck)
    until("the volume is gone", lambda: not cinder.rows("list"))
    assert not server.volume_file(stuck).exists()


def test_an_administrator_resets_states(cinder, as_admin):
    volume = created(cinder, "1", "--name", "v")["id"]
    snapshot = snapshot_of(cinder, "v", "s")["id"]
    for state in ("error", "available"):
        as_admin("reset-state", volume, "--state", state)
        wait_status(cinder, "volume", "v", state)
        as_admin("snapshot-reset-state", snapshot, "--state", state)
        wait_status(cinder, "snapshot", "s", state)
    assert "Policy doesn't allow" in cinder.refused("reset-state", "v", "--state", "error")


def test_volume_types_and_their_extra_specs(as_admin, cinder):
    name = unique("gold")
    as_admin("type-create", name, "--description", "fast", "--is-public", "true")
    assert any(row["Name"] == name and row["Is_Public"] == "True" for row in as_admin.rows("type-list"))
    as_admin("type-key", name, "set", "volume_backend_name=directory", "tier=1")
    as_admin("type-key", name, "unset", "tier")
    [specs] = [row for row in as_admin.rows("extra-specs-list") if row["Name"] == name]
    assert specs["extra_specs"] == "{'volume_backend_name': 'directory'}"
    shown = as_admin.properties("type-show", name)
    assert shown["description"] == "fast"
    as_admin("type-update", shown["id"], "--name", name + "x", "--description", "faster")
    assert as_admin.properties("type-show", name + "x")["description"] == "faster"
    assert any(row["Name"] == "__DEFAULT__" for row in as_admin.rows("type-default"))

    assert "Policy doesn't allow" in cinder.refused("type-create", "mine")
    as_admin("type-delete", name + "x")
    assert not any(row["Name"] == name + "x" for row in as_admin.rows("type-list"))


def test_private_types_are_for_those_who_were_let_in(as_admin, cinder, project):
    name = unique("private")
    created = as_admin.rows("type-create", name, "--is-public", "false")[0]
    assert not any(row["Name"] == name for row in cinder.rows("type-list"))
    as_admin("type-access-add", "--volume-type", name, "--project-id", project)
    assert [row["Project_ID"] for row in as_admin.rows("type-access-list", "--volume-type", name)] == [project]
    assert any(row["Name"] == name for row in cinder.rows("type-list"))
    as_admin("type-access-remove", "--volume-type", name, "--project-id", project)
    assert not any(row["Name"] == name for row in cinder.rows("type-list"))
    as_admin("type-delete", created["ID"])


def test_quotas_are_shown_changed_used_enforced_and_taken_back(as_admin, cinder, project):
    assert as_admin.properties("quota-show", project)["volumes"] == "10"
    as_admin("quota-update", project, "--volumes", "2", "--gigabytes", "3", "--snapshots", "1")
    shown = as_admin.properties("quota-show", project)
    assert (shown["volumes"], shown["gigabytes"], shown["snapshots"]) == ("2", "3", "1")

    created(cinder, "1", "--name", "one")
    snapshot_of(cinder, "one", "s")
    usage = {row["Type"]: row for row in as_admin.rows("quota-usage", project)}
    assert {name: usage[name]["In_use"] for name in ("volumes", "gigabytes", "snapshots")} == \
        {"volumes": "1", "gigabytes": "2", "snapshots": "1"}

    assert "(HTTP 413)" in cinder.refused("create", "2")
    assert "(HTTP 413)" in cinder.refused("extend", "one", "3")
    refused = cinder.refused("snapshot-create", "one")
    assert "SnapshotLimitExceeded" in refused and "(HTTP 413)" in refused
    created(cinder, "1", "--name", "two")
    refused = cinder.refused("create", "1")
    assert "(HTTP 413)" in refused

    limits = {row["Name"]: row["Value"] for row in cinder.rows("absolute-limits")}
    assert (limits["maxTotalVolumes"], limits["totalVolumesUsed"], limits["totalGigabytesUsed"]) == ("2", "2", "3")
    assert cinder("rate-limits") is not None

    as_admin("quota-delete", project)
    assert as_admin.properties("quota-show", project)["volumes"] == "10"
    assert as_admin.properties("quota-defaults", project)["gigabytes"] == "1000"
    assert as_admin.properties("quota-class-show", "default")["snapshots"] == "10"
    assert "Policy doesn't allow" in cinder.refused("quota-update", project, "--volumes", "99")


def test_operators_see_services_pools_zones_and_extensions(as_admin, cinder):
    services = as_admin.rows("service-list")
    volume_services = [row for row in services if row["Binary"] == "cinder-volume"]
    assert volume_services and all(row["State"] == "up" for row in volume_services), services
    assert "@" in as_admin.properties("get-pools")["name"]
    detail = as_admin("get-pools", "--detail")
    for capability in ("free_capacity_gb", "total_capacity_gb", "allocated_capacity_gb"):
        assert capability in detail
    assert any(row["Status"] == "available" for row in as_admin.rows("availability-zone-list"))
    assert as_admin.rows("list-extensions")
    assert "Policy doesn't allow" in cinder.refused("service-list")


def test_a_summary_counts_volumes_and_their_gigabytes(cinder):
    created(cinder, "1", "--name", "a", "--metadata", "k=v")
    created(cinder, "2", "--name", "b")
    summary = cinder.properties("summary")
    assert (summary["total_count"], summary["total_size"]) == ("2", "3")


def test_lists_are_filtered_sorted_and_paged(cinder, as_admin, member):
    for name, size in (("a", 2), ("b", 1), ("c", 3)):
        member.volume(size, name=name, metadata={"m": name})

    def names(*arguments):
        return [row["Name"] for row in cinder.rows("list", *arguments)]

    assert names("--sort", "name:asc") == ["a", "b", "c"]
    assert names("--sort", "size:desc") == ["c", "a", "b"]
    assert names("--name", "b") == ["b"]
    assert names("--status", "error") == []
    assert names("--metadata", "m=a") == ["a"]
    assert names("--sort", "name:asc", "--limit", "2") == ["a", "b"]
    second = cinder.properties("show", "b")["id"]
    assert names("--sort", "name:asc", "--marker", second) == ["c"]
    assert "3" in cinder("list", "--with-count").splitlines()[-1]
    assert {row["Name"] for row in as_admin.rows("list", "--all-tenants")} >= {"a", "b", "c"}
    assert "c" in [row["Name"] for row in as_admin.rows("list", "--filters", "name~=c")]


def test_strangers_see_nothing(server, cinder):
    volume = created(cinder, "1", "--name", "v")
    stranger = Cinder(server, "sam", unique("elsewhere"))
    assert stranger.rows("list") == []
    for arguments in (("show", volume["id"]), ("delete", volume["id"]), ("extend", volume["id"], "2"),
                      ("snapshot-create", volume["id"])):
        refused = stranger.refused(*arguments)
        assert "No volume with a name or ID" in refused or "could not be found" in refused or "(HTTP 404)" in refused, refused
    assert cinder.properties("show", volume["id"])["status"] == "available"
