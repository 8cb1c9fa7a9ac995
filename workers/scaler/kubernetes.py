"""Reads and sets the size of a Deployment, leaving the lead to whatever autoscaler is in charge.

There is one writer of a Deployment's scale. If a KEDA ScaledObject or an HPA is in charge, the
scaler sets only its minimum (the predictive floor); else it sets the scale itself. Every write
carries the resourceVersion that it was decided on, so that a change in between refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from workers.scaler.knobs import Mode
from workers.scaler.lease import Fence
from workers.scaler.signals import Replicas

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
KEDA = ("keda.sh", "v1alpha1", "scaledobjects")


class ControllerKind(StrEnum):
    """What sets the scale of a Deployment."""

    DEPLOYMENT = "Deployment"  # nothing else: the scaler may
    HPA = "HorizontalPodAutoscaler"
    SCALED_OBJECT = "ScaledObject"


@dataclass(frozen=True, slots=True)
class Controller:
    """The object to write to, as it was when it was read."""

    kind: ControllerKind
    name: str
    resource_version: str
    current: int  # replicas of the Deployment, or the minimum of the autoscaler
    limit: int | None = None  # the autoscaler's maximum


@dataclass(frozen=True, slots=True)
class ScaleResult:
    """What became of a decision."""

    applied: bool
    via: str  # the kind that was, or would have been, written to
    detail: str  # applied, unchanged, or why not
    before: int | None = None
    after: int | None = None


class Cluster:
    """The API clients for one namespace.

    Untyped: in the client's types every field of every answer may be absent, also those that the
    API server always fills.
    """

    def __init__(self, namespace: str, api_client: Any) -> None:
        from kubernetes import client

        self.namespace = namespace
        self.apps: Any = client.AppsV1Api(api_client)
        self.core: Any = client.CoreV1Api(api_client)
        self.autoscaling: Any = client.AutoscalingV2Api(api_client)
        self.coordination: Any = client.CoordinationV1Api(api_client)
        self.custom: Any = client.CustomObjectsApi(api_client)


def connect(namespace: str, kubeconfig: Path | None = None) -> Cluster | None:
    """The cluster that this process runs in, or that of `kubeconfig`; None without either.

    Raises ConfigException for a kubeconfig that cannot be used.
    """
    from kubernetes import client, config

    if kubeconfig is not None:
        found = config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]
        return Cluster(namespace, found)
    try:
        config.load_incluster_config()  # type: ignore[no-untyped-call]
    except config.ConfigException:
        return None
    return Cluster(namespace, client.ApiClient())


def api_status(error: Exception) -> int | None:
    """The HTTP status of an API error; None for any other exception."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def read_replicas(cluster: Cluster, deployment: str, *, now: float, stuck_after: float) -> Replicas:
    """How many replicas `deployment` asks for, has ready, and has starting for too long.

    Raises ApiException if the Deployment or its pods cannot be read.
    """
    found = cluster.apps.read_namespaced_deployment(deployment, cluster.namespace)
    labels = found.spec.selector.match_labels or {}
    pods = cluster.core.list_namespaced_pod(
        cluster.namespace,
        label_selector=",".join(f"{key}={value}" for key, value in sorted(labels.items())),
    )
    stuck = sum(
        pod.metadata.deletion_timestamp is None and now - _unready_since(pod, now) > stuck_after
        for pod in pods.items
    )
    desired = 1 if found.spec.replicas is None else found.spec.replicas
    return Replicas(desired=desired, ready=found.status.ready_replicas or 0, stuck=stuck)


def find_controller(cluster: Cluster, deployment: str) -> Controller:
    """What is in charge of `deployment`'s scale: a ScaledObject, an HPA, or nothing.

    A ScaledObject comes first, because it owns an HPA and undoes changes to that.
    """
    for item in _scaled_objects(cluster):
        target = item["spec"]["scaleTargetRef"]
        if target.get("kind", "Deployment") == "Deployment" and target["name"] == deployment:
            return Controller(
                ControllerKind.SCALED_OBJECT,
                item["metadata"]["name"],
                item["metadata"]["resourceVersion"],
                item["spec"].get("minReplicaCount", 0),
                item["spec"].get("maxReplicaCount", 100),
            )
    hpas = cluster.autoscaling.list_namespaced_horizontal_pod_autoscaler(cluster.namespace)
    for hpa in hpas.items:
        reference = hpa.spec.scale_target_ref
        if reference.kind == "Deployment" and reference.name == deployment:
            minimum = 1 if hpa.spec.min_replicas is None else hpa.spec.min_replicas
            return Controller(
                ControllerKind.HPA,
                hpa.metadata.name,
                hpa.metadata.resource_version,
                minimum,
                hpa.spec.max_replicas,
            )
    scale = cluster.apps.read_namespaced_deployment_scale(deployment, cluster.namespace)
    return Controller(
        ControllerKind.DEPLOYMENT,
        deployment,
        scale.metadata.resource_version,
        scale.spec.replicas or 0,
    )


