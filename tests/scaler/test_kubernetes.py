from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes import config
from kubernetes.client import ApiException

from tests.scaler.api_server import COST, ApiServer, StatusError
from workers.scaler.knobs import Mode
from workers.scaler.kubernetes import (
    Cluster,
    ControllerKind,
    connect,
    find_controller,
    read_replicas,
    record_event,
    scale_infrastructure,
)
from workers.scaler.lease import Fence, acquire_lease

Api = tuple[ApiServer, Cluster]
ROOT = Path(__file__).parents[2]


def fence(*, newest: bool = True, expires: float = math.inf) -> Fence:
    return Fence(1, "me", expires, lambda: newest)


def scale(api: Api, target: int, **changes: Any) -> Any:
    server, cluster = api
    settings: dict[str, Any] = {
        "cluster": cluster,
        "deployment": "worker",
        "mode": Mode.ACT,
        "fence": fence(),
        "decided_on": 3,
        "now": server.now,
    }
    return scale_infrastructure(target, **{**settings, **changes})


def test_outside_a_cluster_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert connect("anywhere") is None


def test_replicas_are_ready_after_their_start(api: Api) -> None:
    server, cluster = api
    server.add_deployment("worker", 2)
    server.add_deployment("other", 5)
    scale(api, 4, decided_on=2)
    early = read_replicas(cluster, "worker", now=server.now, stuck_after=300)
    assert (early.desired, early.ready, early.pending, early.stuck) == (4, 2, 2, 0)
    server.now += server.start_delay
    later = read_replicas(cluster, "worker", now=server.now, stuck_after=300)
    assert (later.desired, later.ready, later.stuck) == (4, 4, 0)


def test_pods_that_never_start_are_stuck(api: Api) -> None:
    server, cluster = api
    server.add_deployment("worker", 1)
    server.start_delay = math.inf
    scale(api, 4, decided_on=1)
    server.now += 301
    found = read_replicas(cluster, "worker", now=server.now, stuck_after=300)
    assert (found.ready, found.stuck) == (1, 3)


def test_a_pod_that_was_ready_is_not_stuck_at_once(api: Api) -> None:
    server, cluster = api
    server.add_deployment("worker", 2)
    server.start_delay = math.inf
    pod = server.store["pods", "worker-1"]
    server.set_ready(pod, "False")
    for age, stuck in ((299, 0), (301, 1)):
        now = server.now + age
        assert read_replicas(cluster, "worker", now=now, stuck_after=300).stuck == stuck


def test_without_an_autoscaler_the_scale_is_set(api: Api) -> None:
    server, cluster = api
    server.add_deployment("worker", 3)
    server.add_hpa("other")
    assert find_controller(cluster, "worker").kind is ControllerKind.DEPLOYMENT
    result = scale(api, 5)
    assert result.applied
    assert (result.before, result.after, result.via) == (3, 5, "Deployment")
    assert server.replicas("worker") == 5


