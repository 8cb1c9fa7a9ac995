"""The Kubernetes manifests, rendered by kustomize itself."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.stack.processes import SCALER_CHILD_KILOBYTES, SCALER_TICK_SECONDS
from config.celery import BROKER_PREFIX, INFERENCE_QUEUES
from config.lanes import by_lane
from config.settings import Settings
from tests.deploy.tools import find_tool, run_tool

KUBERNETES = kubernetes_validate.latest_version()
OVERLAYS = ("dev", "production")
# Made by scripts/setup.sh from .env.
SECRETS = {
    "inferenceflow-stores",
    "inferenceflow-api",
    "inferenceflow-providers",
    "inferenceflow-tools",
}
# The Prometheus operator's kinds; Kubernetes' own schemas do not have them.
FOREIGN_GROUP = "monitoring.coreos.com"

Manifest = dict[str, Any]


@functools.cache
def rendered(overlay: str) -> str:
    tool = find_tool("kustomize", "kubectl")
    verb = "build" if Path(tool).name == "kustomize" else "kustomize"
    made = run_tool(tool, verb, f"k8s/overlays/{overlay}")
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@functools.cache
def parsed(overlay: str) -> bytes:
    return pickle.dumps(list(yaml.load_all(rendered(overlay), yaml.CSafeLoader)))


def manifests(overlay: str) -> list[Manifest]:
    """Every test's own copy."""
    return list(pickle.loads(parsed(overlay)))


def of_kind(overlay: str, kind: str) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in manifests(overlay) if m["kind"] == kind}


