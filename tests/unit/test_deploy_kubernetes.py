"""The manifests: schema, what each pod may do and is told, and whether what names something finds it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import SchemaNotFoundError, validate

from local.up import setting_names
from shared.settings import Settings
from tests.containers import FOREIGN, ROOT, Image

FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(FOLDER.rglob("*.yaml"))
VERSION = "1.37"
OPERATORS = {"keda.sh", "kustomize.config.k8s.io", "monitoring.coreos.com"}
IMAGES = {"lybic-guiagent-api": "Dockerfile.api", "lybic-guiagent-worker": "Dockerfile.worker"}

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


ALL = [one for path in MANIFESTS for one in documents(path)]


def kind(*kinds: str) -> list[Manifest]:
    return [one for one in ALL if one["kind"] in kinds]


PODS = {one["metadata"]["name"]: one["spec"]["template"] for one in kind("Deployment", "Job")}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_manifests_are_what_kubernetes_wants(path: Path) -> None:
    for one in documents(path):
        try:
            validate(one, VERSION, strict=True)
        except SchemaNotFoundError:
            assert one["apiVersion"].partition("/")[0] in OPERATORS


def test_kustomizations_leave_nothing_out_but_examples() -> None:
    for path in FOLDER.rglob("kustomization.yaml"):
        (listed,) = documents(path)
        there = {other.name for other in path.parent.glob("*.yaml") if ".example." not in other.name}
        assert {*listed["resources"], path.name} == there


@pytest.mark.parametrize("name", PODS)
def test_each_pod_may_do_no_more_than_it_must(name: str) -> None:
    pod = PODS[name]["spec"]
    (container,) = pod["containers"]
    image = Image.read(IMAGES[container["image"]])
    security = pod["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "or the Service `api` would set API_PORT to tcp://…"
    assert security["runAsNonRoot"] is True
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == image.user
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", PODS)
def test_nothing_is_set_that_nobody_reads(name: str) -> None:
    (container,), (secret,) = PODS[name]["spec"]["containers"], kind("Secret")
    variables = {one["name"]: one.get("valueFrom") for one in container.get("env", [])}
    assert variables.keys() | secret["stringData"].keys() <= setting_names() | FOREIGN
    for source in filter(None, variables.values()):
        assert source["secretKeyRef"]["name"] == secret["metadata"]["name"]
        assert source["secretKeyRef"]["key"] in secret["stringData"]
    named = re.findall(r"^#?([A-Z_]+)=", (FOLDER / "settings.env").read_text(), re.MULTILINE)
    assert set(named) <= setting_names()


def test_whatever_selects_pods_finds_some() -> None:
    labels = [template["metadata"]["labels"] for template in PODS.values()]
    selectors = [one["spec"]["podSelector"].get("matchLabels", {}) for one in kind("NetworkPolicy")]
    for one in kind("Deployment", "Service", "PodDisruptionBudget", "PodMonitor"):
        selector = one["spec"]["selector"]
        selectors.append(selector.get("matchLabels", selector))
    for selector in selectors:
        assert any(selector.items() <= one.items() for one in labels), selector


def test_what_is_scaled_has_no_number_that_would_be_set_again() -> None:
    scaled = {
        one["spec"]["scaleTargetRef"]["name"] for one in kind("ScaledObject", "HorizontalPodAutoscaler")
    }
    assert scaled == {"api", "worker"}
    assert all("replicas" not in one["spec"] for one in kind("Deployment"))


def test_a_worker_has_the_time_to_finish_an_action() -> None:
    settings = Settings()
    grace = PODS["worker"]["spec"]["terminationGracePeriodSeconds"]
    assert settings.worker.drain_seconds + settings.lybic.timeout_seconds < grace


def test_workers_are_added_before_all_slots_are_taken() -> None:
    ((trigger,),) = [one["spec"]["triggers"] for one in kind("ScaledObject")]
    (container,) = PODS["worker"]["spec"]["containers"]
    (slots,) = [int(one["value"]) for one in container["env"] if one["name"] == "CELERY_WORKER_CONCURRENCY"]
    assert int(trigger["metadata"]["threshold"]) < slots
