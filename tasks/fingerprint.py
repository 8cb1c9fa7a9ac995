"""When two requests are the same request: the scope of an answer, and the exact fingerprint.

Everything that changes an answer beside the last user message is its *scope*. The scope is hashed
field by field with length prefixes, so that no choice of strings makes two scopes collide. The
text is never part of the scope and the scope never part of the text.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from tasks.inference import GenerationParams, InferenceSubmission, Message

_SPACES = re.compile(r"\s+")
_CODE = re.compile(r"[\n`{}]|\s{3,}")
_CAPITALISED = re.compile(r"\b(?:[A-Z][a-z]{2,}|I|A|Is|Do|Am|Are|Can|In|On|If|My|So|To|Of|An)\b")


@dataclass(frozen=True)
class Scope:
    """What must be equal for an answer to be served again."""

    pool: str  # whose entries: `tenant_pool(...)` or `shared_pool(...)`
    model: str  # the model or route asked for
    revision: str  # of the model or route behind that name
    system: str  # every system and developer message, as JSON
    history: str  # every message before the last, in order, as JSON
    tools: str  # as JSON
    params: str  # generation parameters with the response format, as JSON
    images: str  # of the last message, as JSON

    @property
    def digest(self) -> str:
        """32 hexadecimal digits."""
        return digest(
            "scope-1", self.pool, self.model, self.revision, self.system, self.history,
            self.tools, self.params, self.images,
        )  # fmt: skip


def tenant_pool(tenant: str) -> str:
    """The pool of one tenant's own entries."""
    return f"tenant:{tenant}"


def shared_pool(name: str) -> str:
    """A pool that several tenants were put into on purpose."""
    return f"shared:{name}"


def digest(*parts: str | bytes) -> str:
    """32 hexadecimal digits over `parts`, each with its length before it (BLAKE2b)."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.hexdigest()


def scope_of(
    request: InferenceSubmission,
    *,
    pool: str,
    revision: str = "",
    tools: Sequence[object] = (),
) -> Scope:
    """The scope of `request` in `pool`. `revision` changes when a model behind its name does."""
    *before, last = request.conversation()
    system = [message for message in before if message.role in ("system", "developer")]
    return Scope(
        pool=pool,
        model=request.model_preference,
        revision=revision,
        system=_messages(system),
        history=_messages(before),  # with the system messages, for their places
        tools=_json(list(tools)),
        params=params_json(request.params()),
        images=_json([image.model_dump(mode="json") for image in last.images]),
    )


def params_json(params: GenerationParams) -> str:
    """The generation parameters that were given, with sorted keys."""
    return _json(params.model_dump(mode="json", exclude_none=True))


def last_user_text(request: InferenceSubmission) -> str:
    """The text that similarity is measured on: the last user message, and nothing else."""
    return request.conversation()[-1].text


def normalise(text: str) -> str:
    """`text` without differences that change nothing: spacing, sentence case, closing marks.

    Text that looks like code keeps its spacing and case. Case inside a word always stays: MB is
    not Mb, US is not us.
    """
    text = unicodedata.normalize("NFC", text).strip()
    if _CODE.search(text):
        return text
    text = _SPACES.sub(" ", text)
    text = text.rstrip(" ?!.") or text
    return _CAPITALISED.sub(lambda match: match[0].lower(), text)


def fingerprint(scope: Scope, text: str) -> str:
    """The name of the answer to `text` in `scope`: 32 hexadecimal digits."""
    return digest("exact-1", scope.digest, normalise(text))


def _messages(messages: Sequence[Message]) -> str:
    return _json([message.model_dump(mode="json") for message in messages])


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


__all__ = [
    "Scope", "digest", "fingerprint", "last_user_text", "normalise", "params_json", "scope_of",
    "shared_pool", "tenant_pool",
]  # fmt: skip
