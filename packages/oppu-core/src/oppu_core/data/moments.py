"""Parsing dates and times: ISO dates and times, Unix times, and the formats of X and of mail.

Dates are kept as written; times are converted to UTC in one format, so that text order is time order. Times
without an offset are taken as UTC.
"""

import datetime
import email.utils
import functools
import re
from typing import NamedTuple

from oppu_core.texts import as_number

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
# Date and time; the fraction may have nanoseconds, and "UTC" may be spelled out.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,9}))?\s*(Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?"
)
_X_TIME = "%a %b %d %H:%M:%S %z %Y"  # "Wed May 01 10:00:00 +0000 2024"
# Placeholders of databases lie outside: 0001-01-01, 1900-01-01, 2999-12-31, 9999-12-31.
PLAUSIBLE_YEARS = range(1901, 2200)
# A Unix time's unit follows from its size, from 1973 on: seconds below 10^11, then milli-, micro-, nano-.
_FIRST_UNIX = 10**8
_UNITS = ((10**11, 10**6), (10**14, 10**3), (10**17, 1))


class Moment(NamedTuple):
    """An instant.

    Attributes:
        at: Microseconds since 1970 in UTC; for a date, its first microsecond.
        text: The date as written, or the time in UTC (``2024-05-02T04:00:00+00:00``).
    """

    at: int
    text: str

    @property
    def plausible(self) -> bool:
        """Whether this can be a real date, rather than a placeholder for an unknown one."""
        return int(self.text[:4]) in PLAUSIBLE_YEARS

    @property
    def until(self) -> int:
        """The last microsecond of the day, month or year that a date names."""
        parts = [int(part) for part in self.text.split("-")] if len(self.text) <= 10 else []
        if not parts or parts[0] == datetime.MAXYEAR:
            return self.at
        if len(parts) == 3:
            return self.at + 86_400 * 10**6 - 1
        year, month = (parts[0], parts[1] + 1) if len(parts) == 2 else (parts[0] + 1, 1)
        after = datetime.datetime(year + (month > 12), (month - 1) % 12 + 1, 1, tzinfo=datetime.UTC)
        return _at(after) - 1


@functools.lru_cache(4096)
def moment(text: str) -> Moment | None:
    """Parse a date or time; None if it is not one, or is impossible (2024-02-31)."""
    text = text.strip()
    try:
        if _DATE.fullmatch(text):
            start = datetime.datetime.fromisoformat(text + "-01-01"[len(text) - 4 :])
            return Moment(_at(start.replace(tzinfo=datetime.UTC)), text)
        if match := _TIME.fullmatch(text):
            day, clock, fraction, offset = match.groups()
            zone = "+00:00" if offset is None or offset.isalpha() else offset
            whole = datetime.datetime.fromisoformat(f"{day}T{clock}{zone}")
            return _in_utc(whole.replace(microsecond=int(f"{fraction or 0:0<6}"[:6])))
        if text[:1].isalpha():
            return _in_utc(_spoken(text))
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return None


def _spoken(text: str) -> datetime.datetime:
    """Parse a time in the format of X's archives or of mail."""
    try:
        return datetime.datetime.strptime(text, _X_TIME)
    except ValueError:
        return email.utils.parsedate_to_datetime(text)


def unix_time(text: str) -> Moment | None:
    """Parse a Unix time, its unit told by its size; None if it is not a number, or before 1973."""
    number = as_number(text)
    if number is None or not _FIRST_UNIX <= number < 10**20:
        return None
    microseconds = next((int(number * factor) for end, factor in _UNITS if number < end), int(number / 1000))
    return _in_utc(_EPOCH + microseconds * _MICROSECOND)


def unix_unit(text: str) -> int:
    """The unit that :func:`unix_time` assumes for a number: 0 for seconds, 1 for milliseconds, …"""
    number = as_number(text)
    assert number is not None
    return sum(number >= end for end, _ in _UNITS)


def any_time(text: str) -> Moment | None:
    """A date, a time, or a Unix time."""
    return moment(text) or unix_time(text)


def is_counter(text: str) -> bool:
    """Whether a text is a number too small for a Unix time: it gives an order, but no date."""
    number = as_number(text)
    return number is not None and abs(number) < _FIRST_UNIX


def is_grouped(text: str) -> bool:
    """Whether a text is a number with thousands separators."""
    return re.fullmatch(r"[+-]?\d{1,3}(([,'\u2019\s]\d{3})+|(\.\d{3}){2,})", text.strip()) is not None


def why_no_time(text: str) -> str:
    """What may be wrong with a text that is not a time, as the end of a message."""
    if is_grouped(text):
        return "; write it without thousands separators"
    if re.fullmatch(r"\d{1,2}[/.]\d{1,2}[/.]\d{2,4}.*", text.strip()):
        return "; which is the day, which the month? Write 2024-05-01"
    return ""


def _in_utc(time: datetime.datetime) -> Moment:
    zoned = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
    utc = zoned.astimezone(datetime.UTC)
    return Moment(_at(utc), utc.isoformat())


def _at(time: datetime.datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND
