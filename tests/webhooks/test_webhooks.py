"""Webhooks through the whole stack, to a real receiver."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import requests
from standardwebhooks import Webhook, WebhookVerificationError

from tests.stack import RealStack, eventually
from tests.webhooks.receiver import Answer, Receiver

pytestmark = pytest.mark.slow

MODEL = "gemma3-270m"


def register(stack: RealStack, session: requests.Session, url: str, *events: str) -> dict[str, Any]:
    body: dict[str, Any] = {"url": url}
    if events:
        body["events"] = list(events)
    answer = session.post(f"{stack.url}/v1/webhooks", json=body)
    assert answer.status_code == 201, answer.text
    endpoint: dict[str, Any] = answer.json()
    return endpoint


def run(stack: RealStack, session: requests.Session, **fields: Any) -> dict[str, Any]:
    answer = session.post(
        f"{stack.url}/v1/inference?wait=30",
        json={"prompt": "Hello", "model_preference": MODEL, "cache": {"mode": "off"}, **fields},
    )
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def deliveries(
    stack: RealStack, session: requests.Session, endpoint: dict[str, Any]
) -> list[dict[str, Any]]:
    url = f"{stack.url}/v1/webhooks/{endpoint['id']}/deliveries"
    data: list[dict[str, Any]] = session.get(url).json()["data"]
    return data


def test_an_endpoint_hears_of_the_end_of_a_job(hook_stack: RealStack, receiver: Receiver) -> None:
    session = hook_stack.session(tenant="hears")
    endpoint = register(hook_stack, session, f"{receiver.url}/all")
    only_failures = register(hook_stack, session, f"{receiver.url}/failed", "job.failed")
    job = run(hook_stack, session)
    eventually(lambda: bool(receiver.at("/all")), seconds=20, what="the webhook")
    (got,) = receiver.at("/all")
    event = Webhook(endpoint["secret"]).verify(got.body, got.headers)
    assert event["type"] == "job.succeeded"
    assert event["data"]["id"] == job["id"]
    assert event["data"]["result"]["response"] == "Hello"
    with pytest.raises(WebhookVerificationError):
        Webhook(only_failures["secret"]).verify(got.body, got.headers)

    eventually(
        lambda: deliveries(hook_stack, session, endpoint)[0]["state"] == "delivered",
        seconds=10, what="the log",
    )  # fmt: skip
    (logged,) = deliveries(hook_stack, session, endpoint)
    assert logged["id"] == got.headers["webhook-id"]
    assert [one["status"] for one in logged["attempts"]] == [204]
    assert deliveries(hook_stack, session, only_failures) == []
    assert "secret" not in session.get(f"{hook_stack.url}/v1/webhooks/{endpoint['id']}").json()

    # Again by hand: the same id, a new signature.
    url = f"{hook_stack.url}/v1/webhooks/{endpoint['id']}/deliveries/{logged['id']}/redeliver"
    assert session.post(url).status_code == 202
    eventually(lambda: len(receiver.at("/all")) == 2, seconds=10, what="the redelivery")
    assert receiver.at("/all")[1].headers["webhook-id"] == logged["id"]
    assert receiver.at("/all")[1].body == got.body


def test_a_job_and_a_batch_call_their_own_url(hook_stack: RealStack, receiver: Receiver) -> None:
    session = hook_stack.session(tenant="own")
    secret = session.get(f"{hook_stack.url}/v1/webhooks/default-secret").json()["secret"]
    job = run(hook_stack, session, webhook_url=f"{receiver.url}/job")
    lines = "\n".join(
        json.dumps({"prompt": f"Say {n}", "model_preference": MODEL}) for n in range(3)
    )
    batch = session.post(
        f"{hook_stack.url}/v1/batch",
        params={"webhook_url": f"{receiver.url}/batch"},
        data=lines,
        headers={"Content-Type": "application/jsonl"},
    ).json()
    for path, kind, subject in (
        ("/job", "job.succeeded", job["id"]),
        ("/batch", "batch.completed", batch["id"]),
    ):
        eventually(lambda path=path: bool(receiver.at(path)), seconds=30, what=path)
        event = Webhook(secret).verify(receiver.at(path)[0].body, receiver.at(path)[0].headers)
        assert (event["type"], event["data"]["id"]) == (kind, subject)
    assert session.get(f"{hook_stack.url}/v1/webhooks").json()["data"] == []


def test_a_failing_endpoint_is_tried_again_with_the_same_id(
    hook_stack: RealStack, receiver: Receiver
) -> None:
    session = hook_stack.session(tenant="again")
    receiver.answers["/flaky"] = lambda count: Answer(500 if count == 1 else 200)
    register(hook_stack, session, f"{receiver.url}/flaky")
    run(hook_stack, session)
    eventually(lambda: len(receiver.at("/flaky")) == 2, seconds=30, what="a second attempt")
    first, second = receiver.at("/flaky")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])


def test_a_redirect_is_a_failure_and_is_not_followed(
    hook_stack: RealStack, receiver: Receiver
) -> None:
    session = hook_stack.session(tenant="redirect")
    receiver.answers["/moved"] = Answer(302, {"Location": f"{receiver.url}/elsewhere"})
    endpoint = register(hook_stack, session, f"{receiver.url}/moved")
    test = session.post(f"{hook_stack.url}/v1/webhooks/{endpoint['id']}/test")
    assert test.json()["status"] == 302
    assert receiver.at("/moved")[0].event["type"] == "webhook.test"
    assert receiver.at("/elsewhere") == []
    eventually(
        lambda: deliveries(hook_stack, session, endpoint)[0]["state"] == "failed",
        seconds=10, what="the log",
    )  # fmt: skip


def test_gone_disables_and_others_are_told(hook_stack: RealStack, receiver: Receiver) -> None:
    session = hook_stack.session(tenant="gone")
    receiver.answers["/gone"] = Answer(410, body=b"no more")
    endpoint = register(hook_stack, session, f"{receiver.url}/gone", "job.succeeded")
    register(hook_stack, session, f"{receiver.url}/ops", "webhook.disabled")
    run(hook_stack, session)
    eventually(lambda: bool(receiver.at("/ops")), seconds=20, what="webhook.disabled")
    told = receiver.at("/ops")[0].event
    assert told["type"] == "webhook.disabled"
    assert told["data"]["id"] == endpoint["id"]
    url = f"{hook_stack.url}/v1/webhooks/{endpoint['id']}"
    view = session.get(url).json()
    assert (view["enabled"], view["disabled_reason"]) == (False, "The endpoint answered 410 Gone.")
    run(hook_stack, session)
    assert session.post(f"{url}/test").status_code == 409
    assert len(receiver.at("/gone")) == 1
    receiver.answers["/gone"] = Answer(200)
    assert session.patch(url, json={"enabled": True}).json()["enabled"]
    assert session.post(f"{url}/test").json()["status"] == 200


def test_prolonged_failure_disables(hook_stack: RealStack, receiver: Receiver) -> None:
    session = hook_stack.session(tenant="prolonged")
    receiver.answers["/broken"] = Answer(503)
    endpoint = register(hook_stack, session, f"{receiver.url}/broken")
    run(hook_stack, session)
    url = f"{hook_stack.url}/v1/webhooks/{endpoint['id']}"
    eventually(lambda: not session.get(url).json()["enabled"], seconds=30, what="disabled")
    assert session.get(url).json()["disabled_reason"] == "The endpoint has failed for too long."
    eventually(
        lambda: deliveries(hook_stack, session, endpoint)[0]["state"] == "discarded",
        seconds=20, what="discarded",
    )  # fmt: skip


def test_rotation_signs_twice(hook_stack: RealStack, receiver: Receiver) -> None:
    session = hook_stack.session(tenant="rotate")
    endpoint = register(hook_stack, session, f"{receiver.url}/rotate")
    url = f"{hook_stack.url}/v1/webhooks/{endpoint['id']}"
    rotated = session.post(f"{url}/rotate").json()
    assert rotated["secret"] != endpoint["secret"]
    session.post(f"{url}/test")
    got = receiver.at("/rotate")[0]
    for secret in (endpoint["secret"], rotated["secret"]):
        Webhook(secret).verify(got.body, got.headers)
    assert len(got.headers["webhook-signature"].split()) == 2


def test_slow_endpoints_do_not_hold_up_other_tenants(
    hook_stack: RealStack, receiver: Receiver
) -> None:
    slow, quick = hook_stack.session(tenant="slow"), hook_stack.session(tenant="quick")
    for number in range(6):
        receiver.answers[f"/slow{number}"] = Answer(hang=True)
        register(hook_stack, slow, f"{receiver.url}/slow{number}")
    receiver.answers["/drip"] = Answer(drip=True)
    register(hook_stack, slow, f"{receiver.url}/drip")
    endpoint = register(hook_stack, quick, f"{receiver.url}/quick")
    for _ in range(5):
        run(hook_stack, slow)
    eventually(
        lambda: any(one.path.startswith("/slow") for one in receiver.got), seconds=20, what="slow"
    )
    run(hook_stack, quick)
    eventually(lambda: bool(receiver.at("/quick")), seconds=20, what="the quick one")
    # The slow ones still hang: far more time would be needed to get through them.
    log = deliveries(hook_stack, quick, endpoint)
    assert log[0]["attempts"] == [] or log[0]["attempts"][0]["status"] == 204
    assert max(receiver.most_at_once.values()) <= 2


def test_a_drip_ends_at_the_timeout(hook_stack: RealStack, receiver: Receiver) -> None:
    session = hook_stack.session(tenant="drip")
    receiver.answers["/drip"] = Answer(drip=True)
    endpoint = register(hook_stack, session, f"{receiver.url}/drip")
    attempt = session.post(f"{hook_stack.url}/v1/webhooks/{endpoint['id']}/test").json()
    assert (attempt["status"], attempt["error"]) == (None, "timeout")


def test_internal_addresses_are_refused(hook_stack: RealStack) -> None:
    session = hook_stack.session(tenant="ssrf")
    refused = (
        "http://10.0.0.1/x",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://2130706433/",
        "ftp://127.0.0.1/",
        "https://user:pw@127.0.0.1/",
    )
    for url in refused:
        answer = session.post(f"{hook_stack.url}/v1/webhooks", json={"url": url})
        # 127.0.0.1 itself is on the allow-list here, however it is written.
        assert answer.status_code == (201 if "2130706433" in url else 422), url
    answer = session.post(
        f"{hook_stack.url}/v1/inference",
        json={"prompt": "x", "webhook_url": "https://192.168.0.7/"},
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "webhook_url"


def test_openai_library_manages_endpoints_and_reads_events(
    hook_stack: RealStack, receiver: Receiver
) -> None:
    client = openai.OpenAI(
        base_url=f"{hook_stack.url}/v1", api_key=hook_stack.token(tenant="oai"), max_retries=0
    )
    made = client.webhooks.create(
        url=f"{receiver.url}/oai",
        name="ours",
        event_types=["response.completed", "batch.completed"],
    )
    assert made.signing_secret.startswith("whsec_")
    assert [one.id for one in client.webhooks.list()] == [made.id]
    response = client.responses.create(model=MODEL, input="Hello", background=True)
    eventually(lambda: bool(receiver.at("/oai")), seconds=20, what="response.completed")
    got = receiver.at("/oai")[0]
    event = client.webhooks.unwrap(got.body, got.headers, secret=made.signing_secret)
    assert event.type == "response.completed"
    assert event.data.id == response.id

    tested = client.webhooks.test(made.id, event_type="batch.completed")
    assert (tested.status_code, tested.success) == (204, True)
    sample = receiver.at("/oai")[1]
    assert client.webhooks.unwrap(
        sample.body, sample.headers, secret=made.signing_secret
    ).type == "batch.completed"  # fmt: skip

    changed = client.webhooks.update(made.id, name="theirs")
    assert changed.name == "theirs"
    rotated = client.webhooks.rotate_secret(made.id)
    client.webhooks.test(made.id, event_type="batch.completed")
    last = receiver.at("/oai")[2]
    client.webhooks.unwrap(last.body, last.headers, secret=rotated.signing_secret)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(last.body, last.headers, secret=made.signing_secret)
    assert client.webhooks.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(made.id)
