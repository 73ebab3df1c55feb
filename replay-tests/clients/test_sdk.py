"""openstacksdk, which negotiates the newest microversion by itself and checks what it gets."""

import openstack
import pytest
from openstack import exceptions

from tephra_server import content, gib, unique, until, write


def connect(server, user: str, project: str) -> openstack.connection.Connection:
    return openstack.connection.Connection(
        auth_type="admin_token",
        auth={"endpoint": f"{server.url}/v3/{project}", "token": f"{user}:{project}"},
    )


@pytest.fixture
def sdk(server, project):
    return connect(server, "admin", project).block_storage


@pytest.fixture
def as_member(server, project):
    return connect(server, "mia", project).block_storage


def available(sdk, resource):
    return sdk.wait_for_status(resource, status="available", failures=["error"], interval=0.05, wait=60)


def gone(sdk, resource):
    sdk.wait_for_delete(resource, interval=0.05, wait=60)


def test_a_volume_lives_from_creation_to_deletion(server, sdk):
    volume = sdk.create_volume(size=1, name="v", description="first", metadata={"a": "b"})
    volume = available(sdk, volume)
    assert (volume.size, volume.name, volume.metadata, volume.is_bootable) == (1, "v", {"a": "b"}, False)
    path = server.volume_file(volume.id)
    write(path, "data")
    before = content(path)

    volume = sdk.update_volume(volume, name="w", description="second")
    sdk.set_volume_metadata(volume, c="d")
    sdk.delete_volume_metadata(sdk.get_volume(volume.id), keys=["a"])
    assert sdk.get_volume_metadata(volume).metadata == {"c": "d"}
    sdk.set_volume_bootable_status(volume, True)
    sdk.set_volume_readonly(volume, True)
    sdk.extend_volume(volume, 2)
    volume = available(sdk, sdk.get_volume(volume.id))
    assert (volume.size, volume.name, volume.description, volume.is_bootable) == (2, "w", "second", True)
    assert path.stat().st_size == gib(2)
    assert content(path) == before
    assert sdk.find_volume("w").id == volume.id

    sdk.delete_volume(volume)
    gone(sdk, volume)
    assert not path.exists()
    assert sdk.find_volume("w") is None


def test_snapshots_revert_and_copies_keep_the_bytes(server, sdk):
    volume = available(sdk, sdk.create_volume(size=1, name="v"))
    path = server.volume_file(volume.id)
    write(path, "kept")
    kept = content(path)
    snapshot = available(sdk, sdk.create_snapshot(volume_id=volume.id, name="s", metadata={"k": "v"}))
    assert (snapshot.volume_id, snapshot.size, snapshot.metadata) == (volume.id, 1, {"k": "v"})
    sdk.update_snapshot(snapshot, name="t", description="renamed")
    sdk.set_snapshot_metadata(snapshot, x="y")
    sdk.delete_snapshot_metadata(sdk.get_snapshot(snapshot.id), keys=["k"])
    assert sdk.get_snapshot_metadata(snapshot).metadata == {"x": "y"}
    assert sdk.find_snapshot("t").id == snapshot.id
    assert [found.id for found in sdk.snapshots(name="t")] == [snapshot.id]

    write(path, "lost")
    sdk.revert_volume_to_snapshot(volume, snapshot)
    volume = available(sdk, sdk.get_volume(volume.id))
    assert content(path) == kept

    restored = available(sdk, sdk.create_volume(size=2, name="restored", snapshot_id=snapshot.id))
    clone = available(sdk, sdk.create_volume(size=1, name="clone", source_volume_id=volume.id))
    assert content(server.volume_file(restored.id)) == kept
    assert content(server.volume_file(clone.id)) == kept
    assert (restored.snapshot_id, clone.source_volume_id) == (snapshot.id, volume.id)

    with pytest.raises(exceptions.BadRequestException, match="have snapshots"):
        sdk.delete_volume(volume, ignore_missing=False)
    sdk.delete_snapshot(snapshot)
    gone(sdk, snapshot)
    assert not server.snapshot_file(snapshot.id).exists()


def test_cascade_force_and_reset(server, sdk):
    volume = available(sdk, sdk.create_volume(size=1, name="v"))
    snapshot = available(sdk, sdk.create_snapshot(volume_id=volume.id))
    sdk.reset_snapshot_status(snapshot, "error")
    assert sdk.get_snapshot(snapshot.id).status == "error"
    sdk.reset_snapshot_status(snapshot, "available")
    # until the backend has confirmed it, it is what it was
    sdk.wait_for_status(sdk.get_snapshot(snapshot.id), status="available", failures=[], interval=0.05, wait=60)
    sdk.delete_volume(volume, cascade=True)
    gone(sdk, volume)
    assert not server.snapshot_file(snapshot.id).exists()

    broken = available(sdk, sdk.create_volume(size=1, name="broken"))
    sdk.reset_volume_status(broken, status="error")
    assert sdk.get_volume(broken.id).status == "error"
    sdk.delete_volume(broken, force=True)
    gone(sdk, broken)
    assert not server.volume_file(broken.id).exists()


