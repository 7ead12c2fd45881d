"""Facts from English sentences by rules: "Rich requires Python 3.8" is (Rich, requires, Python 3.8).

Only sentences of the shape noun phrase, known verb, noun phrase are taken; anything else gives nothing.
"""

import re
from typing import NamedTuple

VERBS = (
    # Those with a preposition first: the first that fits is taken.
    "build on|come with|depend on|integrate with|interact with|rely on|run on|ship with|work on|work with|"
    "accept|add|adopt|bundle|combine|compile|contain|convert|cover|create|define|detect|enable|encourage|"
    "ensure|expose|extend|follow|generate|give|handle|implement|include|install|integrate|maintain|manage|"
    "need|offer|parse|produce|provide|read|render|replace|require|return|run|simulate|store|support|use|"
    "welcome|wrap|write"
)
VERBS_IN_SINGULAR = re.sub(r"(\w+)((?: \w+)?(?:\||$))", r"\1s\2", VERBS).replace("relys", "relies")
PARTICIPLES = (
    "available|based|built|compatible|compiled|created|designed|developed|distributed|implemented|inspired|"
    "installed|intended|licensed|maintained|powered|released|used|written"
)
WORD = r"[A-Za-z0-9][\w.+/#'’-]*"  # noqa: RUF001 - The typographic apostrophe is meant.

# Without "can", the plural form of a verb only follows a plural: "Built-in columns include …", but not
# "Automatic help page …" or "Install and run …".
SENTENCE = re.compile(
    rf"^(?P<subject>{WORD}(?: {WORD}){{0,4}}?)(?: \([^)]*\))?(?P<can> can| will)?"
    r"(?: (?:also|currently|now|only|mainly|fully|natively|automatically))*"
    r" (?P<relation>"
    r"(?:is|are|was|were) (?:an?|the|one of"
    rf"|(?:{PARTICIPLES}) (?:on top of|on|in|by|for|as|from|under|with|to))"
    rf"|has|{VERBS_IN_SINGULAR}|(?:(?<= can )|(?<= will )|(?<=[a-z]s ))(?:{VERBS}|have))"
    r" (?P<object>\S.*)$"
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
OBJECT_END = re.compile(
    r"\s*(?:[;:(!?]|\.(?:\s|$)|\s[-–—|]\s|—|\shttps?:"  # noqa: RUF001 - Dashes are meant.
    r"|,?\s(?:which|that|where|when|while|if|because|since|so|but|unless|however|whose|you|we|I)\b"
    r"|,?\s(?:and|or) (?:is|are|has|can|will|it|you|we|then|also|may|\w+s (?:it|the|an?))\b).*$",
    re.DOTALL,
)
ENUMERATION = re.compile(r",?\s+(?:and|or)\s+|,\s+")
ARTICLE = re.compile(r"^(?:the|an?|our|its)\s+", re.IGNORECASE)

NOT_A_SUBJECT = re.compile(
    r"^(?:a few|few|if|when|while|as|since|because|for|in|on|at|to|from|by|with|see|note|there|here|this|"
    r"that|these|those|what|which|who|how|why|where|you|we|i|they|he|she|someone|one|many|please|first|next|"
    r"then|also|but|and|or|so|not|no|it|its|each|any|all|some|most|both|following|above|below|after|before|"
    r"once|instead|however|otherwise|let|do|does|example|another|other|else|everything|nothing|only|write|"
    r"install\w*)\b"
    r"|\b(?:that|which|who|to|if|when|you|we|they|it|not|can|will|should|must|is|are|was|be|has|have|this)\b"
    r"|\b(?:and|or|with|of|for|in|by)$|^\w+ing \w+$|[.:]$|/",
    re.IGNORECASE,
)
NOT_AN_OBJECT = re.compile(
    r"^(?:it|them|this|that|these|those|you|us|not|no|following|same|as|to|all|been|made|of|for|more|others)\b"
    r"|\b(?:for|of|to|with|in|on|by|and|or|the|a|from|it|them|following)$|//",
    re.IGNORECASE,
)
OF_ONE_OBJECT = re.compile(r"(?:is|are|was|were|has|have)\b")
LONGEST_OBJECT_WORDS = 20
LONGEST_MEMBER_WORDS = 4


class Fact(NamedTuple):
    subject: str
    relation: str
    object: str


def facts_in(text):
    """Return the facts of a plain text, each once, in order; code (indented) and tables are passed over.

    A sentence that begins with "It" is about the subject of the fact before it in the same text.
    """
    facts = {}
    subject = None
    for sentence in _sentences(text):
        if subject and sentence.startswith("It "):
            sentence = subject + sentence[2:]
        for fact in _facts_of(sentence):
            subject = fact.subject
            facts[fact] = None
    return list(facts)


def _sentences(text):
    for paragraph in text.splitlines():
        if not paragraph.startswith("    ") and " | " not in paragraph:
            for sentence in SENTENCE_END.split(paragraph.removeprefix("- ")):
                yield sentence.replace('"', "").strip()


def _facts_of(sentence):
    match = SENTENCE.match(sentence)
    if match is None:
        return
    subject = ARTICLE.sub("", match["subject"])
    if NOT_A_SUBJECT.search(subject) or not _is_phrase(subject):
        return
    relation = f"{match['can'] or ''} {match['relation']}".strip()
    objects = OBJECT_END.sub("", match["object"])
    for object_ in [objects.split(",")[0]] if OF_ONE_OBJECT.match(relation) else _members(objects):
        object_ = ARTICLE.sub("", object_).strip(" .'<>=")
        if _is_phrase(object_) and not NOT_AN_OBJECT.search(object_):
            yield Fact(subject, relation, object_)


def _members(text):
    """The members of "Linux, macOS and Windows", or of anything longer what stands before the comma."""
    members = ENUMERATION.split(text)
    if "," in text and all(len(member.split()) <= LONGEST_MEMBER_WORDS for member in members):
        return members
    return [text.split(",")[0]]


def _is_phrase(text):
    return (
        re.search("[A-Za-z]{2}", text) and len(text) <= 200 and 0 < len(text.split()) <= LONGEST_OBJECT_WORDS
    )
