"""Prompts embedded a second on one thread, alone and in batches.

`python -m benchmarks.embedding [--texts 320]`

Processor time, not wall time, is what counts: it says the same on a busy machine.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

from benchmarks.report import cell, write
from benchmarks.stack import different
from workers.cache.embedding import load_embedder


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    embedder = load_embedder()
    texts = [body.decode() for body in itertools.islice(different(b"@TEXT@"), arguments.texts)]
    embedder.embed(texts[:8])
    rows, data = [], {}
    for size in (1, 32):
        rates = []
        for _ in range(arguments.repeats):
            begun = time.process_time()
            for start in range(0, len(texts), size):
                embedder.embed(texts[start : start + size])
            rates.append(len(texts) / (time.process_time() - begun))
        tokens = sum(embedder.count_tokens(text) for text in texts) / len(texts)
        rows.append(
            {
                "batch": str(size),
                "tokens a prompt": f"{tokens:.0f}",
                "prompts/s of one core": cell(rates),
                "ms a prompt": cell([1000 / rate for rate in rates], 2),
            }
        )
        data[size] = rates
    write("embedding", "python -m benchmarks.embedding", rows, data, arguments.out)


if __name__ == "__main__":
    main()
