"""deploy/: parsed by what reads it, and in step with the entrypoint's defaults."""

from __future__ import annotations

import copy
import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from higgs_generate import settings as generate_settings
from higgs_runtime import settings_table

from higgs_image.bench import server_metrics
from higgs_image.workspace import PROJECT

DEPLOY = PROJECT / "deploy"
MANIFESTS: list[dict[str, Any]] = [
    document
    for name in ("kubernetes.yaml", "kubernetes-autoscale.yaml")
    for document in yaml.safe_load_all((DEPLOY / name).read_text())
]
DRAIN = next(row.value for row in settings_table.TABLE if row.field == "drain_seconds")
PORT = next(row.value for row in settings_table.TABLE if row.field == "port")
VARIABLES = {row.name for row in settings_table.TABLE}


def manifest(kind: str) -> dict[str, Any]:
    [found] = [x for x in MANIFESTS if x["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("StatefulSet")["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", ["1.28", "1.31", "1.33"])
@pytest.mark.parametrize("document", MANIFESTS, ids=lambda x: x["kind"])
def test_manifest_matches_the_schemas(document: dict[str, Any], version: str) -> None:
    """Strict: an unknown field is an error."""
    kubernetes_validate.validate(document, version, strict=True)


def test_schemas_are_strict() -> None:
    wrong = copy.deepcopy(manifest("StatefulSet"))
    wrong["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["failureTreshold"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="failureTreshold"):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_manifest_is_consistent() -> None:
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert manifest("StatefulSet")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert manifest("Service")["spec"]["selector"].items() <= labels.items()
    [container] = pod()["containers"]
    [port] = container["ports"]
    assert port["containerPort"] == PORT
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    mounts = {x["name"]: x["mountPath"] for x in container["volumeMounts"]}
    [claim] = manifest("StatefulSet")["spec"]["volumeClaimTemplates"]
    weights = claim["metadata"]["name"]
    assert mounts.keys() == {x["name"] for x in pod()["volumes"]} | {weights}
    assert mounts[weights] == "/workspace"
    assert manifest("StatefulSet")["spec"]["serviceName"] == manifest("Service")["metadata"]["name"]
    assert {x["name"] for x in container["env"]} <= VARIABLES


def test_probes_distinguish_loading_from_ready() -> None:
    """Kubernetes accepts every status from 200 to 399, so /ping (204) is not usable."""
    [container] = pod()["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 3600


def test_grace_period_exceeds_the_drain_time() -> None:
    [container] = pod()["containers"]
    [program, pause] = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert pod()["terminationGracePeriodSeconds"] >= int(pause) + DRAIN + 10
    for name in ("compose.yaml", "compose.generate.yaml"):
        grace = re.search(r"stop_grace_period: (\d+)s", (DEPLOY / name).read_text())
        assert grace and int(grace[1]) >= DRAIN + 10


def test_a_replacement_leaves_one_replica() -> None:
    """Rolling, and one at a time, as well by an update as by maintenance of a node."""
    spec = manifest("StatefulSet")["spec"]
    assert spec["updateStrategy"]["type"] == "RollingUpdate" and "replicas" not in spec
    budget = manifest("PodDisruptionBudget")["spec"]
    assert budget["selector"] == spec["selector"] and budget["maxUnavailable"] == 1
    assert manifest("HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 2


def test_replicas_follow_a_metric_that_the_server_has() -> None:
    scaler = manifest("HorizontalPodAutoscaler")["spec"]
    target = manifest("StatefulSet")
    assert scaler["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"], "kind": target["kind"],
        "name": target["metadata"]["name"],
    }  # fmt: skip
    [metric] = scaler["metrics"]
    [known] = server_metrics.NAMES["waiting"]
    assert metric["pods"]["metric"]["name"] == known.replace(":", "_")
    page = (PROJECT / "docs" / "kubernetes.md").read_text()
    assert f"'{known}{{" in page and f'as: "{known.replace(":", "_")}"' in page


def test_generate_is_a_service_of_its_own() -> None:
    found = yaml.safe_load((DEPLOY / "compose.generate.yaml").read_text())["services"]["generate"]
    assert found["entrypoint"][-4:] == ["-m", "higgs_generate", "--host", "0.0.0.0"]
    known = {x.variable for x in generate_settings.SETTINGS} | VARIABLES
    assert {x for x in found["environment"] if x.startswith("HIGGS")} <= known
    server = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["server"]
    assert found["depends_on"] == ["server"] and found["image"] == server["image"]