def scale_infrastructure(
    target_replicas: int,
    *,
    cluster: Cluster,
    deployment: str,
    mode: Mode,
    fence: Fence | None,
    decided_on: int,
    now: float,
    running_by_worker: Mapping[str, int] | None = None,
    dry_run: bool = False,
) -> ScaleResult:
    """Bring `deployment` to `target_replicas`, as far as `mode` allows and by one writer only.

    `decided_on` is the number of replicas that the decision was made on: if the scale is another
    one by now, nothing is written, and the next tick decides anew. `fence` proves that this
    process holds the lease; it is checked after the read and before the write, so that whoever
    wrote in between makes this write fail on its resourceVersion. `running_by_worker` (pod name:
    running jobs) is written as deletion cost before scaling in, so that idle pods go first.

    Raises ApiException for anything but a conflict.
    """
    from kubernetes.client import ApiException

    controller = find_controller(cluster, deployment)
    via = controller.kind.value
    wanted = _bounded(target_replicas, controller)

    def result(detail: str, *, applied: bool = False) -> ScaleResult:
        return ScaleResult(applied, via, detail, controller.current, wanted)

    if mode is Mode.RECOMMEND:
        return result("recommended only")
    if controller.kind is ControllerKind.DEPLOYMENT:
        if mode is Mode.FLOOR:
            return result("no autoscaler whose minimum could be set")
        if controller.current != decided_on:
            return result("changed by another since it was read")
    if controller.current == wanted:
        return result("unchanged")
    if fence is None or not fence.holds(now):
        return result("not the holder of the lease")
    try:
        if controller.kind is ControllerKind.DEPLOYMENT and wanted < controller.current:
            _price_deletion(cluster, running_by_worker or {}, dry_run=dry_run)
        _write(cluster, controller, wanted, dry_run=dry_run)
    except ApiException as error:
        if api_status(error) == 409:
            return result("changed by another while it was written")
        raise
    return result("dry run" if dry_run else "applied", applied=not dry_run)


def record_event(
    cluster: Cluster, deployment: str, *, reason: str, message: str, now: float
) -> None:
    """Write a Kubernetes Event on `deployment`. Raises ApiException."""
    moment = datetime.fromtimestamp(now, UTC)
    cluster.core.create_namespaced_event(
        cluster.namespace,
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{deployment}.{int(now * 1000):x}",
                "namespace": cluster.namespace,
            },
            "involvedObject": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": deployment,
                "namespace": cluster.namespace,
            },
            "type": "Normal",
            "reason": reason,
            "message": message[:1024],
            "firstTimestamp": moment.isoformat(),
            "lastTimestamp": moment.isoformat(),
            "count": 1,
            "source": {"component": "inferenceflow-scaler"},
        },
    )


def _unready_since(pod: Any, now: float) -> float:
    """Since when `pod` has not been ready; `now` if it is."""
    since = pod.metadata.creation_timestamp.timestamp()
    for condition in pod.status.conditions or []:
        if condition.type == "Ready":
            if condition.status == "True":
                return now
            if condition.last_transition_time is not None:
                since = max(since, condition.last_transition_time.timestamp())
    return float(since)


def _scaled_objects(cluster: Cluster) -> list[dict[str, Any]]:
    from kubernetes.client import ApiException

    group, version, plural = KEDA
    try:
        found = cluster.custom.list_namespaced_custom_object(
            group, version, cluster.namespace, plural
        )
    except ApiException as error:
        if api_status(error) == 404:  # KEDA is not installed
            return []
        raise
    return list(found["items"])


def _bounded(target: int, controller: Controller) -> int:
    """An HPA takes no minimum of 0, and none above its maximum."""
    if controller.kind is ControllerKind.HPA:
        target = max(1, target)
    return target if controller.limit is None else min(target, controller.limit)


def _price_deletion(cluster: Cluster, running: Mapping[str, int], *, dry_run: bool) -> None:
    """Make busy pods expensive to delete. A pod that is gone by now needs no price."""
    from kubernetes.client import ApiException

    for pod, jobs in running.items():
        body = {"metadata": {"annotations": {DELETION_COST: str(jobs)}}}
        try:
            cluster.core.patch_namespaced_pod(
                pod, cluster.namespace, body, dry_run="All" if dry_run else None
            )
        except ApiException as error:
            if api_status(error) != 404:
                raise


def _write(cluster: Cluster, controller: Controller, wanted: int, *, dry_run: bool) -> None:
    metadata = {"resourceVersion": controller.resource_version}
    if controller.kind is ControllerKind.DEPLOYMENT:
        cluster.apps.patch_namespaced_deployment_scale(
            controller.name,
            cluster.namespace,
            {"metadata": metadata, "spec": {"replicas": wanted}},
            dry_run="All" if dry_run else None,
        )
    elif controller.kind is ControllerKind.HPA:
        cluster.autoscaling.patch_namespaced_horizontal_pod_autoscaler(
            controller.name,
            cluster.namespace,
            {"metadata": metadata, "spec": {"minReplicas": wanted}},
            dry_run="All" if dry_run else None,
        )
    else:
        group, version, plural = KEDA
        cluster.custom.patch_namespaced_custom_object(
            group,
            version,
            cluster.namespace,
            plural,
            controller.name,
            {"metadata": metadata, "spec": {"minReplicaCount": wanted}},
            dry_run="All" if dry_run else None,
        )
