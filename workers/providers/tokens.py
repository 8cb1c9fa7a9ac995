"""How many tokens a conversation has, roughly, before a provider has counted them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.inference import Message

CHARS_PER_TOKEN = 4.0  # English text, OpenAI's rule of thumb; other tokenizers are within 30 %
WIDE_CHARS_PER_TOKEN = 1.5  # beyond ASCII: accents, Cyrillic, Chinese
MESSAGE_TOKENS = 4  # role and separators
IMAGE_TOKENS = 1_000  # between OpenAI's 85 (low detail) and Anthropic's 1,600


def estimate_text_tokens(text: str) -> int:
    """Estimated tokens of a text."""
    ascii_chars = len(text.encode("ascii", "ignore"))
    return math.ceil(
        ascii_chars / CHARS_PER_TOKEN + (len(text) - ascii_chars) / WIDE_CHARS_PER_TOKEN
    )


def estimate_tokens(prompt: str | Sequence[Message]) -> int:
    """Estimated input tokens of a prompt or conversation, images included."""
    if isinstance(prompt, str):
        return estimate_text_tokens(prompt) + MESSAGE_TOKENS
    return sum(
        estimate_text_tokens(message.text) + MESSAGE_TOKENS + IMAGE_TOKENS * len(message.images)
        for message in prompt
    )
