"""The pairs that the verifier learns from: labelled, edited, and drawn from the grammar."""

from __future__ import annotations

import csv
import gzip
import random
from dataclasses import dataclass
from pathlib import Path

from training.edits import RIVALS, SYNONYMS, change_answer, disguise, swap_words
from training.grammar_pairs import Frame, Grammar, Meaning, read_frames
from training.qualifying import qualify
from training.rephrasing import rephrase, talk_around
from training.utterances import INTENTS, UtterancePairs

FRAMES = ("frames_code.txt", "frames_life.txt", "frames_scope.txt")
# Written later, as people prompt models; many more subjects, each in few wordings.
PROMPTS = (
    "prompts_code.txt", "prompts_daily.txt", "prompts_knowledge.txt", "prompts_reason.txt",
    "prompts_support.txt", "prompts_text.txt", "prompts_work.txt",
)  # fmt: skip
# Labelled "same" in the source, but the two sides of the comparison are exchanged.
_MISLABELLED = "checklist:SRL: Order does not matter for comparison"


@dataclass(frozen=True)
class Pair:
    """Two prompts and whether one answer serves both."""

    a: str
    b: str
    same: bool
    source: str


def read_labelled(path: Path, split: str) -> list[Pair]:
    """The labelled pairs of one split."""
    with gzip.open(path, "rt", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        Pair(row["a"], row["b"], row["same"] == "1", row["source"])
        for row in rows
        if row["split"] == split and row["source"] != _MISLABELLED
    ]


