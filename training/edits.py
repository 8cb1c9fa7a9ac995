"""Edits of any English question: harmless ones, and minimal ones that change its answer."""

from __future__ import annotations

import random
import re

OPENINGS = (
    "Hi, ", "Hello! ", "Hey, ", "Please ", "Quick question: ", "Question: ", "Hi there. ", "So, ",
    "Ok, ", "Hey there, ", "I have a question. ", "Can you help? ", "Good morning. ", "hi ",
    "pls ", "Just wondering: ", "One more thing: ", "Help! ", "Dear assistant, ", "hey ",
    "Could you help me with this? ", "I was wondering: ", "Sorry to bother you. ", "um ",
)  # fmt: skip
CLOSINGS = (
    " please", " Please.", " Thanks!", " Thank you.", " thanks", " Thanks in advance.", " thx",
    " Cheers!", ", please", " Appreciate it.", " plz", "?", "!", "..", " Any help is welcome.",
)  # fmt: skip
CONTRACTIONS = (
    ("what is", "what's"), ("do not", "don't"), ("does not", "doesn't"), ("is not", "isn't"),
    ("can not", "can't"), ("cannot", "can't"), ("should not", "shouldn't"), ("i am", "I'm"),
    ("i would", "I'd"), ("will not", "won't"), ("did not", "didn't"), ("are not", "aren't"),
    ("how is", "how's"), ("who is", "who's"), ("where is", "where's"), ("it is", "it's"),
    ("i have", "I've"), ("you are", "you're"), ("that is", "that's"), ("was not", "wasn't"),
    ("would not", "wouldn't"), ("could not", "couldn't"), ("i will", "I'll"), ("let us", "let's"),
)  # fmt: skip
# Words that mean the same in a question, either way round.
SYNONYMS = (
    ("best", "top"), ("quickly", "fast"), ("buy", "purchase"), ("help", "assist"),
    ("start", "begin"), ("big", "large"), ("picture", "photo"), ("movie", "film"),
    ("kids", "children"), ("job", "position"), ("good", "decent"), ("show", "display"),
    ("fix", "repair"), ("make", "create"), ("get", "obtain"), ("phone", "telephone"),
    ("house", "home"), ("error", "mistake"), ("ways", "methods"), ("way", "method"),
    ("important", "essential"), ("improve", "enhance"), ("need", "require"), ("choose", "pick"),
    ("use", "utilize"), ("happen", "occur"), ("explain", "describe"), ("difference", "distinction"),
    ("people", "persons"), ("money", "cash"), ("city", "town"), ("company", "firm"),
    ("software", "program"), ("university", "college"), ("color", "colour"), ("rich", "wealthy"),
    ("smart", "intelligent"), ("difficult", "hard"), ("easy", "simple"), ("cheap", "inexpensive"),
    ("reason", "cause"), ("end", "finish"), ("tell", "inform"), ("allowed", "permitted"),
    ("change", "alter"), ("remove", "get rid of"), ("find", "locate"), ("optimize", "optimise"),
    ("organize", "organise"), ("center", "centre"), ("favorite", "favourite"), ("advice", "tips"),
    ("main", "primary"), ("safe", "secure"), ("answer", "reply"), ("doctor", "physician"),
    ("car", "automobile"), ("bike", "bicycle"), ("mobile", "cell phone"), ("learn", "study"),
)  # fmt: skip
# Words that are each other's opposite or rival: exchanging one changes the answer.
RIVALS = (
    ("before", "after"), ("with", "without"), ("increase", "decrease"), ("increase", "reduce"),
    ("gain", "lose"), ("buy", "sell"), ("open", "close"), ("enable", "disable"), ("on", "off"),
    ("import", "export"), ("first", "last"), ("always", "never"), ("all", "some"), ("all", "none"),
    ("more", "less"), ("more", "fewer"), ("high", "low"), ("higher", "lower"),
    ("highest", "lowest"),
    ("best", "worst"), ("good", "bad"), ("right", "wrong"), ("left", "right"), ("start", "stop"),
    ("start", "end"), ("add", "remove"), ("install", "uninstall"), ("maximum", "minimum"),
    ("most", "least"), ("old", "new"), ("older", "younger"), ("men", "women"), ("man", "woman"),
    ("boy", "girl"), ("husband", "wife"), ("mother", "father"), ("son", "daughter"), ("he", "she"),
    ("his", "her"), ("him", "her"), ("male", "female"), ("love", "hate"), ("like", "dislike"),
    ("advantages", "disadvantages"), ("pros", "cons"), ("cheap", "expensive"), ("fast", "slow"),
    ("safe", "dangerous"), ("legal", "illegal"), ("possible", "impossible"), ("easy", "difficult"),
    ("easiest", "hardest"), ("above", "below"), ("over", "under"), ("inside", "outside"),
    ("internal", "external"), ("online", "offline"), ("public", "private"), ("can", "can't"),
    ("should", "shouldn't"), ("do", "don't"), ("does", "doesn't"), ("did", "didn't"),
    ("is", "isn't"), ("are", "aren't"), ("will", "won't"), ("was", "wasn't"), ("is", "was"),
    ("are", "were"), ("does", "did"), ("do", "did"), ("will", "did"), ("who", "when"),
    ("who", "where"), ("when", "where"), ("why", "how"), ("why", "when"), ("win", "lose"),
    ("won", "lost"), ("send", "receive"),
    ("give", "take"), ("lend", "borrow"), ("teach", "learn"), ("ask", "answer"), ("rise", "fall"),
    ("north", "south"), ("east", "west"), ("morning", "evening"), ("day", "night"),
    ("today", "tomorrow"), ("yesterday", "tomorrow"), ("week", "month"), ("month", "year"),
    ("weekly", "monthly"), ("daily", "weekly"), ("hour", "minute"), ("every", "any"),
    ("only", "also"), ("except", "including"), ("and", "or"), ("and", "but not"), ("to", "from"),
    ("for", "against"), ("accept", "reject"), ("allow", "forbid"), ("allow", "prevent"),
    ("cause", "prevent"), ("cause", "cure"), ("causes", "symptoms"), ("get", "avoid"),
    ("become", "stop being"), ("create", "delete"), ("make", "avoid"), ("write", "read"),
    ("encode", "decode"), ("encrypt", "decrypt"), ("upload", "download"), ("login", "logout"),
    ("ascending", "descending"), ("even", "odd"), ("positive", "negative"), ("true", "false"),
    ("formal", "informal"), ("short", "long"), ("simple", "complex"), ("future", "past"),
    ("current", "former"), ("next", "previous"), ("single", "married"), ("rich", "poor"),
    ("adults", "children"), ("teacher", "student"), ("employee", "employer"), ("doctor", "patient"),
    ("buyer", "seller"), ("landlord", "tenant"), ("india", "china"), ("english", "spanish"),
    ("google", "facebook"), ("python", "java"), ("android", "iphone"), ("car", "motorcycle"),
    ("kg", "pounds"), ("miles", "kilometers"), ("dollars", "euros"), ("json", "xml"),
    ("summarize", "expand"), ("table", "list"), ("indian", "american"), ("usa", "uk"),
    ("movies", "books"), ("dog", "cat"), ("hair", "skin"), ("water", "milk"), ("phone", "laptop"),
    ("twice", "once"), ("partially", "completely"), ("temporarily", "permanently"),
    ("automatically", "manually"), ("locally", "remotely"), ("up to", "at least"),
    ("until", "since"), ("during", "before"), ("instead of", "in addition to"), ("than", "as"),
    ("each", "only one"), ("both", "neither"), ("may", "must"), ("could", "must"),
    ("being", "not being"), ("to be", "not to be"),
)  # fmt: skip
NUMBERED = re.compile(r"\d+")
_JOINED = re.compile(
    r"^(?P<head>.*\b(?:from|between|is|does|did|can|if|would|when|was|of)\s)(?P<a>[\w.'-]+)"
    r"(?P<mid>\s(?:to|better than|than|over|instead of|before|after|beat|into|against|"
    r"rather than)\s)"
    r"(?P<b>[\w.'-]+)(?P<tail>.*)$"
)