def test_recommend_writes_nothing(api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    result = scale(api, 5, mode=Mode.RECOMMEND)
    assert (result.applied, result.after) == (False, 5)
    assert server.writes == []


def test_floor_without_an_autoscaler_writes_nothing(api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    result = scale(api, 5, mode=Mode.FLOOR)
    assert result.detail == "no autoscaler whose minimum could be set"
    assert server.writes == []


@pytest.mark.parametrize("mode", [Mode.FLOOR, Mode.ACT])
def test_with_an_hpa_only_its_minimum_is_set(api: Api, mode: Mode) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    server.add_hpa("worker", minimum=2, maximum=10)
    result = scale(api, 6, mode=mode)
    assert (result.applied, result.before, result.after) == (True, 2, 6)
    assert server.writes == [("horizontalpodautoscalers", "worker-hpa")]
    assert server.store["horizontalpodautoscalers", "worker-hpa"]["spec"]["minReplicas"] == 6


@pytest.mark.parametrize(("target", "minimum"), [(0, 1), (99, 10)])
def test_the_minimum_stays_what_an_hpa_takes(api: Api, target: int, minimum: int) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    server.add_hpa("worker", minimum=2, maximum=10)
    assert scale(api, target).after == minimum


def test_with_keda_the_scaled_object_is_written_not_its_hpa(api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    server.add_scaled_object("worker", minimum=0, maximum=8)
    result = scale(api, 4)
    assert (result.via, result.before, result.after) == ("ScaledObject", 0, 4)
    assert server.writes == [("scaledobjects", "worker-keda")]


def test_a_scale_that_changed_since_the_decision_is_left_alone(api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 7)
    assert scale(api, 5).detail == "changed by another since it was read"
    assert server.replicas("worker") == 7


def test_a_change_between_read_and_write_is_a_conflict(api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)

    def kubectl_scale() -> None:
        other = server.store["deployments", "worker"]
        server.put("deployments", {**other, "spec": {**other["spec"], "replicas": 9}})

    # The stored object must be another one than the changed one for the version to grow.
    server.interfere.append(kubectl_scale)
    assert scale(api, 5).detail == "changed by another while it was written"
    assert server.replicas("worker") == 9


def test_dry_run_changes_nothing(api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    result = scale(api, 5, dry_run=True)
    assert (result.applied, result.detail) == (False, "dry run")
    assert server.replicas("worker") == 3


def test_nothing_to_change(api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    assert scale(api, 3).detail == "unchanged"


@pytest.mark.parametrize("held", [None, fence(newest=False), fence(expires=0.0)])
def test_only_the_holder_of_the_lease_writes(api: Api, held: Fence | None) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    assert scale(api, 5, fence=held).detail == "not the holder of the lease"
    assert server.writes == []


def test_busy_pods_outlive_idle_ones(api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    names = [name for plural, name in server.store if plural == "pods"]
    busy = {names[0]: 4, names[1]: 0, names[2]: 2, "gone": 1}
    assert scale(api, 1, running_by_worker=busy).applied
    left = [item for (plural, _), item in server.store.items() if plural == "pods"]
    assert [pod["metadata"]["name"] for pod in left] == [names[0]]
    assert left[0]["metadata"]["annotations"] == {COST: "4"}


def test_other_errors_are_raised(api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    server.fail_with = 500
    with pytest.raises(ApiException) as caught:
        scale(api, 5)
    assert caught.value.status == 500


def test_errors_of_keda_other_than_its_absence_are_raised(api: Api) -> None:
    server, cluster = api
    server.add_deployment("worker", 3)
    server.fail_with = 403
    with pytest.raises(ApiException):
        find_controller(cluster, "worker")


def test_an_event_is_written_on_the_deployment(api: Api) -> None:
    server, cluster = api
    record_event(cluster, "worker", reason="Scaled", message="x" * 2000, now=server.now)
    [event] = [item for (plural, _), item in server.store.items() if plural == "events"]
    assert event["involvedObject"]["name"] == "worker"
    assert len(event["message"]) == 1024


def lease(api: Api, holder: str) -> Fence | None:
    server, cluster = api
    return acquire_lease(
        cluster.coordination, cluster.namespace, "scaler", holder=holder, now=server.now, seconds=90
    )


def test_a_lease_is_held_by_one_and_renewed(api: Api) -> None:
    server, _ = api
    first = lease(api, "a")
    assert first is not None
    assert lease(api, "b") is None
    server.now += 60
    again = lease(api, "a")
    assert again is not None
    assert again.token == first.token
    server.now += 60
    assert lease(api, "b") is None
    assert again.holds(server.now)


def test_a_lease_that_ran_out_passes_on_with_a_higher_token(api: Api) -> None:
    server, _ = api
    first = lease(api, "a")
    server.now += 91
    second = lease(api, "b")
    assert first is not None
    assert second is not None
    assert second.token > first.token
    assert second.holds(server.now)
    assert not first.holds(server.now - 91)  # even by a clock that has stood still


def test_the_loser_of_a_race_for_a_new_lease_gets_none(api: Api) -> None:
    server, _ = api
    server.interfere.append(
        lambda: (
            server.put(
                "leases",
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": "scaler"},
                    "spec": {"holderIdentity": "b", "leaseTransitions": 1},
                },
            )
            and None
        )
    )
    assert lease(api, "a") is None


def test_the_loser_of_a_race_for_an_old_lease_gets_none(api: Api) -> None:
    server, _ = api
    lease(api, "a")
    server.now += 91

    def taken() -> None:
        old = server.store["leases", "scaler"]
        server.put("leases", {**old, "spec": {**old["spec"], "holderIdentity": "c"}})

    server.interfere.append(taken)
    assert lease(api, "b") is None


def test_a_lease_that_cannot_be_read_raises(api: Api) -> None:
    server, _ = api
    server.fail_with = 500
    with pytest.raises(ApiException):
        lease(api, "a")


def test_a_lease_that_cannot_be_written_raises(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = api

    def refuse(*arguments: Any) -> Any:
        raise StatusError(403, "Forbidden")

    monkeypatch.setattr(server, "_create", refuse)
    with pytest.raises(ApiException):
        lease(api, "a")


def test_errors_while_writing_are_raised(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = api
    server.add_deployment("worker", 3)

    def refuse(*_: Any, **__: Any) -> Any:
        raise StatusError(403, "Forbidden")

    monkeypatch.setattr(server, "_changed", refuse)
    with pytest.raises(ApiException) as caught:
        scale(api, 5)
    assert caught.value.status == 403
    with pytest.raises(ApiException):
        scale(api, 1, running_by_worker={"worker-1": 1})


def test_an_autoscaler_of_another_deployment_is_not_in_charge(api: Api) -> None:
    server, cluster = api
    server.add_deployment("worker", 3)
    server.add_deployment("other", 3)
    server.add_scaled_object("other")
    assert find_controller(cluster, "worker").kind is ControllerKind.DEPLOYMENT
    assert find_controller(cluster, "other").kind is ControllerKind.SCALED_OBJECT


def test_inside_a_cluster_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "load_incluster_config", lambda: None)
    found = connect("inferenceflow")
    assert found is not None
    assert found.namespace == "inferenceflow"


def test_the_role_allows_what_the_scaler_does_and_is_valid() -> None:
    documents = list(yaml.safe_load_all((ROOT / "k8s" / "base" / "scaler-access.yaml").read_text()))
    for document in documents:
        kubernetes_validate.validate(document, "1.33", strict=True)
    [role] = [document for document in documents if document["kind"] == "Role"]
    allowed = {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {
        ("deployments", "get"),
        ("deployments/scale", "get"),
        ("deployments/scale", "patch"),
        ("horizontalpodautoscalers", "list"),
        ("horizontalpodautoscalers", "patch"),
        ("scaledobjects", "list"),
        ("scaledobjects", "patch"),
        ("pods", "list"),
        ("pods", "patch"),
        ("events", "create"),
        ("leases", "get"),
        ("leases", "create"),
        ("leases", "update"),
    } == allowed
