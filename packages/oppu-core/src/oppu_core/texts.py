"""The form in which texts are compared: white space, Unicode, numbers, and the words of any script.

Labels, golds and answers are compared in this form everywhere: import, training, scoring, references, audit,
harness and page. Knows nothing of tasks or data.
"""

import decimal
import struct
import unicodedata

import regex

# Invisible characters that Unicode does not count as white space: they come with copied web pages.
_INVISIBLE = str.maketrans("", "", "\u200b\u2060\ufeff\u00ad")
_NUMBER = regex.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")
_SHORT_DIGITS = 9  # with fewer digits a number is as written; with more it may be a widened 32-bit float
_MOST_PLACES = 15  # beyond, a number with an exponent has lost digits and must not look exact

# In scripts without spaces each character (with its marks) is a word, in others each run of letters.
_SPACELESS = "".join(
    rf"\p{{{name}}}" for name in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
)
_WORDS = regex.compile(
    rf"[{_SPACELESS}--[\p{{M}}\p{{P}}]]\p{{M}}*|[\p{{L}}\p{{N}}--[{_SPACELESS}]][\p{{L}}\p{{N}}\p{{M}}--[{_SPACELESS}]]*",
    regex.V1,
)
_LETTERS = regex.compile(r"[\p{L}\p{N}]")
_LATIN = regex.compile(r"[a-z0-9]")


def normal(text: str) -> str:
    """A text as it is trained on and compared: in composed Unicode (NFC), white space as single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def label_key(text: str) -> str:
    """A key that all spellings of one label share: :func:`normal`, without invisible characters."""
    return normal(text.translate(_INVISIBLE))


def as_number(text: str) -> decimal.Decimal | None:
    """The exact value of a text that is a finite number; None if it is not (``five``, ``5,0``, ``nan``)."""
    stripped = text.strip()
    if not _NUMBER.fullmatch(stripped):
        return None
    return decimal.Decimal(stripped)


def number_text(text: str) -> str:
    """A number as people write it: ``5.00`` and ``5e0`` become ``5``; other texts stay as they are.

    A 32-bit float that was widened to 64 bits (3.700000047683716) becomes the number first written (3.7).
    """
    number = as_number(text)
    if number is None or abs(number.adjusted()) > _MOST_PLACES:
        return text
    if len(number.as_tuple().digits) >= _SHORT_DIGITS and (short := _as_single(float(number))):
        number = decimal.Decimal(short)
    plain = format(number, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain == "-0" else plain


def _as_single(value: float) -> str | None:
    """The shortest decimal of a value that is exactly a 32-bit float; None if it is not."""
    try:
        single = struct.pack("f", value)
    except OverflowError:
        return None
    if value.is_integer() or struct.unpack("f", single)[0] != value:
        return None
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    return next((text for text in texts if struct.pack("f", float(text)) == single), None)


def script_words(text: str) -> list[str]:
    """The words of a text in any script, case-folded.

    Words are runs of letters and digits; in scripts without spaces (Chinese, Japanese, Thai, …), single
    characters. Scripts and marks are Unicode's, by the ``regex`` library.

    Example:
        >>> script_words("Новый мост, 新桥 2024!")
        ['новый', 'мост', '新', '桥', '2024']
    """
    words: list[str] = _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())
    return words


def unseen(text: str) -> bool:
    """Whether the official scorer's words (a-z, 0-9) hold less than half of a text's letters and digits."""
    folded = text.lower()
    return 2 * len(_LATIN.findall(folded)) < len(_LETTERS.findall(folded))


def shorten(text: str, limit: int) -> str:
    """`text` on one line and at most `limit` characters long, cut at a space where there is one."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    cut = text[: limit - 2]
    return cut[: cut.rfind(" ")] + " …" if cut.rfind(" ") > limit // 2 else cut + " …"


def clock(seconds: float) -> str:
    """``45 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