def workloads(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Names and pod templates."""
    for manifest in manifests(overlay):
        if manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def container(template: Manifest) -> Manifest:
    (only,) = template["spec"]["containers"]
    return dict(only)


def test_every_manifest_has_a_valid_schema(overlay: str) -> None:
    known = [m for m in manifests(overlay) if not m["apiVersion"].startswith(FOREIGN_GROUP)]
    for manifest in known:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    known[-1]["spec"]["nonsense"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(known[-1], KUBERNETES, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["production"])
def test_policies_hold(name: str, tmp_path: Path) -> None:
    """checkov pins old versions of its libraries, so it lives in an environment of its own."""
    tool = find_tool("checkov")
    file = tmp_path / f"{name}.yaml"
    file.write_text(rendered(name))
    command = [tool, "--framework", "kubernetes", "--compact", "--quiet", "--file"]
    found = run_tool(*command, file)
    assert found.returncode == 0, found.stdout
    file.write_text(rendered(name).replace("readOnlyRootFilesystem: true", "privileged: true"))
    assert run_tool(*command, file).returncode == 1


def test_pods_run_restricted(overlay: str) -> None:
    for name, template in workloads(overlay):
        pod, main = template["spec"], container(template)
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert main["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert main["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert main["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert pod["automountServiceAccountToken"] is (name == "scaler"), name
        assert {"cpu", "memory"} <= set(main["resources"]["requests"]), name
        assert "memory" in main["resources"]["limits"], name


def test_long_running_pods_are_probed(overlay: str) -> None:
    for name, template in workloads(overlay):
        if name != "migrate":
            assert {"livenessProbe", "readinessProbe"} <= set(container(template)), name


def test_references_hold(overlay: str) -> None:
    maps, accounts = of_kind(overlay, "ConfigMap"), of_kind(overlay, "ServiceAccount")
    for name, template in workloads(overlay):
        assert template["spec"]["serviceAccountName"] in accounts, name
        main = container(template)
        for source in main.get("envFrom", ()):
            if "secretRef" in source:
                assert source["secretRef"]["name"] in SECRETS, name
            else:
                assert source["configMapRef"]["name"] in maps, name
        for variable in main.get("env", ()):
            key = variable.get("valueFrom", {}).get("secretKeyRef")
            assert key is None or key["name"] in SECRETS, name


def test_selectors_select(overlay: str) -> None:
    pods = [template["metadata"]["labels"] for _, template in workloads(overlay)]
    for manifest in manifests(overlay):
        spec = manifest.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector") or {}
        labels = selector if manifest["kind"] == "Service" else selector.get("matchLabels", {})
        if labels and not manifest["apiVersion"].startswith(FOREIGN_GROUP):
            assert any(labels.items() <= pod.items() for pod in pods), manifest["metadata"]


def test_each_disruption_budget_covers_one_workload(overlay: str) -> None:
    for name, budget in of_kind(overlay, "PodDisruptionBudget").items():
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        covered = [
            other
            for other, template in workloads(overlay)
            if wanted <= template["metadata"]["labels"].items()
        ]
        assert covered == [name]


def test_provider_keys_go_to_workers_alone(overlay: str) -> None:
    for name, template in workloads(overlay):
        sources = {
            s.get("secretRef", {}).get("name") for s in container(template).get("envFrom", ())
        }
        assert ("inferenceflow-providers" in sources) is name.startswith("worker-"), name
        assert ("inferenceflow-api" in sources) is (name == "api"), name


def test_settings_are_known(overlay: str) -> None:
    known = {name.upper() for name in Settings.model_fields}
    for name, config in of_kind(overlay, "ConfigMap").items():
        if name.startswith("settings-"):
            assert set(config["data"]) <= known


def test_each_queue_has_a_pool(overlay: str) -> None:
    deployments = of_kind(overlay, "Deployment")
    for queue in INFERENCE_QUEUES:
        lane = queue.removeprefix("inference.")
        args = container(deployments[f"worker-{lane}"]["spec"]["template"])["args"]
        assert args[-1].split(",") == [queue, "control"]
    for name in ("system", "scaler", "webhooks"):
        args = container(deployments[name]["spec"]["template"])["args"]
        assert args == ["worker", f"--{name}"]


def test_workers_may_end_what_they_began(overlay: str) -> None:
    longest = Settings.model_fields["default_deadline_seconds"].default
    wait = Settings.model_fields["max_wait_seconds"].default
    for name, deployment in of_kind(overlay, "Deployment").items():
        grace = deployment["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        if name.startswith("worker-"):
            assert grace > longest
        if name == "api":
            assert grace > wait + 5


def test_the_api_scales_from_3_to_20() -> None:
    spec = of_kind("production", "HorizontalPodAutoscaler")["api"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 20)
    targets = {
        metric["resource"]["name"]: metric["resource"]["target"]["averageUtilization"]
        for metric in spec["metrics"]
    }
    assert targets == {"cpu": 70, "memory": 80}


def test_an_apply_leaves_scaled_replicas_alone(overlay: str) -> None:
    for name, deployment in of_kind(overlay, "Deployment").items():
        scaled = name == "api" or name.startswith("worker-")
        assert ("replicas" in deployment["spec"]) is not scaled, name


def test_the_scaler_reaches_what_it_scales_and_alone_may(overlay: str) -> None:
    deployments = of_kind(overlay, "Deployment")
    pod = deployments["scaler"]["spec"]["template"]["spec"]
    assert {"name": "SCALER_MODE", "value": "act"} in pod["containers"][0]["env"]
    assert [
        name for name, one in workloads(overlay) if one["spec"]["serviceAccountName"] == "scaler"
    ] == ["scaler"]
    names = by_lane(Settings.model_fields["scaler_deployments"].default).values()
    assert set(names) <= set(deployments)
    for rule in of_kind(overlay, "Role")["scaler"]["rules"]:
        if rule["resources"] in (["deployments"], ["deployments/scale"]):
            assert set(rule["resourceNames"]) == set(names)
    policy = of_kind(overlay, "NetworkPolicy")["kubernetes-api"]["spec"]
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "scaler"}
    limit = pod["containers"][0]["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Mi")) * 1024 > 1.5 * SCALER_CHILD_KILOBYTES
    assert pod["terminationGracePeriodSeconds"] > SCALER_TICK_SECONDS


def test_the_scaler_may_do_no_more_than_it_does(overlay: str) -> None:
    role = of_kind(overlay, "Role")["scaler"]
    granted = {
        (resource, verb, bool(rule.get("resourceNames")))
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert not of_kind(overlay, "ClusterRole")
    assert {verb for _, verb, _ in granted} <= {"get", "list", "patch", "create", "update"}
    assert {r for r, verb, named in granted if verb in ("patch", "update") and not named} == {
        "pods"  # their deletion cost: pods have no names that could be known before
    }
    assert {r for r, verb, _ in granted if verb == "create"} == {"leases", "events"}
    assert "secrets" not in {resource for resource, _, _ in granted}


def test_the_network_is_closed_by_default(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    closed = policies["deny-all"]["spec"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(closed)
    (rule,) = policies["internet"]["spec"]["egress"]
    private = rule["to"][0]["ipBlock"]["except"]
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(private)


def chosen_by(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector takes a pod with these labels."""
    assert all(rule["operator"] == "In" for rule in selector.get("matchExpressions", ()))
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", ())
    )


