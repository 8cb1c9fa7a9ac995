from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from workers.cache.embedding import (
    MAX_JOINED,
    MODELS,
    BatchingEmbedder,
    Embedder,
    ModelFileDamaged,
    OnnxEmbedder,
    SentenceTransformersEmbedder,
    Vectors,
    load_embedder,
)

TEXTS = ["Why is the sky blue?", "sort a list in Python", "x", "a " * 400]


def test_vectors_are_unit_float32_and_do_not_depend_on_the_batch(embedder: Embedder):
    together = embedder.embed(TEXTS)
    assert together.shape == (4, 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(embedder.embed([text])[0], vector, atol=1e-6)


def test_no_texts_are_no_vectors(embedder: Embedder):
    assert embedder.embed([]).shape == (0, 384)


def test_tokens_are_counted_beyond_the_cut(embedder: Embedder):
    assert embedder.count_tokens("one two three") == 5
    assert embedder.count_tokens("a " * 400) == 402


def test_the_int8_path_never_imports_torch():
    code = (
        "import sys; from workers.cache.embedding import load_embedder;"
        "load_embedder().embed(['x']);"
        "from workers.cache.cache import SemanticCache;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_damaged_model_file_is_refused(tmp_path: Path):
    shutil.copytree(MODELS / "embedder", tmp_path / "m")
    with (tmp_path / "m" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelFileDamaged):
        OnnxEmbedder(tmp_path / "m")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_int8_agrees_with_sentence_transformers():
    reference = SentenceTransformersEmbedder()
    ours = load_embedder()
    assert reference.build != ours.build
    assert reference.width == ours.width == 384
    assert reference.count_tokens(TEXTS[0]) == ours.count_tokens(TEXTS[0])
    cosines = (reference.embed(TEXTS) * ours.embed(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.97


class Slow:
    """An embedder that holds its first batch until told, and notes the batches it gets."""

    build, width, max_tokens = "slow", 1, 10

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered, self.go_on = threading.Event(), threading.Event()

    def embed(self, texts: list[str]) -> Vectors:
        self.batches.append(texts)
        self.entered.set()
        self.go_on.wait(10)
        if "bad" in texts:
            raise ValueError("bad text")
        return np.array([[float(len(text))] for text in texts], np.float32)

    def count_tokens(self, text: str) -> int:
        return len(text)


def test_what_arrives_while_the_model_is_busy_becomes_one_batch():
    slow = Slow()
    batching = BatchingEmbedder(slow)
    with ThreadPoolExecutor(5) as threads:
        first = threads.submit(batching.embed, ["a"])
        assert slow.entered.wait(10)
        rest = [threads.submit(batching.embed, ["bb" * n]) for n in range(1, 5)]
        while len(batching._queue) < 4:
            threading.Event().wait(0.001)
        slow.go_on.set()
        assert first.result()[0, 0] == 1.0
        assert [future.result()[0, 0] for future in rest] == [2.0, 4.0, 6.0, 8.0]
    assert [len(batch) for batch in slow.batches] == [1, 4]


def test_callers_are_read_in_their_order_and_few_at_a_time():
    slow = Slow()
    batching = BatchingEmbedder(slow)
    with ThreadPoolExecutor(24) as threads:
        futures = [threads.submit(batching.embed, ["a"])]
        assert slow.entered.wait(10)
        for n in range(1, 21):  # one after another, so that the order is known
            futures.append(threads.submit(batching.embed, ["b" * n] * (3 if n == 5 else 1)))
            while len(batching._queue) < n:
                threading.Event().wait(0.001)
        slow.go_on.set()
        assert [future.result()[0, 0] for future in futures] == [1.0, *map(float, range(1, 21))]
    joined = slow.batches[1:]
    assert [text for batch in joined for text in batch] == [
        "b" * n for n in range(1, 21) for _ in range(3 if n == 5 else 1)
    ]
    assert max(len(batch) for batch in joined) == MAX_JOINED


def test_a_call_of_many_texts_is_not_cut():
    slow = Slow()
    slow.go_on.set()
    assert len(BatchingEmbedder(slow).embed(["a"] * (MAX_JOINED + 1))) == MAX_JOINED + 1
    assert len(slow.batches) == 1


def test_the_delay_is_what_waits_times_what_a_text_takes():
    slow = Slow()
    batching = BatchingEmbedder(slow)
    assert batching.delay() == 0.0
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(batching.embed, ["a"])
        assert slow.entered.wait(10)
        assert batching.delay() == 0.0  # nothing was measured yet
        slow.go_on.set()
        first.result()
        a_text = batching._seconds
        assert a_text > 0.0
        slow.entered.clear()
        slow.go_on.clear()
        second = threads.submit(batching.embed, ["b", "c"])
        assert slow.entered.wait(10)
        assert batching.delay() == 2 * a_text
        slow.go_on.set()
        second.result()
    assert batching.delay() == 0.0


def test_an_error_reaches_the_caller_and_the_next_call_works():
    slow = Slow()
    slow.go_on.set()
    batching = BatchingEmbedder(slow)
    with pytest.raises(ValueError, match="bad text"):
        batching.embed(["bad"])
    assert batching.embed(["fine"])[0, 0] == 4.0
    assert batching._waiting == 0
    assert batching.count_tokens("abc") == 3
