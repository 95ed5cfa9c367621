"""What keeps an answer from judging itself: it is data, however much it sounds like an instruction.

Three walls. Answers that talk to the judge, or say nothing, are refused before anything is asked. What is left is
stripped of chat-template tokens and put between delimiters that its writer cannot have known. And the instruction
is repeated after it, so that the judge's own words come last. None is perfect: the licence measures what gets past
them with canaries (`judge.injection`). Openers that fool judges: arXiv 2507.08794.

Left out: a perplexity check; an honest answer in a language the model hardly knows would fail it.
"""

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Mapping, Sequence

from store.records import Message, Role

#: Bumped with every change of what is refused or how judged text is laid out: such a change makes other scores.
VERSION = "1"
#: Characters a judge reads. Of a question the end (its latest turns), of an answer the beginning.
QUESTION_CHARACTERS = 2400
ANSWER_CHARACTERS = 3200
#: Each of two answers that lie side by side.
SIDE_CHARACTERS = 1800
#: Stands where something was left out.
CUT = "[...]"

#: Turn and control tokens of common chat templates. None holds a blank, so what is left of a removal, which
#: becomes a blank, cannot be the middle of another one.
TEMPLATE_TOKEN = re.compile(
    r"<[|｜][^<>|｜\s]{0,40}[|｜]>"
    r"|\[/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK)\]"
    r"|<</?SYS>>"
    r"|</?(?:s|bos|eos|pad|unk|sop|eop|start_of_turn|end_of_turn|start_of_image|end_of_image)>"
    r"|<(?:extra_id_\d{1,3}|reserved_\d{1,3}|unused\d{1,3})>",
    re.IGNORECASE,
)

_NOUN = r"(?:answer|response|reply|completion|output|submission)"
_THIS = rf"(?:this|that|my|our|the)\s+(?:\w+\s+)?{_NOUN}"
_FULL = (
    r"(?:full|maximum|max|highest|top|perfect|best)(?:\s+possible)?"
    r"\s+(?:marks?|scores?|points?|ratings?|grades?|credit)"
)
_POINTS = (
    r"(?:an?\s+)?(?:\d+|five|ten)(?:\s*(?:/|out\s+of)\s*\w+|\s*%|\s+(?:marks?|points?|stars?)\b|\s*[.!]|\s*$)"
)
_JUDGE = r"(?:judge|grader|evaluator|examiner|rater|assessor|scorer)"
_RULES = (
    r"(?:rubrics?|criteria|grading|scoring|evaluation|judging|marking\s+scheme"
    r"|(?:(?:previous|prior|above|earlier|preceding|system)\s+)+(?:instructions?|prompts?|rules))"
)
_GIVE = r"(?:give|giving|award|assign|grant|grade|score|rate|mark)"
#: Talk that is meant for a judge, whatever the question was. In folded text (see `_folded`).
TO_THE_JUDGE = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"\b{_GIVE}\s+(?:{_THIS}|me|it)\b.{{0,20}}?\b{_FULL}",
        rf"\b{_GIVE}\s+(?:{_THIS})\s+(?:with\s+|as\s+)?{_POINTS}",
        rf"\b{_GIVE}\s+(?:the\s+|a\s+)?{_FULL}\s+(?:to|for)\s+(?:{_THIS}|me|it)\b",
        rf"\b{_THIS}(?:\s+(?:above|below|here))?\s+(?:deserves|merits|earns|gets|receives|is\s+worth|(?:should|must|has\s+to)\s+"
        rf"(?:get|receive|be\s+\w+))\s+(?:\w+\s+){{0,2}}?(?:{_FULL}|{_POINTS})",
        rf"\b(?:ignore|disregard|forget|override|bypass)\s+(?:\w+\s+){{0,3}}?{_RULES}",
        rf"\bas\s+(?:an?|the|my|our)\s+(?:\w+\s+)?{_JUDGE},?\s+(?:\w+\s+)?you\s+"
        r"(?:must|should|have\s+to|need\s+to|are\s+required|shall|will|ought)",
        rf"\b(?:note|message|instructions?|attention|memo)\b[\s:]*(?:to\s+|for\s+)?(?:the\s+|all\s+)?(?:ai\s+)?"
        rf"{_JUDGE}s?\s*[:,.]",
        r"^\W{0,8}(?:dear|hello|hi|hey)\s+(?:ai\s+)?(?:grader|evaluator|rater|assessor|scorer)\b",
        r"\b(?:respond|reply|answer|output)\s+(?:only\s+)?with\s+(?:an?\s+|the\s+)?(?:score|rating|grade|mark|verdict)"
        r"\s+(?:of\s+)?\W?\d",
    )
)
#: What an honest answer says only where the question is about marks, ratings or comparing answers.
OF_MARKS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^\W{0,8}(?:(?:final|overall|total|my)\s+)?(?:score|rating|grade|mark|verdict|evaluation)\W{0,3}[:=]\W{0,4}"
        r"\d+(?:\.\d+)?(?:\s*(?:/|out of)\s*\d+)?(?:\s*(?:points?|stars?|marks?))?\W{0,8}$",
        r"\[\[\s*(?:[ab]|\d+(?:\.\d+)?)\s*\]\]",
        r"\b(?:choose|pick|prefer|select)\s+(?:answer|response|assistant)\s+[ab12]\b",
        r"\b(?:answer|response|assistant)\s+[ab12]\s+is\s+(?:\w+\s+)?(?:better|best|superior|the\s+winner)\b",
    )
)
ABOUT_MARKS = re.compile(
    r"\b(?:scor|rat(?:e|ing|ed)\b|grad(?:e|ing)|marks?\b|review|evaluat|compar|judg|rank|which (?:answer|response))"
)
#: Openers that say nothing yet win points from judges, where they are all there is.
MASTER_KEY = re.compile(
    r"\W{0,8}(?:thought process|solution|answer|final answer|the answer is|here is the answer|explanation"
    r"|(?:let'?s|let us|we will|i will) (?:solve|think|work|go|reason)(?: \w+){0,6}?(?: step by step)?)\W{0,8}"
)

