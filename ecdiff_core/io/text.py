"""Text for people: numbers with their nouns, and other people's text without what a terminal would obey."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"
"""Format characters that spelling needs: Persian words, emoji of several signs."""
_LOOKALIKES = {
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "‑": "-",
    "·": "|",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "±": "+-",
    "∞": "inf",
    "→": "->",
    "↑": "^",
    "↓": "v",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}
"""ASCII in place of the signs that our own lines use."""


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "config"), counted(0, "prompt"), counted(1200, "call")
    ('1 config', '0 prompts', '1,200 calls')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def visible(text: str, keep: str = "") -> str:
    r"""Text in which control characters, marks of direction and lone surrogates are written as escapes.

    Args:
        keep: characters that stay, such as a newline.

    >>> visible("a\x1b[31m b\u202ec")
    'a\\x1b[31m b\\u202ec'
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_harmless(c) else _escape(c) for c in text)


def _is_harmless(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def lookalike(error: UnicodeError) -> tuple[str, int]:
    """An error handler for ``codecs.register_error``: what the encoding lacks as ASCII that reads alike."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(character: str) -> str:
    if character in _LOOKALIKES:
        return _LOOKALIKES[character]
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii")
    return plain or _escape(character)


def is_unicode(text: str) -> bool:
    """Whether a string can be written as UTF-8: half a surrogate pair cannot, nor does a tokenizer take it.

    >>> is_unicode("é"), is_unicode("\\ud800")
    (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)
