from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tasks.intervals import wilson
from tests.cache.conftest import Believer
from workers.cache.embedding import Embedder
from workers.cache.evaluate import PairRow, evaluate, read_pairs
from workers.cache.replay import StreamRow, read_stream, replay
from workers.cache.verifier import OnnxVerifier

CSV = 'a,b,same,source\n"Why, then?",Why then,1,x:one\nBuy it,Sell it,0,x:two\n'


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.csv.gz"])
def test_pairs_are_read_plain_and_compressed(tmp_path: Path, name: str):
    data = CSV.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_pairs(tmp_path / name) == [
        PairRow("Why, then?", "Why then", True, "x:one"),
        PairRow("Buy it", "Sell it", False, "x:two"),
    ]


def test_evaluation_reports_by_source_and_beside_it_the_baselines(
    cache_redis_url: str, embedder: Embedder, verifier: OnnxVerifier
):
    rows = [
        PairRow("How do I reset my password?", "How can I reset my password", True, "x:same"),
        PairRow("Cancel my order", "Do not cancel my order", False, "x:trap"),
        PairRow("Wake me at 5", "Wake me at 6", False, "x:trap"),
        PairRow("Who painted Guernica?", "How long do eggs boil?", False, "y"),
    ]
    found = evaluate(rows, redis_url=cache_redis_url, embedder=embedder, verifier=verifier)
    total = found["sources"]["x"]
    assert (total["n_same"], total["n_different"]) == (1, 2)
    assert (total["recall"], total["false_hit_rate"]) == (1.0, 0.0)
    assert found["sources"]["y"]["recall"] is None
    plain = found["baselines"]["cosine_0.85"]["sources"]
    assert plain["x:trap"]["false_hit_rate"] >= 0.5
    assert plain["y"]["false_hit_rate"] == 0.0
    assert set(found["baselines"]) == {"cosine_0.85", "cosine_0.95", "redisvl_default"}
    assert 0 < found["lookup_ms"]["p50"] <= found["lookup_ms"]["p95"]


def test_an_empty_file_is_an_empty_report(
    cache_redis_url: str, embedder: Embedder, verifier: OnnxVerifier
):
    found = evaluate([], redis_url=cache_redis_url, embedder=embedder, verifier=verifier)
    assert found["sources"] == {}


def test_replay_counts_hits_wrong_hits_and_the_ideal(
    tmp_path: Path, cache_redis_url: str, embedder: Embedder, verifier: OnnxVerifier
):
    path = tmp_path / "stream.csv"
    path.write_text(
        "prompt,answer_id\n"
        "How do I reset my password?,reset\n"
        "how do I reset my password,reset\n"
        "How can I reset my password?,reset\n"
        "Who painted Guernica?,picasso\n"
        "Who painted Guernica?,somebody else\n"
    )
    rows = read_stream(path)
    assert rows[0] == StreamRow("How do I reset my password?", "reset")
    found = replay(rows, redis_url=cache_redis_url, embedder=embedder, verifier=verifier)
    assert found["hit_rate"] == pytest.approx(3 / 5)
    assert found["exact_hit_rate"] == pytest.approx(2 / 5)
    assert found["wrong_rate"] == pytest.approx(1 / 5)
    assert found["wrong"] == [
        {
            "prompt": "Who painted Guernica?",
            "answer_id": "somebody else",
            "served_from": "Who painted Guernica?",
            "served_id": "picasso",
            "requests": 1,
        }
    ]
    assert found["ideal_hit_rate"] == pytest.approx(2 / 5)
    assert found["hits_by_layer"] == {"exact": 2, "semantic": 1}
    assert found["saved_cost_share"] == pytest.approx(3 / 5)


def test_a_replay_with_judging_corrects_a_wording_that_comes_back(
    cache_redis_url: str, embedder: Embedder
):
    rows = [StreamRow("Who painted Guernica?", "picasso")]
    rows += [StreamRow("Who has painted Guernica?", "nobody")] * 3
    doubtful = Believer(score=0.6)
    plain = replay(rows, redis_url=cache_redis_url, embedder=embedder, verifier=doubtful)
    assert plain["wrong_rate"] == pytest.approx(3 / 4)
    assert plain["saved_cost_share"] == pytest.approx(3 / 4)
    assert plain["shadow"] == {"judged": 0, "wrong": 0, "bar": 0.46}
    judged = replay(
        rows, redis_url=cache_redis_url, embedder=embedder, verifier=doubtful, shadow_rate=1.0
    )
    assert judged["wrong_rate"] == pytest.approx(1 / 4)
    assert judged["hits_by_layer"] == {"exact": 2, "semantic": 1}
    assert judged["saved_cost_share"] == pytest.approx(2 / 4)  # a call for the judgement
    assert judged["shadow"] == {"judged": 1, "wrong": 1, "bar": 0.46}


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_intervals(successes: int, total: int, low: float, high: float):
    assert wilson(successes, total) == pytest.approx((low, high), abs=1e-4)
