"""The container of an image as the Docker SDK takes it."""

from __future__ import annotations

import pytest

from higgs_image.oci import daemon
from higgs_image.oci.container_spec import ContainerSpec


def test_gpus() -> None:
    settings = ContainerSpec("image", gpus="0,2", labels={"a": "b"}).settings()
    (request,) = settings["device_requests"]
    assert request["DeviceIDs"] == ["0", "2"] and request["Capabilities"] == [["gpu"]]
    assert settings["ipc_mode"] == "host" and settings["labels"] == {"a": "b"}
    settings = ContainerSpec("image", gpus="all", shm_size="2g").settings()
    assert settings["device_requests"][0]["Count"] == -1
    assert "ipc_mode" not in settings and settings["shm_size"] == "2g"


def test_no_gpu() -> None:
    spec = ContainerSpec("image", mounts={"/a": "/b", "v": "/c"}, writable=frozenset("v"), port=81)
    assert spec.settings() == {
        "environment": {},
        "labels": {},
        "ports": {"8000/tcp": ("127.0.0.1", 81)},
        "volumes": {"/a": {"bind": "/b", "mode": "ro"}, "v": {"bind": "/c", "mode": "rw"}},
    }
    assert ContainerSpec("image").settings()["ports"] == {"8000/tcp": ("127.0.0.1", None)}
    both = ContainerSpec("image", address="::1", port=81, more_ports=(8888,)).settings()["ports"]
    assert both == {"8000/tcp": ("::1", 81), "8888/tcp": ("::1", 8888)}


def test_the_client_uses_the_variables_of_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As docker does: an address alone would be asked in plain HTTP."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path_factory.mktemp("certificates")))
    with pytest.raises(Exception, match="TLS"), daemon.docker_client():
        pass
