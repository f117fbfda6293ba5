"""The names on the wire are those of the API's document, and so are paths, words and versions."""

from __future__ import annotations

import msgspec
import pytest

from compat import routes, versions
from compat.versions import Refused, Since, Until
from compat.wire import containers, images, networks, system, volumes
from tests.contract import spec

STRUCTS: dict[type[msgspec.Struct], str] = {
    containers.HealthConfig: "HealthConfig",
    containers.Config: "ContainerConfig",
    containers.HostConfig: "HostConfig",
    containers.RestartPolicy: "RestartPolicy",
    containers.DeviceMapping: "DeviceMapping",
    containers.DeviceRequest: "DeviceRequest",
    containers.ThrottleDevice: "ThrottleDevice",
    containers.Mount: "Mount",
    containers.PortBinding: "PortBinding",
    containers.EndpointIPAMConfig: "EndpointIPAMConfig",
    containers.EndpointSettings: "EndpointSettings",
    containers.NetworkingConfig: "NetworkingConfig",
    containers.ContainerCreateResponse: "ContainerCreateResponse",
    containers.ContainerUpdateResponse: "ContainerUpdateResponse",
    containers.WaitError: "ContainerWaitExitError",
    containers.ContainerWaitResponse: "ContainerWaitResponse",
    containers.ContainerTopResponse: "ContainerTopResponse",
    containers.ExecCreateResponse: "IDResponse",
    containers.CommitResponse: "IDResponse",
    containers.HealthcheckResult: "HealthcheckResult",
    containers.Health: "Health",
    containers.State: "ContainerState",
    containers.GraphDriver: "DriverData",
    containers.MountPoint: "MountPoint",
    containers.NetworkAddress: "Address",
    containers.NetworkSettings: "NetworkSettings",
    containers.ContainerInspectResponse: "ContainerInspectResponse",
    containers.Port: "Port",
    containers.ContainerSummary: "ContainerSummary",
    containers.ExecProcessConfig: "ProcessConfig",
    images.Platform: "OCIPlatform",
    images.Descriptor: "OCIDescriptor",
    images.ImageInspectResponse: "ImageInspect",
    images.ImageSummary: "ImageSummary",
    images.ImageDeleteItem: "ImageDeleteResponseItem",
    images.ProgressDetail: "ProgressDetail",
    images.ErrorDetail: "ErrorDetail",
    images.ProgressLine: "CreateImageInfo",
    images.DistributionInspectResponse: "DistributionInspect",
    networks.IPAMConfig: "IPAMConfig",
    networks.IPAM: "IPAM",
    networks.ConfigReference: "ConfigReference",
    networks.NetworkCreateResponse: "NetworkCreateResponse",
    networks.EndpointResource: "NetworkContainer",
    networks.NetworkInspectResponse: "Network",
    volumes.VolumeCreateRequest: "VolumeCreateOptions",
    volumes.Volume: "Volume",
    volumes.VolumeListResponse: "VolumeListResponse",
    system.ErrorResponse: "ErrorResponse",
    system.AuthRequest: "AuthConfig",
    system.VersionResponse: "SystemVersion",
    system.PluginsInfo: "PluginsInfo",
    system.IndexInfo: "IndexInfo",
    system.RegistryConfig: "RegistryServiceConfig",
    system.Runtime: "Runtime",
    system.SwarmInfo: "SwarmInfo",
    system.Commit: "Commit",
    system.FirewallInfo: "FirewallInfo",
    system.InfoResponse: "SystemInfo",
    system.Actor: "EventActor",
    system.EventMessage: "EventMessage",
}

# Fields that only other kinds of engine have: with containerd's image store, in a swarm, with CDI.
NOT_SERVED = {
    "ContainerInspectResponse": {"ImageManifestDescriptor"},
    "ContainerSummary": {"ImageManifestDescriptor"},
    "OCIDescriptor": {"artifactType", "data"},
    "ImageInspect": {"Manifests"},
    "ImageSummary": {"Manifests"},
    "ErrorDetail": {"code"},
    "Network": {"Peers"},
    "Volume": {"ClusterVolume", "Status"},
    "SwarmInfo": {"Cluster", "Managers", "Nodes"},
    "SystemInfo": {"Containerd", "DiscoveredDevices"},
}

# Requests whose bodies the document writes out in place.
IN_PLACE = {
    networks.NetworkCreateRequest: ("/networks/create", "post"),
    networks.NetworkConnectRequest: ("/networks/{id}/connect", "post"),
    networks.NetworkDisconnectRequest: ("/networks/{id}/disconnect", "post"),
    containers.ContainerCreateRequest: ("/containers/create", "post"),
    containers.ExecCreateRequest: ("/containers/{id}/exec", "post"),
    containers.ExecStartRequest: ("/exec/{id}/start", "post"),
}
NOT_IN_DOCUMENT = {"CheckDuplicate", "Detach"}  # still sent by clients


