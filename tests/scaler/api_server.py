"""A Kubernetes API server for tests: kmock over real HTTP, with what it lacks as shipped.

Added: resourceVersions with conflicts, PUT, the Scale kind, dryRun, label selectors, and a
controller that keeps pods as each Deployment wants and lets them get ready after a delay.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp.web
import kmock
from kmock import KubernetesEmulator, Request
from kubernetes import client

NAMESPACE = "inferenceflow"
KINDS = {
    ("apps", "deployments"): "Deployment",
    ("", "pods"): "Pod",
    ("", "events"): "Event",
    ("autoscaling", "horizontalpodautoscalers"): "HorizontalPodAutoscaler",
    ("coordination.k8s.io", "leases"): "Lease",
    ("keda.sh", "scaledobjects"): "ScaledObject",
}
COST = "controller.kubernetes.io/pod-deletion-cost"


class StatusError(Exception):
    """An answer of the kind Status."""

    def __init__(self, code: int, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.code, self.reason = code, reason


class ApiServer(KubernetesEmulator):
    """The emulator with the semantics that optimistic locking relies on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_040.0  # the cluster's clock
        self.start_delay = 60.0  # seconds until a pod is ready; may be infinite
        self.keda_installed = False
        self.store: dict[tuple[str, str], dict[str, Any]] = {}  # (plural, name)
        self.interfere: list[Callable[[], object]] = []  # each runs once before the next write
        self.fail_with: int | None = None  # answer everything with this status
        self.writes: list[tuple[str, str]] = []  # (plural or plural/subresource, name)
        self._versions = 0
        self._pods = 0

    async def _handle(self, request: Request) -> aiohttp.web.StreamResponse:
        if request.resource is None or request.resource.plural is None:
            return await super()._handle(request)
        try:
            if self.fail_with is not None:
                raise StatusError(self.fail_with, "InternalError")
            self.reconcile()
            body = self._respond(request)
            self.reconcile()
            return aiohttp.web.json_response(body)
        except StatusError as error:
            body = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": error.reason,
                "message": str(error),
                "code": error.code,
            }
            return aiohttp.web.json_response(body, status=error.code)

    def _respond(self, request: Request) -> dict[str, Any]:
        group, plural = request.resource.group or "", request.resource.plural
        kind = KINDS.get((group, plural))
        if kind is None or (kind == "ScaledObject" and not self.keda_installed):
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        name, method = request.name, request.method.value
        if method == "GET" and name is None:
            return self._list(request, kind, plural)
        if method == "POST":
            return self._create(request, plural)
        found = self.store.get((plural, name))
        if found is None:
            raise StatusError(404, "NotFound", f'{plural} "{name}" not found')
        scale = request.subresource == "scale"
        if method == "GET":
            return self.as_scale(found) if scale else found
        for change in [self.interfere.pop(0)] if self.interfere else []:
            change()
            found = self.store[plural, name]
        wanted = self._changed(found, request.data, scale=scale, replace=method == "PUT")
        if request.params.get("dryRun") != "All":
            self.writes.append((f"{plural}/scale" if scale else plural, name))
            found = self.put(plural, wanted)
        else:
            found = wanted
        return self.as_scale(found) if scale else found

    def _list(self, request: Request, kind: str, plural: str) -> dict[str, Any]:
        wanted = [pair.split("=") for pair in request.params.get("labelSelector", "").split(",")]
        items = [
            item
            for (stored, _), item in self.store.items()
            if stored == plural
            and all(
                item["metadata"].get("labels", {}).get(pair[0]) == pair[-1]
                for pair in wanted
                if pair[0]
            )
        ]
        api_version = f"{request.resource.group}/{request.resource.version}".lstrip("/")
        return {
            "apiVersion": api_version,
            "kind": f"{kind}List",
            "metadata": {"resourceVersion": str(self._versions)},
            "items": items,
        }

    def _create(self, request: Request, plural: str) -> dict[str, Any]:
        name = request.data["metadata"]["name"]
        if (plural, name) in self.store:
            raise StatusError(409, "AlreadyExists", f'{plural} "{name}" already exists')
        if self.interfere:
            self.interfere.pop(0)()
            if (plural, name) in self.store:
                raise StatusError(409, "AlreadyExists", f'{plural} "{name}" already exists')
        self.writes.append((plural, name))
        return self.put(plural, copy.deepcopy(request.data))

    def _changed(
        self, found: dict[str, Any], data: dict[str, Any], *, scale: bool, replace: bool
    ) -> dict[str, Any]:
        expected = data.get("metadata", {}).get("resourceVersion")
        if expected is not None and expected != found["metadata"]["resourceVersion"]:
            raise StatusError(409, "Conflict", "the object has been modified")
        if scale:
            data = {"spec": {"replicas": data["spec"].get("replicas", 0)}}
        elif replace:
            changed = copy.deepcopy(data)
            for kept in ("uid", "creationTimestamp"):
                changed["metadata"][kept] = found["metadata"][kept]
            return changed
        changed = merge(found, data)
        if found["kind"] == "HorizontalPodAutoscaler":
            spec = changed["spec"]
            if spec.get("minReplicas", 1) < 1 or spec["minReplicas"] > spec["maxReplicas"]:
                raise StatusError(422, "Invalid", "spec.minReplicas: Invalid value")
        return changed

    def put(self, plural: str, item: dict[str, Any]) -> dict[str, Any]:
        """Store `item` under a new resourceVersion, unless nothing about it changed."""
        key = (plural, item["metadata"]["name"])
        old = self.store.get(key)
        metadata = item["metadata"]
        metadata.setdefault("namespace", NAMESPACE)
        metadata.setdefault("uid", f"uid-{plural}-{metadata['name']}")
        metadata.setdefault("creationTimestamp", self.stamp())
        if old is not None:
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
            if old == item:
                return old
        self._versions += 1
        metadata["resourceVersion"] = str(self._versions)
        self.store[key] = item
        return item

    def stamp(self) -> str:
        """The cluster's time as the API writes it."""
        return datetime.fromtimestamp(self.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def as_scale(self, deployment: dict[str, Any]) -> dict[str, Any]:
        """The Scale of a Deployment; it shares the Deployment's resourceVersion."""
        metadata = deployment["metadata"]
        fields = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        labels = deployment["spec"]["selector"]["matchLabels"]
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {field: metadata[field] for field in fields},
            "spec": {"replicas": deployment["spec"]["replicas"]},
            "status": {
                "replicas": len(self.pods(deployment)),
                "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
            },
        }

    def pods(self, deployment: dict[str, Any]) -> list[dict[str, Any]]:
        """The pods of `deployment`."""
        labels = deployment["spec"]["selector"]["matchLabels"]
        return [
            item
            for (plural, _), item in self.store.items()
            if plural == "pods" and item["metadata"]["labels"] == labels
        ]

    def reconcile(self) -> None:
        """What the Deployment controller and the kubelets do, at the cluster's time."""
        for (plural, name), deployment in list(self.store.items()):
            if plural != "deployments":
                continue
            pods = self.pods(deployment)
            for pod in pods:
                created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
                ready = is_ready(pod) or self.now - created >= self.start_delay
                if ready and not is_ready(pod):
                    self.set_ready(pod, "True")
            wanted = deployment["spec"]["replicas"]
            for _ in range(wanted - len(pods)):
                self._pods += 1
                pods.append(
                    self.put(
                        "pods",
                        {
                            "apiVersion": "v1",
                            "kind": "Pod",
                            "metadata": {
                                "name": f"{name}-{self._pods}",
                                "labels": dict(deployment["spec"]["selector"]["matchLabels"]),
                            },
                            "spec": {"containers": [{"name": "worker", "image": "worker"}]},
                            "status": {"conditions": [{"type": "Initialized", "status": "True"}]},
                        },
                    )
                )
            pods.sort(key=lambda pod: (is_ready(pod), deletion_cost(pod)))
            for pod in pods[: max(0, len(pods) - wanted)]:
                del self.store["pods", pod["metadata"]["name"]]
            kept = pods[max(0, len(pods) - wanted) :]
            deployment["status"] = {"readyReplicas": sum(is_ready(pod) for pod in kept)}

    def set_ready(self, pod: dict[str, Any], status: str) -> None:
        """What the kubelet does when a pod gets ready, or is not any more."""
        ready = {"type": "Ready", "status": status, "lastTransitionTime": self.stamp()}
        pod["status"]["conditions"] = [{"type": "Initialized", "status": "True"}, ready]

    def add_deployment(self, name: str, replicas: int, *, ready: bool = True) -> None:
        """A Deployment whose pods are ready at once, or start now."""
        now = self.now
        self.put(
            "deployments",
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": []}},
                },
            },
        )
        self.now = now - 86_400.0 if ready else now
        self.reconcile()
        self.now = now
        self.reconcile()

    def add_hpa(self, deployment: str, *, minimum: int = 1, maximum: int = 20) -> None:
        """An HPA in charge of `deployment`."""
        self.put(
            "horizontalpodautoscalers",
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": f"{deployment}-hpa"},
                "spec": {
                    "scaleTargetRef": {
                        "apiVersion": "apps/v1",
                        "kind": "Deployment",
                        "name": deployment,
                    },
                    "minReplicas": minimum,
                    "maxReplicas": maximum,
                },
            },
        )

    def add_scaled_object(self, deployment: str, *, minimum: int = 0, maximum: int = 50) -> None:
        """A KEDA ScaledObject in charge of `deployment`, with the HPA that KEDA makes for it."""
        self.keda_installed = True
        self.add_hpa(deployment, minimum=max(1, minimum), maximum=maximum)
        self.put(
            "scaledobjects",
            {
                "apiVersion": "keda.sh/v1alpha1",
                "kind": "ScaledObject",
                "metadata": {"name": f"{deployment}-keda"},
                "spec": {
                    "scaleTargetRef": {"name": deployment},
                    "minReplicaCount": minimum,
                    "maxReplicaCount": maximum,
                },
            },
        )

    def replicas(self, deployment: str) -> int:
        """What a Deployment asks for."""
        return int(self.store["deployments", deployment]["spec"]["replicas"])


def merge(base: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether the pod's Ready condition is true."""
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod["status"]["conditions"]
    )


def deletion_cost(pod: dict[str, Any]) -> int:
    """The pod's deletion cost, 0 without one."""
    return int(pod["metadata"].get("annotations", {}).get(COST, 0))


@contextmanager
def running_server() -> Iterator[tuple[ApiServer, client.ApiClient]]:
    """The server on a free port of the loopback, in a thread of its own, and a client for it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    handler = ApiServer()
    listening = kmock.Server(handler)

    async def enter() -> None:
        await handler.__aenter__()
        await listening.__aenter__()

    async def leave() -> None:
        await listening.__aexit__(None, None, None)
        await handler.__aexit__(None, None, None)

    asyncio.run_coroutine_threadsafe(enter(), loop).result(10)
    try:
        configuration = client.Configuration()
        configuration.host = str(listening.url).rstrip("/")
        configuration.retries = False
        with client.ApiClient(configuration) as api:
            yield handler, api
    finally:
        asyncio.run_coroutine_threadsafe(leave(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