def test_every_port_with_metrics_may_be_scraped(overlay: str) -> None:
    policies = [policy["spec"] for policy in of_kind(overlay, "NetworkPolicy").values()]
    scraped = set()
    for name, template in workloads(overlay):
        ports = {port["name"] for port in container(template).get("ports", ())}
        wanted = "http" if name == "api" else "metrics"
        if wanted in ports and name != "flower":
            scraped.add(name)
            admitted = {
                port["port"]
                for policy in policies
                if chosen_by(policy["podSelector"], template["metadata"]["labels"])
                for rule in policy.get("ingress", ())
                for port in rule["ports"]
            }
            assert wanted in admitted, name
    assert scraped >= {
        "api", "celery-exporter", "system", "webhooks",
        "worker-high", "worker-low", "worker-normal",
    }  # fmt: skip


def test_every_pod_with_metrics_is_scraped() -> None:
    selectors = [
        m["spec"]["selector"]
        for m in manifests("production")
        if m["kind"] in ("ServiceMonitor", "PodMonitor")
    ]
    for name, template in workloads("production"):
        ports = {port["name"] for port in container(template).get("ports", ())}
        if name == "api" or "metrics" in ports:
            labels = template["metadata"]["labels"]
            assert any(chosen_by(selector, labels) for selector in selectors), name


def test_celery_exporter_reads_our_key_prefix(overlay: str) -> None:
    deployment = of_kind(overlay, "Deployment")["celery-exporter"]
    values = {v["name"]: v.get("value") for v in container(deployment["spec"]["template"])["env"]}
    prefix = Settings.model_fields["key_prefix"].default
    assert values["CE_BROKER_TRANSPORT_OPTION"] == f"global_keyprefix={prefix}{BROKER_PREFIX}"


def test_production_has_no_redis_of_its_own() -> None:
    assert not of_kind("production", "StatefulSet")
    assert of_kind("dev", "StatefulSet")["redis"]["spec"]["replicas"] == 1
    (settings,) = of_kind("production", "ConfigMap").values()
    assert settings["data"]["DURABILITY"] == "replicated"


def test_api_and_housekeeping_share_the_files_of_batches() -> None:
    (settings,) = (m["data"] for n, m in of_kind("dev", "ConfigMap").items() if "settings" in n)
    folder = settings["FILES_URL"].removeprefix("file://")
    for name in ("api", "system"):
        template = of_kind("dev", "Deployment")[name]["spec"]["template"]
        mounts = {m["mountPath"]: m["name"] for m in container(template)["volumeMounts"]}
        volumes = {v["name"]: v for v in template["spec"]["volumes"]}
        assert volumes[mounts[folder]]["persistentVolumeClaim"]["claimName"] == "files"
    # Pods of several nodes share no folder: there the Secret names a bucket.
    (settings,) = (
        m["data"] for n, m in of_kind("production", "ConfigMap").items() if "settings" in n
    )
    assert "FILES_URL" not in settings
    assert not of_kind("production", "PersistentVolumeClaim")
