"""What the programs that measure the cache have in common: files, options, errors."""

from __future__ import annotations

import argparse
import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config.embedded_redis import RedisMissing
from tasks.cache_policy import CachePolicy
from workers.cache.embedding import ModelFileDamaged
from workers.cache.verifier import OnnxVerifier


class BadTable(Exception):
    """A file is not a CSV table with the columns that are needed."""


class BadModel(Exception):
    """A folder holds no verifier that can be used."""


def read_columns(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file in UTF-8, gzip by its suffix. Raises BadTable."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        rows = list(reader)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise BadTable(f"{path} cannot be read: {error}") from None
    if missing:
        raise BadTable(f"{path} has no column {', '.join(missing)}")
    if any(row[name] is None for row in rows for name in needed):
        raise BadTable(f"{path} has a row with too few columns")
    return rows


def add_policy(parser: argparse.ArgumentParser) -> None:
    """The options that set bounds and verifier; without them the product's own hold."""
    default = CachePolicy()
    parser.add_argument(
        "--threshold",
        type=float,
        default=default.threshold,
        help="least cosine, default %(default)s",
    )
    parser.add_argument(
        "--bar", type=float, default=default.verifier_bar, help="least score, default %(default)s"
    )
    parser.add_argument(
        "--verifier", type=Path, help="folder of another verifier: model.onnx and card.json"
    )


def add_shadow_rate(parser: argparse.ArgumentParser) -> None:
    """The option that has hits judged; without it nothing is."""
    parser.add_argument(
        "--shadow-rate",
        type=float,
        default=0.0,
        help="share of doubtful hits that are judged, as CACHE_SHADOW_RATE; default %(default)s",
    )


def verifier_of(arguments: argparse.Namespace) -> OnnxVerifier | None:
    """The verifier that the options name, None for the product's. Raises BadModel."""
    if arguments.verifier is None:
        return None
    try:
        return OnnxVerifier(arguments.verifier)
    except (OSError, ModelFileDamaged) as error:
        raise BadModel(f"the verifier in {arguments.verifier} cannot be used: {error}") from None


def policy_of(arguments: argparse.Namespace) -> CachePolicy:
    """The policy that the options ask for."""
    return CachePolicy(threshold=arguments.threshold, verifier_bar=arguments.bar)


def measured(
    parser: argparse.ArgumentParser, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The report of `measure`; what is missing ends the program with one line (exit status 2)."""
    try:
        return measure()
    except (BadTable, BadModel, RedisMissing) as error:
        parser.error(str(error))
