"""Streams through the real stack: how long to the first text, how far behind the provider.

    python -m benchmarks.streams --streams 50 --words 100 --interval 0.02

The stand-in provider sends a word every `--interval`. Each client submits a chat completion with
`stream` over plain HTTP. Prints one JSON object: seconds to the first text and from there to the
end, against what the same provider takes when it is asked directly.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.stack import real_stack

MODEL = "gemma3-270m"


def one(url: str, headers: dict[str, str], prompt: str) -> tuple[float, float, int]:
    """Seconds to the first text and to the end, and the number of events with text."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
    }
    if "Authorization" in headers:
        body["cache"] = {"mode": "off"}
    started = time.monotonic()
    first, events, text = 0.0, 0, ""
    with requests.post(url, json=body, headers=headers, stream=True, timeout=120) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines(chunk_size=1):
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:])["choices"]
            piece = choices[0]["delta"].get("content") if choices else None
            if piece:
                first = first or time.monotonic() - started
                events += 1
                text += piece
    assert text == prompt
    return first, time.monotonic() - started, events


def summary(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 3),
        "p95": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 3),
    }


def measure(url: str, headers: dict[str, str], streams: int, words: int) -> dict[str, object]:
    prompts = [" ".join(f"w{number}-{word}" for word in range(words)) for number in range(streams)]
    with ThreadPoolExecutor(streams) as pool:
        results = list(pool.map(lambda prompt: one(url, headers, prompt), prompts))
    return {
        "first_text_s": summary([first for first, _, _ in results]),
        "whole_s": summary([whole for _, whole, _ in results]),
        "events_each": statistics.mean(events for _, _, events in results),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--interval", type=float, default=0.02)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        real_stack(
            Path(folder), "--interval", str(given.interval), MAX_WORKERS=str(given.streams + 8)
        ) as stack,
    ):
        headers = {"Authorization": f"Bearer {stack.token()}"}
        ours = f"{stack.url}/v1/chat/completions"
        one(ours, headers, "warm up")
        direct = f"http://127.0.0.1:{stack.provider_port}/v1/chat/completions"
        report = {
            "streams": given.streams,
            "words": given.words,
            "interval_s": given.interval,
            "direct": measure(direct, {}, given.streams, given.words),
            "inferenceflow": measure(ours, headers, given.streams, given.words),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