def encoded(struct: type[msgspec.Struct]) -> set[str]:
    return {f.encode_name for f in msgspec.structs.fields(struct)}


@pytest.mark.parametrize(("struct", "name"), STRUCTS.items(), ids=lambda v: str(v))
def test_a_struct_has_the_fields_of_its_schema(struct: type[msgspec.Struct], name: str) -> None:
    described = set(spec.properties(spec.schema(name)))
    assert encoded(struct) == described - NOT_SERVED.get(name, set())


@pytest.mark.parametrize(("struct", "place"), IN_PLACE.items(), ids=lambda v: str(v))
def test_a_request_has_the_fields_of_its_body(
    struct: type[msgspec.Struct], place: tuple[str, str]
) -> None:
    path, method = place
    operation = spec.document()["paths"][path][method]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    described = set(spec.properties(body))
    assert encoded(struct) - NOT_IN_DOCUMENT == described - NOT_IN_DOCUMENT


def as_ours(path: str) -> str:
    return path.replace("{id}", "{ref}").replace("{name}", "{ref}")


def test_every_path_of_the_document_is_routed_and_nothing_else() -> None:
    described = {
        (method.upper(), as_ours(path))
        for path, operations in spec.document()["paths"].items()
        for method in operations
    }
    routed = {(r.method, r.path) for r in routes.ALL}
    aside = {("GET", "/networks/"), ("POST", "/grpc")}  # which Docker's own leaves out as well
    # POST /session answers 404 until there is a builder to speak with.
    assert routed - aside == described - {("POST", "/session")}


def test_the_versions_of_parameters_are_those_of_the_document() -> None:
    named = {r.name: r for r in routes.ALL}
    for (route, parameter), rule in versions.PARAMETERS.items():
        if isinstance(rule, Until):
            continue  # gone from the newest document
        found = [
            p
            for path, operations in spec.document()["paths"].items()
            for method, operation in operations.items()
            if (method.upper(), as_ours(path)) == (named[route].method, named[route].path)
            for p in operation["parameters"]
            if p["name"] == parameter
        ]
        assert [p.get("x-since") for p in found] == [str(rule.version)], (route, parameter)


def inner(struct: type[msgspec.Struct]) -> dict[str, dict[str, object]]:
    """The fields of a struct that the document writes out inside another schema."""
    mount = spec.properties(spec.schema("Mount"))
    summary = spec.properties(spec.schema("ContainerSummary"))
    place = {
        containers.BindOptions: mount["BindOptions"],
        containers.VolumeOptions: mount["VolumeOptions"],
        containers.SummaryHostConfig: summary["HostConfig"],
    }
    if struct in place:
        return spec.properties(place[struct])
    if struct in IN_PLACE:
        path, method = IN_PLACE[struct]
        body = spec.document()["paths"][path][method]["requestBody"]
        return spec.properties(body["content"]["application/json"]["schema"])
    return spec.properties(spec.schema(STRUCTS[struct]))


def test_the_versions_of_fields_are_those_of_the_document() -> None:
    for struct, rules in versions.FIELDS.items():
        if struct is images.ImageUsage:
            continue  # the document has one schema for it and ImageSummary
        names = {f.name: f.encode_name for f in msgspec.structs.fields(struct)}
        described = inner(struct)
        for field, several in rules.items():
            marks = described[names[field]]
            for rule in several:
                match rule:
                    case Since(version=version) | Refused(version=version):
                        assert marks.get("x-since") == str(version), (struct, field)
                    case Until(version=version):
                        # A field that stays, and was filled otherwise before, has no mark.
                        assert marks.get("x-until", str(version)) == str(version), (struct, field)


def test_an_older_document_follows_from_the_marks() -> None:
    old = spec.derive("1.41")
    parameters = old["paths"]["/containers/{id}/stop"]["post"]["parameters"]
    assert "signal" not in {p["name"] for p in parameters}
    assert "Annotations" not in spec.properties(
        {"allOf": old["components"]["schemas"]["HostConfig"]["allOf"][1:]}
    )
    assert "VirtualSize" in old["components"]["schemas"]["ImageSummary"]["properties"]
    newest = spec.derive(spec.NEWEST)
    assert "VirtualSize" not in newest["components"]["schemas"]["ImageSummary"]["properties"]