def disguise(text: str, rng: random.Random, strength: float = 1.0) -> str:
    """The same question as another person might type it."""
    draw = rng.random
    if draw() < 0.25 * strength:
        text = swap_words(text, CONTRACTIONS, rng, both_ways=True) or text
    if draw() < 0.15 * strength:
        text = rng.choice(OPENINGS) + (text[:1].lower() + text[1:] if draw() < 0.5 else text)
    if draw() < 0.15 * strength:
        text = text.rstrip("?. ") + rng.choice(CLOSINGS)
    if draw() < 0.3 * strength:
        text = text.rstrip("?.! ")
    if draw() < 0.12 * strength:
        text = _misspell(text, rng)
    if draw() < 0.2 * strength:
        text = text.lower()
    elif draw() < 0.03 * strength:
        text = text.upper()
    if draw() < 0.05 * strength:
        text = text.replace(" ", "  ", 1)
    return text


def _misspell(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    places = [
        i for i, word in enumerate(words) if len(word) > 5 and word.isalpha() and word.islower()
    ]
    if not places:
        return text
    place = rng.choice(places)
    word, cut = words[place], rng.randrange(1, len(words[place]) - 2)
    if rng.random() < 0.5:
        words[place] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    else:
        words[place] = word[:cut] + word[cut + 1 :]
    return " ".join(words)


def swap_words(
    text: str,
    pairs: tuple[tuple[str, str], ...],
    rng: random.Random,
    *,
    both_ways: bool = True,
) -> str | None:
    """`text` with one word of one of the `pairs` exchanged for its partner, or None."""
    found = []
    lowered = f" {text.lower()} "
    for a, b in pairs:
        for old, new in ((a, b), (b, a)) if both_ways else ((a, b),):
            if re.search(rf"(?<![\w'-]){re.escape(old)}(?![\w'-])", lowered):
                found.append((old, new))
    if not found:
        return None
    old, new = rng.choice(found)
    return re.sub(
        rf"(?<![\w'-]){re.escape(old)}(?![\w'-])", new, text, count=1, flags=re.IGNORECASE
    )


def change_number(text: str, rng: random.Random) -> str | None:
    """`text` with one number changed, or None if it has none."""
    found = list(NUMBERED.finditer(text))
    if not found:
        return None
    match = rng.choice(found)
    value = int(match[0][:9])
    new = rng.choice(
        [value + 1, max(0, value - 1), value * 10, value + 5, value // 2 + 1, value + 100]
    )
    if new == value:
        new += 2
    return text[: match.start()] + str(new) + text[match.end() :]


def negate(text: str, rng: random.Random) -> str | None:
    """`text` with a "not" put after an auxiliary or before an infinitive, or None."""
    places = list(
        re.finditer(
            r"\b(should|can|could|would|will|do|does|did|is|are|was|were|must)\s+"
            r"(i|you|we|they|he|she|it|one|people|someone)\b",
            text,
            re.IGNORECASE,
        )
    )
    infinitives = list(
        re.finditer(r"\b(how|way|ways|want|need|like|try|okay|important|possible) to\b", text)
    )
    if places and (not infinitives or rng.random() < 0.6):
        match = rng.choice(places)
        return text[: match.end()] + " not" + text[match.end() :]
    if infinitives:
        match = rng.choice(infinitives)
        return text[: match.end() - 2] + "not to" + text[match.end() :]
    return None


def exchange_sides(text: str) -> str | None:
    """`text` with the two sides of a directed relation exchanged, or None if it has none."""
    match = _JOINED.match(text)
    if match is None or match["a"].lower() == match["b"].lower():
        return None
    return match["head"] + match["b"] + match["mid"] + match["a"] + match["tail"]


def change_answer(text: str, rng: random.Random) -> str | None:
    """A minimal edit after which the answer is another one, or None if none applies."""
    edits = [
        lambda: swap_words(text, RIVALS, rng),
        lambda: swap_words(text, RIVALS, rng),
        lambda: change_number(text, rng),
        lambda: negate(text, rng),
        lambda: exchange_sides(text),
    ]
    rng.shuffle(edits)
    for edit in edits:
        changed = edit()
        if changed is not None and changed.lower() != text.lower():
            return changed
    return None
