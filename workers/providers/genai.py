"""A provider call in the words of OpenTelemetry's semantic conventions for generative AI.

Nothing of the conversation: neither prompt nor answer, nor stop sequences, which a client writes.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from config.catalogue import ProviderKind
from tasks.inference import GenerationParams
from tasks.tracing import Attributes
from workers.providers.base import Completion

# The conventions have names for these; others go by the catalogue's.
WELL_KNOWN: dict[ProviderKind, str] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "gcp.gemini",
    "cohere": "cohere",
}


def asked(
    name: str,
    kind: ProviderKind,
    base_url: str,
    model: str,
    params: GenerationParams,
    streamed: bool,
) -> Attributes:
    """What a call asks for. Of the base URL the host alone: it may hold credentials."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": WELL_KNOWN.get(kind, name),
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.seed": params.seed,
        "gen_ai.request.stream": streamed,
        "server.address": urlsplit(base_url).hostname,
    }


def answered(completion: Completion) -> Attributes:
    """What came of it. The cost is in US dollars."""
    return {
        "gen_ai.response.model": completion.model,
        "gen_ai.response.finish_reasons": [completion.finish_reason],
        "gen_ai.response.time_to_first_chunk": completion.first_token_seconds,
        "gen_ai.usage.input_tokens": completion.usage.input_tokens,
        "gen_ai.usage.output_tokens": completion.usage.output_tokens,
        "inferenceflow.cost": completion.cost,
    }
