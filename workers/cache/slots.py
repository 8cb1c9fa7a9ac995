"""Numbers, dates and identifiers in a prompt: what must be equal before an answer is shared."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15,
    "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30,
    "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
    "hundred": 100, "thousand": 1000,
}  # fmt: skip
_NAMES = "|".join(_WORDS)
_SPELLED = re.compile(
    rf"\b(?:(?:a|one)\s+(?=hundred|thousand))?(?:{_NAMES})(?:(?:[\s-]+|\s+and\s+)(?:{_NAMES}))*\b",
    re.IGNORECASE,
)
_SOFT = {  # words that may stand for a number that the other text writes in digits
    "one": 1, "a": 1, "an": 1, "once": 1, "twice": 2, "half": 0.5, "dozen": 12, "couple": 2,
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10, "noon": 12, "midnight": 12, "zero": 0, "none": 0,
    "million": 1e6, "billion": 1e9, "double": 2, "single": 1,
}  # fmt: skip
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan", "february feb", "march", "april apr", "may", "june jun", "july jul",
            "august aug", "september sep sept", "october oct", "november nov", "december dec",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_AMBIGUOUS_MONTHS = {"may", "march"}  # also verbs: counted only beside a day or a year
_WEEKDAYS = {
    name: day
    for day in ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    for name in (day, day + "s")
}
_SCALE = {"k": 1e3, "m": 1e6, "bn": 1e9, "million": 1e6, "billion": 1e9, "thousand": 1e3}
_ISO_DATE = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_CLOCK = re.compile(
    r"\b(\d{1,2})(?::(\d{2}))?\s*([ap])\.?m\b\.?|\b(\d{1,2}):(\d{2})\b", re.IGNORECASE
)
_NUMBER = re.compile(
    r"(?<![\w.])(-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)*)"
    r"(?:st\b|nd\b|rd\b|th\b)?"
    r"(?:\s?(k|m|bn|million|billion|thousand)\b)?",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.]+|\bhttps?://\S+|\bwww\.\S+", re.IGNORECASE)
_IDENTIFIER = re.compile(
    r"#\d+\b"  # #4417
    r"|\b(?=\w*\d)(?=\w*[A-Za-z_])\w+(?:[-./]\w+)*"  # A113, x86_64, i18n
    r"|\b[A-Za-z]\w*(?:[-./]\w+)*[-./](?=\w*\d)\w+"  # ORD-1042, CVE-2021-44228
    r"|\b[a-z][a-z0-9]*_\w+"  # snake_case
    r"|\b[a-z]+[A-Z]\w*"  # camelCase
    r"|[\w./~\\-]*[/\\][\w./\\-]+\.\w+"  # a path to a file
    r"|\b\w+\.(?:py|js|ts|json|ya?ml|csv|txt|html?|css|md|sql|sh|toml|xml|log|go|rs|java|rb|php|c|h|cpp)\b"
)
_UNITS = (
    "km|cm|mm|kg|mg|lbs?|oz|ml|px|em|rem|ms|hrs?|mins?|[kmgt]b|mph|kph|[kmg]?hz|kwh|kw|bn|ft|in|"
    "st|nd|rd|th|am|pm|yrs?|[mglshvwdykcxf]"
)
_WITH_UNIT = re.compile(rf"^\d+(?:\.\d+)?(?:{_UNITS})$", re.IGNORECASE)
# Scales (10k) and ordinals (1st) stay glued: the number's own pattern reads them.
_GLUED_UNIT = re.compile(rf"(\d)(?=(?!(?:st|nd|rd|th|k|m|bn)\b)(?:{_UNITS})\b)", re.IGNORECASE)
_DAY_MONTH = re.compile(
    r"\b(?:(\d{1,2})(?:st|nd|rd|th)?(?:\s+of)?\s+)?([A-Za-z]+)\b(?:\s+(\d{1,4}))?"
)
_ABBREVIATED = re.compile(r"\b(Rs|No|Nr|Fig|Vol|Ch|pp?|approx)\.(?=\d)", re.IGNORECASE)
_FLAG = re.compile(r"(?<!\S)--?[A-Za-z][\w-]*")
_BYTES = re.compile(r"\b[KMGTP][Bb](?:ps)?\b")  # MB is not Mb
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Slots:
    """The hard facts of a prompt."""

    numbers: frozenset[float | str]
    soft_numbers: frozenset[float]
    calendar: frozenset[str]  # weekdays and months
    identifiers: frozenset[str]  # letters and digits only, lower case
    flags: frozenset[str]  # -r is not -R
    plain: str  # the whole text, letters and digits only, lower case


def read_slots(text: str) -> Slots:
    """The numbers, dates and identifiers of `text`, each in one form."""
    numbers: set[float | str] = set()
    calendar: set[str] = set()
    text = _ABBREVIATED.sub(r"\1 ", text)
    plain = _plain(text)
    identifiers = {_plain(match[0]) for match in _ADDRESS.finditer(text)}
    text = _ADDRESS.sub(" ", text)
    for match in _ISO_DATE.finditer(text):
        year, month, day = (int(part) for part in match.groups())
        numbers |= {float(year), float(day)}
        calendar.add(f"month {month}")
    text = _ISO_DATE.sub(" ", text)
    for match in _CLOCK.finditer(text):
        numbers.add(_clock(match))
    text = _CLOCK.sub(" ", text)
    kept = text
    for match in _IDENTIFIER.finditer(text):
        if not _WITH_UNIT.match(match[0]):
            identifiers.add(_plain(match[0]))
            kept = kept.replace(match[0], " ", 1)
    flags = {match[0] for match in _FLAG.finditer(kept)}
    flags |= {match[0] for match in _BYTES.finditer(kept)}
    kept = _FLAG.sub(" ", kept)
    kept = _GLUED_UNIT.sub(r"\1 ", kept)
    for match in _NUMBER.finditer(kept):
        numbers.add(_number(match))
    numbers |= {_spelled(match[0]) for match in _SPELLED.finditer(kept)}
    words = [match[0].lower() for match in _WORD.finditer(kept)]
    soft = {float(_SOFT[word]) for word in words if word in _SOFT}
    calendar |= {_WEEKDAYS[word] for word in words if word in _WEEKDAYS}
    for match in _DAY_MONTH.finditer(kept):
        name = match[2].lower()
        if name in _MONTHS and (name not in _AMBIGUOUS_MONTHS or match[1] or match[3]):
            calendar.add(f"month {_MONTHS[name]}")
    for name in identifiers:  # "Python3" beside "Python 3"
        soft |= {float(digits) for digits in re.findall(r"\d{1,15}", name)}
    return Slots(
        frozenset(numbers),
        frozenset(soft),
        frozenset(calendar),
        frozenset(identifiers),
        frozenset(flags),
        plain,
    )


def differ(first: Slots, second: Slots) -> str | None:
    """What differs (`number`, `date`, `identifier`), or None when the hard facts are equal."""
    if first.calendar != second.calendar:
        return "date"
    if not _covered(first, second) or not _covered(second, first):
        return "number"
    if first.flags != second.flags and not _shouted(first, second):
        return "identifier"
    if not _named(first, second) or not _named(second, first):
        return "identifier"
    return None


def _named(first: Slots, second: Slots) -> bool:
    """Whether every identifier of one text occurs in the other, however it is typed there."""
    return all(_occurs(name, second.plain) for name in first.identifiers)


def _occurs(name: str, plain: str) -> bool:
    """Whether `name` is in `plain`, and not as the beginning or end of a longer number."""
    before = r"(?<![0-9])" if name[:1].isdigit() else ""
    after = r"(?![0-9])" if name[-1:].isdigit() else ""
    return re.search(before + re.escape(name) + after, plain) is not None


def _shouted(first: Slots, second: Slots) -> bool:
    """Whether the units differ only because one text has none in that spelling."""
    return not (first.flags and second.flags) and all(
        not flag.startswith("-") for flag in first.flags | second.flags
    )


def _covered(first: Slots, second: Slots) -> bool:
    return all(n in second.numbers or n in second.soft_numbers for n in first.numbers)


def _spelled(text: str) -> float:
    """ "two thousand five hundred" as 2500.0."""
    total = part = 0
    for word in re.split(r"[\s-]+", text.lower()):
        value = _WORDS.get(word, 0 if word == "and" else 1)
        if value == 1000:
            total, part = total + max(part, 1) * 1000, 0
        elif value == 100:
            part = max(part, 1) * 100
        else:
            part += value
    return float(total + part)


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def _clock(match: re.Match[str]) -> str:
    if match[4] is not None:
        return f"{int(match[4])}:{int(match[5])}"
    hour = int(match[1]) % 12 + (12 if match[3].lower() == "p" else 0)
    return f"{hour}:{int(match[2] or 0)}"


def _number(match: re.Match[str]) -> float | str:
    digits = match[1].replace(",", "")
    if digits.count(".") > 1:
        return digits  # a version or an address
    if match[2] is None and "." in digits:
        return digits  # 3.10 is not 3.1
    return float(digits) * _SCALE.get((match[2] or "").lower(), 1.0)