class PairMaker:
    """Draws generated pairs; every draw depends on the seed alone."""

    def __init__(
        self, seed: int, *, held_back: bool = False, files: tuple[str, ...] = FRAMES + PROMPTS
    ) -> None:
        self.rng = random.Random(seed)
        self.grammar = Grammar(self.rng)
        every = [frame for name in files for frame in read_frames(name)]
        self.frames = [frame for frame in every if frame.held_back == held_back]
        self.tails = [f for f in read_frames("tails.txt") if f.held_back == held_back]

    def meaning(self) -> Meaning:
        """A random meaning of a random frame."""
        frame = self.rng.choice(self.frames)
        index = 0 if self.rng.random() < 0.6 else self.rng.randrange(len(frame.meanings))
        return self.grammar.meaning(frame, index)

    def grammar_pair(self, same: bool) -> Pair | None:
        """Two wordings of one meaning, or of two neighbouring ones."""
        say, rng = self.grammar.say, self.rng
        meaning = self.meaning()
        template = rng.choice(self.grammar.wordings(meaning))
        a = say(meaning, template)
        if same:
            other = self.grammar.exchanged(meaning) if rng.random() < 0.4 else meaning
            b, kind = say(other), "same"
        else:
            found = self.grammar.neighbour(meaning)
            if found is None:
                return None
            other, kind = found
            # Half of the traps keep the wording (a minimal edit), half change it as well.
            keep = other.index == meaning.index and rng.random() < 0.5
            b = say(other, template if keep else None)
        return self._finish(a, b, same, f"grammar:{kind}:{meaning.frame.name}")

    def tailed_pair(self, a: str, b: str, base_same: bool, same: bool, source: str) -> Pair | None:
        """Two questions with a condition put to one or both of them."""
        frame = self.rng.choice(self.tails)
        tail = self.grammar.meaning(frame, self.rng.randrange(len(frame.meanings)))
        if same:
            return self._finish(
                self._join(a, tail), self._join(b, tail), base_same, f"{source}:tail"
            )
        found = None if self.rng.random() < 0.35 else self.grammar.neighbour(tail)
        other = self._join(b, found[0]) if found else b
        first = self._join(a, tail)
        if self.rng.random() < 0.5:
            first, other = other, first
        return self._finish(first, other, False, f"{source}:tail_changed")

    def edited_pair(self, a: str, b: str, same: bool, source: str) -> Pair | None:
        """A labelled paraphrase (a, b) with b edited; or both edited alike, which keeps it one."""
        if not same:
            changed = change_answer(b, self.rng)
            if changed is None or _letters(changed) == _letters(a):
                return None
            return self._finish(a, changed, False, f"{source}:edited")
        reworded = swap_words(b, SYNONYMS, self.rng) or b
        return self._finish(a, reworded, True, f"{source}:reworded")

    def turned_pair(self, a: str, b: str, source: str) -> Pair | None:
        """A labelled paraphrase in which the same word became its rival on both sides."""
        state = self.rng.getstate()
        changed_a = swap_words(a, RIVALS, self.rng)
        self.rng.setstate(state)
        changed_b = swap_words(b, RIVALS, self.rng)
        if changed_a is None or changed_b is None:
            return None
        gained_a = set(changed_a.lower().split()) - set(a.lower().split())
        gained_b = set(changed_b.lower().split()) - set(b.lower().split())
        if gained_a != gained_b:
            return None
        return self._finish(changed_a, changed_b, True, f"{source}:turned")

    def qualified_pair(self, a: str, b: str, same: bool, source: str) -> Pair | None:
        """A paraphrase (a, b) with a qualifier: one in both texts, or in b alone or another one."""
        first = qualify(a, self.rng)
        if same:
            second = None if first is None else qualify(b, self.rng, like=first)
            if first is None or second is None:
                return None
            return self._finish(first.text, second.text, True, f"{source}:qualified")
        second = qualify(b, self.rng)
        if second is None:
            return None
        if first is not None and first.words != second.words and self.rng.random() < 0.3:
            a = first.text
        return self._finish(a, second.text, False, f"{source}:qualified")

    def dressed(self, a: str, b: str, same: bool, source: str) -> Pair | None:
        """The pair as given, with other manners."""
        return self._finish(a, b, same, source)

    def rephrased_pair(self, a: str, b: str, source: str) -> Pair | None:
        """Two forms of sentence for one question."""
        other = rephrase(b, self.rng)
        return None if other is None else self._finish(a, other, True, f"{source}:rephrased")

    def compound_pair(self, same: bool) -> Pair | None:
        """Two requests in one prompt; a trap changes one of them."""
        pair, rest = self.grammar_pair(same), self.meaning()
        if pair is None:
            return None
        joint = self.rng.choice([" Also, ", " And then: ", "\n", " "])
        x, y = self.grammar.say(rest), self.grammar.say(rest)
        if self.rng.random() < 0.5:
            a, b = pair.a.rstrip() + "." + joint + x, pair.b.rstrip() + "." + joint + y
        else:
            a, b = x.rstrip() + "." + joint + pair.a, y.rstrip() + "." + joint + pair.b
        return Pair(a, b, same, f"compound:{pair.source}")

    def _join(self, text: str, tail: Meaning) -> str:
        clause = self.grammar.say(tail)
        if "~" in clause:
            return clause.replace("~", text)
        if clause.startswith((" ", ",", ".")) and clause[1:2].isupper():
            return text + clause
        end = text[-1:] if text[-1:] in "?!." else ""
        return text.rstrip("?!. ") + clause + (end if end == "?" else "")

    def _finish(self, a: str, b: str, same: bool, source: str) -> Pair | None:
        strength = self.rng.choice([0.0, 1.0, 1.0])
        a, b = self._put_otherwise(a, strength), self._put_otherwise(b, strength)
        if " ".join(a.lower().split()) == " ".join(b.lower().split()):
            return None
        if self.rng.random() < 0.5:
            a, b = b, a
        return Pair(a, b, same, source)

    def _put_otherwise(self, text: str, strength: float) -> str:
        """The same question with other manners, and now and then in another form of sentence."""
        if self.rng.random() < 0.15 * strength:
            text = rephrase(text, self.rng) or text
        text = disguise(text, self.rng, strength)
        return talk_around(text, self.rng) if self.rng.random() < 0.08 * strength else text


