"""What a client waits for: an exact hit, a semantic hit, a miss. One client, the whole stack.

`python -m benchmarks.hits PAIRS.csv.gz [--pairs 120]`

PAIRS (columns a, b, same, source, split) gives pairs that mean the same. `a` is asked first (a
miss: the upstream takes 50 ms), then `a` again (exact, answered by the API), then `b` (semantic, if
the cache finds it and its verifier agrees; else another miss).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.report import write
from benchmarks.stack import MeasuredStack


def _pairs(path: Path, most: int) -> list[tuple[str, str]]:
    text = gzip.decompress(path.read_bytes()).decode()
    rows = csv.DictReader(io.StringIO(text, newline=""))
    same = ((r["a"], r["b"]) for r in rows if r["same"] == "1" and r["split"] == "calibrate")
    return [pair for pair, _ in zip(same, range(most), strict=False)]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs_file", type=Path)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        stack = MeasuredStack(Path(name))
        try:
            stack.start_redis()
            stack.start_upstream()
            stack.start_api()
            stack.start_worker("worker1")
            stack.start_system()
            stack.start_beat()
            session = stack.session()

            def ask(prompt: str) -> None:
                begun = time.perf_counter()
                answer = session.post(
                    f"{stack.url}/v1/inference?wait=30",
                    json={"prompt": prompt, "max_tokens": 50},
                    timeout=60,
                )
                milliseconds = (time.perf_counter() - begun) * 1000
                result = answer.json()["result"]
                layer = result["cache"]["layer"] if result["cache_hit"] else "miss"
                found[layer].append(milliseconds)

            ask("what is loaded with the first request")
            found.clear()
            for first, second in _pairs(arguments.pairs_file, arguments.pairs):
                ask(first)
                ask(first)
                ask(second)
        finally:
            stack.stop()
    rows = []
    for layer in ("exact", "semantic", "miss"):
        times = sorted(found[layer])
        if len(times) < 2:
            continue
        cuts = statistics.quantiles(times, n=100)
        rows.append(
            {
                "answer": layer,
                "asked": str(len(times)),
                "p50 ms": f"{cuts[49]:.1f}",
                "p95 ms": f"{cuts[94]:.1f}",
                "beyond the upstream's 50 ms, p50": f"{cuts[49] - 50:.1f}"
                if layer == "miss"
                else "-",
            }
        )
    write("hits", "python -m benchmarks.hits PAIRS.csv.gz", rows, dict(found), arguments.out)


if __name__ == "__main__":
    main()
