"""Other ways to ask the same: the syntax changes, the content words stay.

People put one question as a question, a wish or a few keywords, with politeness and talk around
it. Labelled question pairs hold few of these.
"""

from __future__ import annotations

import random
import re

# The beginning of a request, and what may stand in its place; \1 is the rest of the prompt.
_WAYS = (
    "how do i \\1", "how can i \\1", "how to \\1", "how would i \\1", "what's the way to \\1",
    "what is the best way to \\1", "i want to \\1", "i need to \\1", "i'd like to \\1",
    "i am trying to \\1", "help me \\1", "show me how to \\1", "tell me how to \\1",
    "can you tell me how to \\1", "could you explain how to \\1", "is there a way to \\1",
    "any way to \\1", "what do i need to do to \\1", "what should i do to \\1", "steps to \\1",
    "please walk me through how to \\1", "i need help trying to \\1", "how does one \\1",
    "i don't know how to \\1", "what are the steps to \\1", "could you help me \\1",
    "what must i do to \\1", "looking for a way to \\1", "i was hoping to \\1, how?",
)  # fmt: skip
_ABOUT = (
    "what is \\1", "what's \\1", "tell me \\1", "can you tell me \\1", "do you know \\1",
    "i'd like to know \\1", "please tell me \\1", "i want to know \\1", "could you tell me \\1",
    "any idea what \\1 is", "\\1", "let me know \\1", "give me \\1", "i need to know \\1",
    "do you happen to know \\1", "i was wondering what \\1 is", "\\1, what is it",
)  # fmt: skip
_LIST = (
    "what are \\1", "tell me \\1", "list \\1", "can you list \\1", "give me \\1", "which are \\1",
    "i'd like to know \\1", "name \\1", "could you name \\1", "i want to know \\1", "\\1",
    "do you know \\1", "show me \\1", "please list \\1",
)  # fmt: skip
_ABLE = (
    "can i \\1", "is it possible to \\1", "could i \\1", "am i able to \\1",
    "is it possible for me to \\1",
    "is there any way i can \\1", "i wonder if i can \\1", "do i have the option to \\1",
)  # fmt: skip
_WHERE = (
    "where can i \\1", "where do i \\1", "is there a place where i can \\1", "where could i \\1",
    "tell me where to \\1", "any place to \\1", "where should i go to \\1",
    "i'm looking for a place to \\1", "do you know where i can \\1",
)  # fmt: skip
_SHOULD = (
    "should i \\1", "is it a good idea to \\1", "would you advise me to \\1",
    "do you think i should \\1",
    "would it be wise to \\1", "is it wise to \\1", "would you recommend that i \\1",
)  # fmt: skip
_WHY = (
    "why do \\1", "why is it that \\1", "how come \\1", "what is the reason that \\1",
    "what's the reason why \\1", "for what reason do \\1", "i wonder why \\1", "tell me why \\1",
)  # fmt: skip
_HOW = (
    r"(?:how (?:do|can|could|should|would) (?:i|you|we|one)|how to|"
    r"what(?:'s| is) the (?:best )?way to|what are the (?:best )?ways to)"
)
_RULES = tuple(
    (re.compile(rf"^{pattern}\s+(.+)$", re.IGNORECASE | re.DOTALL), forms)
    for pattern, forms in (
        (_HOW, _WAYS),
        (r"(?:what is|what's|whats)(?= (?:the|my|your|a|an|this|our)\b)", _ABOUT),
        (r"(?:what are)(?= (?:the|some|my|your|good)\b)", _LIST),
        (r"(?:can i|is it possible to|could i)", _ABLE),
        (r"(?:where (?:can|do|could|should) (?:i|you|we|one))", _WHERE),
        (r"(?:should i|is it a good idea to)", _SHOULD),
        (r"(?:why do)", _WHY),
    )
)
_BEFORE = (
    "I've been thinking about this for a while. ", "I'm new here. ", "A friend asked me this. ",
    "I couldn't find it anywhere. ", "Not sure who to ask. ", "Sorry if this was asked before. ",
    "This is driving me crazy. ", "My boss wants to know. ", "I have tried searching already. ",
    "Ok so here's the thing. ", "Real quick, ", "Maybe a silly question, but ", "Hey team, ",
    "Hello, hope you're doing well. ", "Got a minute? ", "I need your help. ", "Say, ", "Well, ",
    "Hi, I need some help here. ", "Good day! ", "Excuse me, ", "alright, ", "yo ", "Hey bot, ",
    "I'd love to know: ", "Can I ask you something? ", "As quickly as possible: ", "Hmm, ",
)  # fmt: skip
_AFTER = (
    ", if possible", " if you don't mind", " when you get a chance", " asap", ", thank you so much",
    ". I'd appreciate a quick answer.", ". Any help would be great!", " right away please",
    ". I really need this.", ", would you?", ", I'd be grateful", ", if you can", " real quick",
    ". Help would be appreciated", " for me", ". Let me know.", " - thanks a lot", ", kindly",
    ". I've no idea.", " :)", ". Thank you very much in advance!", ". I'm a bit lost here.",
)  # fmt: skip


def rephrase(text: str, rng: random.Random) -> str | None:
    """`text` in another form of sentence, or None when no rule fits it."""
    stripped = text.strip().rstrip("?.! ")
    for pattern, forms in _RULES:
        match = pattern.match(stripped)
        if match is not None:
            return rng.choice(forms).replace("\\1", match[1])
    return None


def talk_around(text: str, rng: random.Random) -> str:
    """`text` with a remark before or after it that asks for nothing."""
    if rng.random() < 0.5:
        return rng.choice(_BEFORE) + text
    return text.rstrip("?.! ") + rng.choice(_AFTER)