#: Unicode categories of characters that say something: letters, digits, pictures.
SAYING = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "So"})


def new_secret() -> bytes:
    """What delimiters are derived from: fresh for each scorer, never stored, never shown."""
    return secrets.token_bytes(16)


def clean(text: str) -> str:
    """`text` with every chat-template token replaced by a blank."""
    return TEMPLATE_TOKEN.sub(" ", text)


def shorten(text: str, limit: int, *, keep_end: bool = False) -> str:
    """At most `limit` characters of a text and the mark of a cut, the beginning unless `keep_end`."""
    if len(text) <= limit:
        return text
    return f"{CUT} {text[-limit:].lstrip()}" if keep_end else f"{text[:limit].rstrip()} {CUT}"


def conversation(prompt: Sequence[Message]) -> str:
    """What was asked, as one text: the message itself where there is one, turns under their roles where more."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{str(message.role).capitalize()}: {message.content}" for message in prompt)


def question_text(prompt: Sequence[Message]) -> str:
    """A question ready to be fenced."""
    return shorten(clean(conversation(prompt)).strip(), QUESTION_CHARACTERS, keep_end=True)


def answer_text(answer: str, limit: int = ANSWER_CHARACTERS) -> str:
    """An answer ready to be fenced."""
    return shorten(clean(answer[: 2 * limit]).strip(), limit)


def nonce(secret: bytes, text: str) -> str:
    """Eight hex digits that whoever wrote the text cannot know; the same for the same secret and text."""
    return hashlib.blake2b(text.encode(), key=secret, digest_size=4).hexdigest()


def fence(secret: bytes, parts: Mapping[str, str]) -> str:
    """Each text between delimiters that name it (QUESTION, ANSWER) and carry one nonce.

    Put it after everything that all rows share: the engine reads a common beginning only once. For the same reason
    the nonce hangs on the first text alone, the question, so that its answers share that too.
    """
    mark = nonce(secret, next(iter(parts.values())))
    return "\n\n".join(f"BEGIN {name} {mark}\n{text}\nEND {name} {mark}" for name, text in parts.items())


def refusal(text: str, prompt: Sequence[Message] = ()) -> str | None:
    """Why an answer is not judged at all; None where it is.

    Args:
        text: the answer.
        prompt: what it answers. Marks and ratings are fair where somebody asked for them; orders to the judge are
            refused whatever the question.
    """
    folded = _folded(clean(text))
    if not folded.strip():
        return "empty"
    # Letters, digits and emoji say something; punctuation by itself wins points from judges and says nothing.
    if not any(unicodedata.category(character)[:2] in SAYING for character in folded):
        return "nothing but punctuation"
    if MASTER_KEY.fullmatch(folded.strip()):
        return "an opener without an answer"
    if any(pattern.search(folded) for pattern in TO_THE_JUDGE):
        return "talks to the judge"
    asked = _folded(" ".join(message.content for message in prompt if message.role == Role.USER))
    if not ABOUT_MARKS.search(asked) and any(pattern.search(folded) for pattern in OF_MARKS):
        return "states its own mark"
    return None


def _folded(text: str) -> str:
    """Lower case, compatibility forms resolved, invisible characters gone: how tricks of spelling are undone."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return visible.casefold().replace("’", "'")
