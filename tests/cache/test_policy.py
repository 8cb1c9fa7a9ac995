from __future__ import annotations

import pytest

from tasks.cache_policy import CachePolicy, plan, volatility
from tasks.inference import InferenceSubmission, Message


def decide(policy: CachePolicy | None = None, tools: bool = False, **values: object):
    request = InferenceSubmission.model_validate({"prompt": "Why is the sky blue?"} | values)
    text = request.conversation()[-1].text
    return plan(request, text, policy or CachePolicy(), tools=tools)


def test_a_plain_prompt_uses_every_layer():
    decided = decide()
    assert (decided.exact, decided.semantic, decided.store, decided.reason) == (
        True, True, True, None,
    )  # fmt: skip
    assert (decided.threshold, decided.ttl) == (0.82, 86_400.0)


@pytest.mark.parametrize(
    ("values", "reason", "layers"),
    [
        ({"cache": {"mode": "off"}}, "off", (False, False, False)),
        ({"cache": {"mode": "refresh"}}, "refresh", (False, False, True)),
        ({"cache": {"mode": "exact"}}, "exact", (True, False, True)),
        ({"temperature": 1.5}, "temperature", (False, False, False)),
        ({"prompt": "What is the weather today?"}, "time", (False, False, False)),
        ({"prompt": "What is my balance?"}, "person", (False, False, False)),
        ({"tools": True}, "tools", (True, False, True)),
        ({"policy": CachePolicy(layers="exact")}, "route", (True, False, True)),
        ({"policy": CachePolicy(layers="none")}, "route", (False, False, False)),
    ],
)
def test_what_is_left_alone_and_why(values: dict, reason: str, layers: tuple[bool, ...]):
    decided = decide(**values)
    assert (decided.exact, decided.semantic, decided.store) == layers
    assert decided.reason == reason


def test_an_image_is_compared_exactly_only():
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
    ]
    message = Message.model_validate({"role": "user", "content": parts})
    request = InferenceSubmission(messages=[message])
    decided = plan(request, message.text, CachePolicy())
    assert (decided.exact, decided.semantic, decided.reason) == (True, False, "images")


def test_naming_a_ttl_asks_for_a_volatile_prompt():
    decided = decide(prompt="What is the weather today?", cache={"ttl": 60})
    assert decided.store
    assert decided.ttl == 60.0
    assert decide(CachePolicy(volatile=True), prompt="What is the weather today?").semantic


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("What happened yesterday?", "time"),
        ("What's the latest version of Redis?", "time"),
        ("Show me my orders", "person"),
        ("How much money do I have left?", "person"),
        ("How do I reset my password?", None),
        ("Cancel my subscription", None),
        ("Who was the first president?", None),
    ],
)
def test_volatility(text: str, kind: str | None):
    assert volatility(text) == kind
