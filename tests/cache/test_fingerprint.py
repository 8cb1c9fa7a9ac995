from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.fingerprint import Scope, digest, fingerprint, normalise, scope_of, tenant_pool
from tasks.inference import InferenceSubmission, Message

HOSTILE = st.text(alphabet=st.sampled_from(list("ab|:{}\\\"'*@,- \n\0é")), max_size=6)


def ask(**values: object) -> InferenceSubmission:
    return InferenceSubmission.model_validate({"prompt": "Why is the sky blue?"} | values)


@given(st.lists(HOSTILE, min_size=8, max_size=8), st.lists(HOSTILE, min_size=8, max_size=8))
def test_two_scopes_have_one_digest_only_when_every_field_is_equal(one: list[str], two: list[str]):
    assert (Scope(*one).digest == Scope(*two).digest) == (one == two)


@given(st.lists(HOSTILE, max_size=4), st.lists(HOSTILE, max_size=4))
def test_moving_a_character_across_a_boundary_changes_the_digest(one: list[str], two: list[str]):
    assert (digest(*one) == digest(*two)) == (one == two)


@pytest.mark.parametrize("name", [field.name for field in fields(Scope)])
def test_every_field_of_the_scope_counts(name: str):
    scope = Scope("p", "m", "r", "s", "h", "t", "g", "i")
    assert fingerprint(scope, "x") != fingerprint(replace(scope, **{name: "other"}), "x")


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"max_tokens": 10},
        {"seed": 1},
        {"stop": ["x"]},
        {"system": "Be brief."},
        {"model_preference": "gpt-5"},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_what_changes_the_answer_changes_the_scope(change: dict[str, object]):
    assert scope_of(ask(), pool="p").digest != scope_of(ask(**change), pool="p").digest


def test_history_tools_revision_and_pool_are_part_of_the_scope():
    history = [
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello"),
        Message(role="user", content="Why is the sky blue?"),
    ]
    talk = InferenceSubmission(messages=history)
    scopes = {
        scope_of(ask(), pool="p").digest,
        scope_of(talk, pool="p").digest,
        scope_of(ask(), pool="q").digest,
        scope_of(ask(), pool="p", revision="2").digest,
        scope_of(ask(), pool="p", tools=[{"name": "search"}]).digest,
    }
    assert len(scopes) == 5


def test_metadata_priority_and_webhooks_do_not_change_the_scope():
    plain = scope_of(ask(), pool=tenant_pool("t"))
    other = ask(priority="high", metadata={"k": "v"}, webhook_url="https://x.example")
    assert plain == scope_of(other, pool=tenant_pool("t"))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("How do I reset it?", "how do I  reset it"),
        ("Hello", "hello"),
        (" What is Rust? ", "What is Rust"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_harmless_differences_vanish(one: str, two: str):
    assert normalise(one) == normalise(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("10 MB", "10 Mb"),
        ("moving to the US", "moving to the us"),
        ("def f():\n    return 1", "def f():\n  return 1"),
        ("explain `a  b`", "explain `a b`"),
        ("???", "!"),
    ],
)
def test_differences_that_matter_stay(one: str, two: str):
    assert normalise(one) != normalise(two)
