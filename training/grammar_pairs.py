"""Prompt pairs from a grammar of meanings, their wordings, and what lies next to them.

A frame (files in `training/grammar/`) is a list of meanings; a meaning is a list of wordings that
ask for the same thing. Slots such as `{a:city}` are filled from `words.txt`. Two wordings of one
meaning with the same slot values are a paraphrase. A trap differs in exactly one thing: one slot
value, two slots exchanged, or the neighbouring meaning of the frame (`!`: negated, other scope,
other order, other tense, ...).

    ## name [sym a b]     a frame; `sym`: exchanging slots a and b keeps the meaning
    = wording             a wording of the first meaning
    ! wording             the first wording of a further meaning
    | wording             another wording of that meaning
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

GRAMMAR = Path(__file__).parent / "grammar"
_SLOT = re.compile(r"\{(?:(\w+):)?(\w+)\}")
_MACRO = re.compile(r"@(\w+)")


@dataclass
class Frame:
    """Neighbouring meanings, each with its wordings."""

    name: str
    symmetric: tuple[str, str] | None = None
    meanings: list[list[str]] = field(default_factory=list)

    @property
    def held_back(self) -> bool:
        """About one frame in eight never trains: it measures generalisation."""
        return zlib.crc32(self.name.encode()) % 8 == 0


def read_words() -> dict[str, list[list[str]]]:
    """Slot type to values; a value is a list of synonyms."""
    words: dict[str, list[list[str]]] = {}
    for line in (GRAMMAR / "words.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            kind, values = line.split(": ", 1)
            words[kind] = [[word.strip() for word in v.split("|")] for v in values.split("; ")]
    return words


def read_macros() -> dict[str, list[str]]:
    """Macro name to its alternatives."""
    lines = (GRAMMAR / "macros.txt").read_text().splitlines()
    pairs = (line.split(": ", 1) for line in lines if line and not line.startswith("#"))
    return {name: alternatives.split("|") for name, alternatives in pairs}


def read_frames(filename: str) -> list[Frame]:
    """The frames of one grammar file."""
    frames: list[Frame] = []
    for line in (GRAMMAR / filename).read_text().splitlines():
        mark, wording = line[:1], line[2:]
        if line.startswith("## "):
            name, *symmetric = line[3:].split()
            frames.append(Frame(name, (symmetric[1], symmetric[2]) if symmetric else None))
        elif mark == "!" or (mark == "=" and not frames[-1].meanings):
            frames[-1].meanings.append([wording])
        elif mark in "=|" and line:
            frames[-1].meanings[-1].append(wording)
    return frames


Values = dict[str, int]  # slot name to the index of its value


@dataclass(frozen=True)
class Meaning:
    """One meaning of a frame with its slots filled."""

    frame: Frame
    index: int
    values: tuple[tuple[str, str, int], ...]  # (slot, type, index of the value)


class Grammar:
    """Draws meanings, their wordings, and their neighbours."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.words = read_words()
        self.macros = read_macros()

    def slots(self, frame: Frame) -> dict[str, str]:
        """Slot name to type, for every wording of the frame."""
        found: dict[str, str] = {}
        for meaning in frame.meanings:
            for wording in meaning:
                for name, kind in _SLOT.findall(wording):
                    found.setdefault(name or kind, kind)
        return found

    def meaning(self, frame: Frame, index: int = 0) -> Meaning:
        """A meaning of `frame` with random values; slots of one type get different ones."""
        values: list[tuple[str, str, int]] = []
        for slot, kind in self.slots(frame).items():
            used = {value for _, other, value in values if other == kind}
            free = [i for i in range(len(self.words[kind])) if i not in used]
            values.append((slot, kind, self.rng.choice(free)))
        return Meaning(frame, index, tuple(values))

    def wordings(self, meaning: Meaning) -> list[str]:
        """The templates of a meaning."""
        return meaning.frame.meanings[meaning.index]

    def say(self, meaning: Meaning, template: str | None = None) -> str:
        """One wording of the meaning."""
        template = template or self.rng.choice(self.wordings(meaning))
        kinds = {slot: (kind, value) for slot, kind, value in meaning.values}

        def fill(match: re.Match[str]) -> str:
            kind, value = kinds[match[1] or match[2]]
            return self.rng.choice(self.words[kind][value])

        opened = _MACRO.sub(lambda m: self.rng.choice(self.macros[m[1]]), template)
        return _SLOT.sub(fill, opened)

    def neighbour(self, meaning: Meaning) -> tuple[Meaning, str] | None:
        """A meaning that differs in one thing, and the kind of that difference."""
        used = {n or k for w in self.wordings(meaning) for n, k in _SLOT.findall(w)}
        swaps = self._swaps(meaning, used)
        others = [i for i in range(len(meaning.frame.meanings)) if i != meaning.index]
        changeable = [i for i, (slot, _, _) in enumerate(meaning.values) if slot in used]
        choices = ["swap"] * (3 * bool(swaps)) + ["meaning"] * (3 * bool(others))
        choices += ["slot"] * (3 * bool(changeable))
        if not choices:
            return None
        kind = self.rng.choice(choices)
        values = list(meaning.values)
        if kind == "meaning":
            return Meaning(meaning.frame, self.rng.choice(others), meaning.values), kind
        if kind == "swap":
            i, j = self.rng.choice(swaps)
            (a, t, x), (b, u, y) = values[i], values[j]
            values[i], values[j] = (a, t, y), (b, u, x)
        else:
            i = self.rng.choice(changeable)
            slot, word, value = values[i]
            taken = {v for _, k, v in values if k == word}
            free = [v for v in range(len(self.words[word])) if v not in taken]
            near = [v for v in free if abs(v - value) <= 2]  # neighbours in the list look alike
            values[i] = (
                slot,
                word,
                self.rng.choice(near if near and self.rng.random() < 0.5 else free),
            )
        return Meaning(meaning.frame, meaning.index, tuple(values)), kind

    def _swaps(self, meaning: Meaning, used: set[str]) -> list[tuple[int, int]]:
        found = []
        for i, (a, kind, _) in enumerate(meaning.values):
            for j in range(i + 1, len(meaning.values)):
                b, other, _ = meaning.values[j]
                if kind == other and {a, b} <= used and meaning.frame.symmetric != (a, b):
                    found.append((i, j))
        return found

    def exchanged(self, meaning: Meaning) -> Meaning:
        """The same meaning with the frame's symmetric slots exchanged, if it has any."""
        if meaning.frame.symmetric is None:
            return meaning
        a, b = meaning.frame.symmetric
        values = {slot: value for slot, _, value in meaning.values}
        turned = {a: values[b], b: values[a]}
        return Meaning(
            meaning.frame,
            meaning.index,
            tuple((slot, kind, turned.get(slot, value)) for slot, kind, value in meaning.values),
        )
