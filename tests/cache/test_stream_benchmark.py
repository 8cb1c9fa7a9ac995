"""The stream that the cache's figures rest on holds the traps that it is said to hold."""

from __future__ import annotations

from benchmarks.cache_stream import clusters, labelled_different, make_stream

SAME = [(f"same {i}", f"same {i} again", True) for i in range(20)]
DIFFERENT = [(f"trap {i}", f"trap {i} changed", False) for i in range(20)]
BESIDE = [(f"same {i}", f"beside {i}", False) for i in range(20)]


def test_half_of_the_clusters_are_traps():
    groups = clusters(SAME + DIFFERENT, 12, seed=1)
    assert len(groups) == 12
    assert sum(len(texts) == 2 for texts in groups) == 6
    texts = {text for group in groups for text in group}
    traps = [(a, b) for a, b, _ in DIFFERENT if a in texts]
    assert len(traps) == 3
    assert all(b in texts for _, b in traps)
    assert len(labelled_different(SAME + DIFFERENT, groups)) == 3


def test_traps_beside_a_chosen_cluster_come_first():
    groups = clusters(SAME + DIFFERENT + BESIDE, 12, seed=1)
    texts = {text for group in groups for text in group}
    assert {f"beside {i}" for i in range(20) if f"same {i}" in texts} == {
        text for text in texts if text.startswith("beside")
    }
    assert not any(text.startswith("trap") for text in texts)


def test_a_request_asks_for_the_answer_of_its_cluster():
    groups = clusters(SAME + DIFFERENT, 12, seed=1)
    rows = make_stream(groups, 200, seed=2)
    assert len(rows) == 200
    assert all(row.prompt in groups[int(row.answer_id)] for row in rows)