def test_types_and_their_extra_specs(sdk, project):
    made = sdk.create_type(name=unique("bronze"), description="d", is_public=False)
    sdk.update_type_extra_specs(made, tier="3", other="x")
    sdk.delete_type_extra_specs(made, ["other"])
    shown = sdk.get_type(made.id)
    assert (shown.extra_specs, shown.is_public, shown.description) == ({"tier": "3"}, False, "d")
    sdk.add_type_access(made, project)
    assert [access["project_id"] for access in sdk.get_type_access(made)] == [project]
    sdk.remove_type_access(made, project)
    sdk.update_type(made, description="e")
    assert sdk.find_type(made.name).description == "e"
    assert made.id not in [listed.id for listed in sdk.types()], "private types are listed on demand"
    sdk.delete_type(made)
    assert sdk.find_type(made.name) is None


def test_quotas_limits_and_refusals(sdk, as_member, project):
    assert sdk.get_quota_set_defaults(project).volumes == 10
    sdk.update_quota_set(project, volumes=1, gigabytes=2)
    volume = available(as_member, as_member.create_volume(size=1))
    usage = sdk.get_quota_set(project, usage=True)
    assert (usage.volumes, usage.usage["volumes"], usage.usage["gigabytes"]) == (1, 1, 1)
    limits = as_member.get_limits()
    assert (limits.absolute.max_total_volumes, limits.absolute.total_volumes_used) == (1, 1)
    with pytest.raises(exceptions.HttpException) as refused:
        as_member.create_volume(size=1)
    assert refused.value.status_code == 413
    with pytest.raises(exceptions.ForbiddenException):
        as_member.update_quota_set(project, volumes=99)
    sdk.revert_quota_set(project)
    assert sdk.get_quota_set(project).volumes == 10
    as_member.delete_volume(volume)
    gone(as_member, volume)


def test_operators_see_services_pools_zones_extensions_and_a_summary(sdk, as_member):
    [service] = [found for found in sdk.services() if found.binary == "cinder-volume"]
    assert (service.status, service.state) == ("enabled", "up")
    pools = list(sdk.backend_pools())
    assert [pool.name.split("#")[0] for pool in pools] == [service.host]
    assert pools[0].capabilities["total_capacity_gb"]
    assert all(zone.state["available"] for zone in sdk.availability_zones())
    assert list(sdk.extensions())
    available(sdk, sdk.create_volume(size=2, metadata={"a": "b"}))
    summary = sdk.summary(False)
    assert (summary.total_count, summary.total_size, summary.metadata) == (1, 2, {"a": ["b"]})
    with pytest.raises(exceptions.ForbiddenException):
        list(as_member.services())


def test_a_long_list_is_read_page_by_page(sdk, member):
    made = {member.post("/volumes", {"volume": {"size": 1, "name": f"v{n}"}})["volume"]["id"] for n in range(7)}
    assert [len({volume.id for volume in sdk.volumes(limit=limit)} & made) for limit in (1, 2, 7, 50)] == [7] * 4
    assert [volume.name for volume in sdk.volumes(name="v3")] == ["v3"]


def test_what_is_missing_or_others_is_not_found(server, sdk, project):
    volume = available(sdk, sdk.create_volume(size=1))
    stranger = connect(server, "sam", unique("elsewhere")).block_storage
    with pytest.raises(exceptions.NotFoundException):
        stranger.get_volume(volume.id)
    assert stranger.find_volume(volume.id) is None
    assert list(stranger.volumes()) == []
    with pytest.raises(exceptions.NotFoundException):
        sdk.get_volume("00000000-0000-0000-0000-000000000000")


def test_the_cloud_layer_creates_and_waits(server, project):
    cloud = connect(server, "mia", project)
    volume = cloud.create_volume(1, name="easy", wait=True, timeout=60)
    assert volume.status == "available"
    snapshot = cloud.create_volume_snapshot(volume.id, wait=True, timeout=60)
    assert snapshot.status == "available"
    assert cloud.delete_volume_snapshot(snapshot.id, wait=True, timeout=60)
    assert cloud.delete_volume(volume.id, wait=True, timeout=60)


def test_without_authentication_at_all(server):
    sdk = openstack.connection.Connection(auth_type="none", auth={"endpoint": f"{server.url}/v3"}).block_storage
    volume = available(sdk, sdk.create_volume(size=1, name=unique("plain")))
    sdk.delete_volume(volume)
    gone(sdk, volume)


def test_a_service_is_switched_off_and_on(tmp_path):
    """On a server of its own: with its only service off, nothing can be created anywhere."""
    from tephra_server import Server

    alone = Server(tmp_path).start()
    try:
        sdk = connect(alone, "admin", "ops").block_storage
        [service] = [found for found in sdk.services() if found.binary == "cinder-volume"]
        sdk.disable_service(service, reason="new disks")
        [service] = [found for found in sdk.services() if found.binary == "cinder-volume"]
        assert (service.status, service.disabled_reason) == ("disabled", "new disks")
        refused = sdk.create_volume(size=1)
        until("no pool is left", lambda: sdk.get_volume(refused.id).status == "error")
        sdk.enable_service(service)
        [service] = [found for found in sdk.services() if found.binary == "cinder-volume"]
        assert service.status == "enabled"
        available(sdk, sdk.create_volume(size=1))
        sdk.delete_volume(refused)
        gone(sdk, refused)
    finally:
        alone.stop()
