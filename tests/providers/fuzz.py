"""Coverage-guided fuzzing of the parsers of providers' answers: only our own errors may leave.

    python -m tests.providers.fuzz -max_total_time=600 build/fuzz-corpus
    python -m tests.providers.fuzz -runs=20000

Takes libFuzzer's options. A first run writes valid answers of every format into the corpus. An
input that raises anything else is written to a file, and the exit code is not 0.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["workers.providers", "tasks.inference"]):
    from tests.fakes import shapes
    from workers.providers.anthropic import AnthropicDialect
    from workers.providers.cohere import CohereDialect
    from workers.providers.dialect import Dialect
    from workers.providers.errors import ProviderError
    from workers.providers.failures import error_from, in_stream_error
    from workers.providers.google import GoogleDialect
    from workers.providers.openai import OpenAIDialect
    from workers.providers.sse import event_data

DIALECTS: list[tuple[shapes.Kind, Dialect]] = [
    ("openai", OpenAIDialect()),
    ("anthropic", AnthropicDialect()),
    ("google", GoogleDialect()),
    ("cohere", CohereDialect()),
]
MODES = ("answer", "stream", "failure")


def one_input(data: bytes) -> None:
    """The first byte chooses a format, the second what is read; the rest is what came."""
    if len(data) < 2:
        return
    _, dialect = DIALECTS[data[0] % len(DIALECTS)]
    mode, body = MODES[data[1] % len(MODES)], data[2:]
    try:
        if mode == "answer":
            dialect.answer(body, "model")
        elif mode == "stream":
            reader = dialect.reader("model")
            for event in event_data([body[:7], body[7:]]):  # cut somewhere, as the network does
                reader.feed(event)
            reader.answer()
        else:
            error_from(400 + data[0], {"Retry-After": body[:20].decode("latin-1")}, body, "key")
            in_stream_error(json.loads(body))
    except ProviderError:
        return
    except (ValueError, RecursionError):
        if mode != "failure":
            raise  # there it is our own reading of JSON that failed


def sow(folder: Path) -> None:
    """Valid answers of every format, whole, streamed and refused, for the fuzzer to spoil."""
    for number, (kind, _) in enumerate(DIALECTS):
        whole = shapes.whole(kind, "the answer", "model", "stop", (3, 2))
        streamed = b"".join(shapes.stream(kind, ["the ", "answer"], "model", "stop", (3, 2)))
        refused = shapes.error(kind, 429, "too many tokens: 5")
        for mode, content in enumerate((whole, streamed, refused)):
            (folder / f"{kind}-{MODES[mode]}").write_bytes(bytes([number, mode]) + content)


def main() -> None:
    with tempfile.TemporaryDirectory() as fresh:
        arguments = list(sys.argv)
        if all(argument.startswith("-") for argument in arguments[1:]):
            arguments.append(fresh)
        corpus = Path(arguments[-1])
        corpus.mkdir(parents=True, exist_ok=True)
        sow(corpus)
        atheris.Setup(arguments, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
