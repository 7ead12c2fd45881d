"""Plain text from Markdown and reST: prose one paragraph a line, code indented by four spaces."""

import html
import re

FENCE = re.compile(r"\s*(?:```|~~~)(?P<info>(?<=`)[^`]*|\s*\w*)$")
RULE = re.compile(r"\s*([=\-~^*_#`+\"'.:])\1{2,}\s*$")
OWN_BLOCK = re.compile(r"#|\s{0,6}([-*+•]|\d+[.)])\s+|\s*\+[-=+]{3,}\s*$|\s*\|.*\|\s*$")  # or a table's line
TABLE_RULE = re.compile(r"[\s|:+=-]*$")
DIRECTIVE = re.compile(r"\s*\.\.(\s|$)")
NOTE = re.compile(r"\s*\.\. (?:note|tip|warning|important|caution)::\s*(?P<text>.*)$")
CODE_DIRECTIVE = re.compile(r"\s*\.\. (?:code|code-block|sourcecode)::")
DIRECTIVE_OPTION = re.compile(r"\s+:[\w-]+:")
LINK_TARGET = re.compile(r"\s*\[[^\]]+\]:\s*\S+")

INLINE = [
    (re.compile(r"<!--.*?-->", re.S), ""),
    (re.compile(r"\[\s*!\[[^\]]*\]\([^)]*\)\s*\]\([^)]*\)"), ""),  # an image that is a link: a badge
    (re.compile(r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])"), ""),
    (re.compile(r"\[\s*\](\([^)]*\)|\[[^\]]*\])"), ""),  # what is left of a badge
    (re.compile(r"\[([^\[\]]+)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\[([^\[\]]+)\]\[[^\]]*\]"), r"\1"),
    (re.compile(r"`([^`<>]+?)\s*<[^`>]+>`_{1,2}"), r"\1"),
    (re.compile(r":[\w:-]+:`~?([^`<>]+?)(\s*<[^`>]+>)?`"), r"\1"),
    (re.compile(r"\s*\[[\w#*]+\]_"), ""),
    (re.compile(r"(?<!\w)\|[^|\s][^|]*\|_{0,2}(?!\w)"), ""),
    (re.compile(r"`+([^`]+)`+_{0,2}"), r"\1"),
    (re.compile(r"<(https?://[^\s>]+)>"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^<>]*>"), ""),
    (re.compile(r"(\*{1,3}|(?<!\w)_{1,3})(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),
]


def plain_text(text):
    """Return the text without its markup; images, comments and link addresses are dropped."""
    paragraphs = (_inline(lines) if kind == "prose" else _code(lines) for kind, lines in _blocks(text))
    return "\n\n".join(paragraph for paragraph in paragraphs if re.search(r"\w", paragraph))


def _blocks(text):
    """Yield ("prose" or "code", lines); a heading, a list item and a table's row are blocks of their own."""
    kind, block = "prose", []
    fenced = after_blank = False

    for line in _without_directives(text.expandtabs(4).splitlines()):
        starts_code = line.startswith(">>>") or (line.startswith("   ") and after_blank)
        if fence := FENCE.match(line):
            yield kind, block
            # One with a language always opens, because some documents forget to close the one before.
            fenced = bool(fence["info"].strip()) or not fenced
            kind, block = "code" if fenced else "prose", []
        elif fenced or (kind == "code" and (line.startswith("   ") or not line.strip())):
            block.append(line)
        elif not line.strip() or RULE.match(line) or LINK_TARGET.match(line):
            yield kind, block
            kind, block = "prose", []
        elif starts_code and (kind == "code" or not block):
            kind = "code"
            block.append(line)
        else:
            if kind == "code" or OWN_BLOCK.match(line):
                yield kind, block
                kind, block = "prose", []
            if not TABLE_RULE.match(line):
                block.append(line)
            if line.startswith("#"):
                yield kind, block
                block = []
        after_blank = not line.strip()

    yield kind, block


def _without_directives(lines):
    """Leave out reST's comments and directives with their bodies; those of notes and of code stay."""
    body, directive_indent = None, 0
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if body and line.strip() and indent <= directive_indent:
            body = None
        if body == "dropped":
            continue
        if note := NOTE.match(line):
            body, directive_indent = "prose", indent
            yield note["text"]
        elif DIRECTIVE_OPTION.match(line) or CODE_DIRECTIVE.match(line):
            yield ""
        elif DIRECTIVE.match(line):
            body, directive_indent = "dropped", indent
            yield ""
        else:
            yield line.strip() if body else line


def _inline(lines):
    text = " ".join(line.strip() for line in lines)
    text = re.sub(r"^#+\s*|\s*#+$|^>\s*", "", text)
    text = re.sub(r"::$", ":", text)
    text = re.sub(r"^[*+•]\s+", "- ", text)
    for pattern, replacement in INLINE:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\s*\|\s*", " | ", text).strip(" |")
    return re.sub(r"\s+", " ", html.unescape(text)).strip()


def _code(lines):
    common = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(f"    {line[common:]}".rstrip() for line in lines).strip("\n")