def _letters(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def _draw(count: int, make: object) -> list[Pair]:
    made: list[Pair] = []
    while len(made) < count:
        pair = make()  # type: ignore[operator]
        if pair is not None:
            made.append(pair)
    return made


def training_pairs(
    path: Path, seed: int, scale: float, *, files: tuple[str, ...], grammar_share: float = 1.0
) -> list[Pair]:
    """Every pair of one stage of training, shuffled.

    `scale` multiplies the number of pairs of every kind, `grammar_share` once more that of the
    pairs drawn from the frames of `files`.
    """
    rng = random.Random(seed)
    labelled = read_labelled(path, "train")
    qqp = [pair for pair in labelled if pair.source == "qqp"]
    paraphrases = [pair for pair in qqp if pair.same]
    checklist = [pair for pair in labelled if pair.source.startswith("checklist")]
    maker = PairMaker(seed, files=files)
    utterances = UtterancePairs(path.parent.parent / INTENTS, random.Random(seed))
    bases = [pair.a for pair in qqp]

    def base() -> tuple[str, str]:
        """Two wordings of one question: labelled, from the grammar, or one disguised twice."""
        kind = rng.random()
        if kind < 0.35:
            pair = rng.choice(paraphrases)
            return pair.a, pair.b
        if kind < 0.75:
            meaning = maker.meaning()
            return maker.grammar.say(meaning), maker.grammar.say(meaning)
        text = rng.choice(bases)
        return text, text

    def tailed(same: bool) -> Pair | None:
        a, b = base()
        return maker.tailed_pair(a, b, True, same, "mixed")

    def edited(same: bool) -> Pair | None:
        pair = rng.choice(paraphrases)
        if rng.random() < 0.3:
            text = rng.choice(bases)
            pair = Pair(text, text, True, "qqp")
        return maker.edited_pair(pair.a, pair.b, same, pair.source)

    def turned() -> Pair | None:
        pair = rng.choice(paraphrases)
        return maker.turned_pair(pair.a, pair.b, pair.source)

    def grammar(same: bool) -> Pair | None:
        return maker.grammar_pair(same)

    def uttered(same: bool) -> Pair | None:
        found = utterances.same() if same else utterances.different()
        return None if found is None else maker.dressed(*found, same, "clinc")

    def qualified(same: bool) -> Pair | None:
        a, b = base()
        return maker.qualified_pair(a, b, same, "mixed")

    def rephrased() -> Pair | None:
        a, b = base()
        return maker.rephrased_pair(a, b, "mixed")

    def times(count: int) -> int:
        return int(count * scale)

    def some(pairs: list[Pair], count: int) -> list[Pair]:
        return rng.sample(pairs, min(times(count), len(pairs)))

    pairs = some(paraphrases, 14000) + some([pair for pair in qqp if not pair.same], 22000)
    pairs += some(checklist, 2000)
    pairs += _draw(times(7500), lambda: uttered(True)) + _draw(times(6000), lambda: uttered(False))
    pairs += _draw(int(times(12500) * grammar_share), lambda: grammar(True))
    pairs += _draw(int(times(16000) * grammar_share), lambda: grammar(False))
    pairs += _draw(times(3500), lambda: tailed(True)) + _draw(times(4000), lambda: tailed(False))
    pairs += _draw(times(2000), lambda: edited(True)) + _draw(times(4500), lambda: edited(False))
    pairs += _draw(times(2000), lambda: qualified(True))
    pairs += _draw(times(3000), lambda: qualified(False))
    pairs += _draw(times(4000), rephrased)
    pairs += _draw(times(800), turned)
    pairs += _draw(times(800), lambda: maker.compound_pair(True))
    pairs += _draw(times(1200), lambda: maker.compound_pair(False))
    rng.shuffle(pairs)
    return [pair for pair in pairs if _worth_learning(pair, rng)]


def _worth_learning(pair: Pair, rng: random.Random) -> bool:
    """The verifier only ever sees pairs that look alike; most of the others are left out."""
    a, b = set(pair.a.lower().split()), set(pair.b.lower().split())
    overlap = len(a & b) / len(a | b)
    if pair.same:
        return overlap >= 0.15 or rng.random() < 0.5
    return overlap >= 0.3 or rng.random() < 0.25


def development_pairs(count: int, seed: int = 7) -> list[Pair]:
    """Pairs from frames and conditions that never train."""
    maker = PairMaker(seed, held_back=True)
    half = count // 2
    pairs = _draw(half, lambda: maker.grammar_pair(True)) + _draw(
        half, lambda: maker.grammar_pair(False)
    )

    def tailed(same: bool) -> Pair | None:
        meaning = maker.meaning()
        say = maker.grammar.say
        return maker.tailed_pair(say(meaning), say(meaning), True, same, "dev")

    pairs += _draw(half // 3, lambda: tailed(True)) + _draw(half // 3, lambda: tailed(False))
    return pairs


__all__ = ["Frame", "Pair", "PairMaker", "development_pairs", "read_labelled", "training_pairs"]
