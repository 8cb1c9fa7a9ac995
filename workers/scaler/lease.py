"""Who may write: a Kubernetes Lease in a cluster, or a lock in Redis, both with fencing tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

LEASE_SECONDS = 90.0


@dataclass(frozen=True)
class Fence:
    """Proof of holding the lease. `token` grows whenever the holder changes."""

    token: int
    holder: str
    expires: float  # unix seconds
    confirm: Callable[[], bool]  # asks the store whether this token is still the newest

    def holds(self, now: float) -> bool:
        """Whether the lease is neither over nor taken by another."""
        return now < self.expires and self.confirm()


def acquire_lease(
    coordination: Any,
    namespace: str,
    name: str,
    *,
    holder: str,
    now: float,
    seconds: float = LEASE_SECONDS,
) -> Fence | None:
    """Take or renew the Lease `name`; None while another one holds it.

    `coordination` is a `CoordinationV1Api`. `leaseTransitions` is the fencing token. Whether a
    foreign lease is over is judged by this machine's clock: clocks must agree to within seconds,
    as nodes of a cluster do. Raises ApiException for anything but a lost race.
    """
    from kubernetes.client import ApiException

    moment = _micro_time(now)
    try:
        found = coordination.read_namespaced_lease(name, namespace)
    except ApiException as error:
        if error.status != 404:
            raise
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": int(seconds),
                "acquireTime": moment,
                "renewTime": moment,
                "leaseTransitions": 1,
            },
        }
        return _written(
            lambda: coordination.create_namespaced_lease(namespace, body),
            coordination,
            namespace,
            name,
            holder,
            now + seconds,
        )
    spec = found.spec
    ours = spec.holder_identity == holder
    if not ours and spec.holder_identity and spec.renew_time is not None:
        until = spec.renew_time.timestamp() + (spec.lease_duration_seconds or 0)
        if now < until:
            return None
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "resourceVersion": found.metadata.resource_version,
        },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(seconds),
            "acquireTime": _micro_time(spec.acquire_time.timestamp()) if ours else moment,
            "renewTime": moment,
            "leaseTransitions": (spec.lease_transitions or 0) + (0 if ours else 1),
        },
    }
    return _written(
        lambda: coordination.replace_namespaced_lease(name, namespace, body),
        coordination,
        namespace,
        name,
        holder,
        now + seconds,
    )


def _written(
    write: Callable[[], Any],
    coordination: Any,
    namespace: str,
    name: str,
    holder: str,
    expires: float,
) -> Fence | None:
    """The fence after a write that won; None after one that lost the race."""
    from kubernetes.client import ApiException

    try:
        token = write().spec.lease_transitions
    except ApiException as error:
        if error.status == 409:
            return None
        raise

    def confirm() -> bool:
        spec = coordination.read_namespaced_lease(name, namespace).spec
        return bool(spec.holder_identity == holder and spec.lease_transitions == token)

    return Fence(token, holder, expires, confirm)


def _micro_time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
