"""Times are instants: what text order would get wrong, and what is no time at all."""

import random

import pytest
from oppu_core.data.moments import any_time, moment, unix_time


@pytest.mark.parametrize(
    ("text", "in_utc"),
    [
        ("2024-05-01T23:00:00-05:00", "2024-05-02T04:00:00+00:00"),
        ("2024-05-02T08:00:00+0900", "2024-05-01T23:00:00+00:00"),
        ("2024-05-02 08:00:00 +09", "2024-05-01T23:00:00+00:00"),
        ("2024-05-01T10:00:00Z", "2024-05-01T10:00:00+00:00"),
        ("2024-05-01 10:00", "2024-05-01T10:00:00+00:00"),
        ("2024-05-01 10:00:00 UTC", "2024-05-01T10:00:00+00:00"),
        ("2024-05-01T10:00:00.123456789Z", "2024-05-01T10:00:00.123456+00:00"),
        ("Wed May 01 10:00:00 +0000 2024", "2024-05-01T10:00:00+00:00"),
        ("Wed, 01 May 2024 12:00:00 +0200", "2024-05-01T10:00:00+00:00"),
        ("1714557600", "2024-05-01T10:00:00+00:00"),
        ("1714557600000", "2024-05-01T10:00:00+00:00"),
        ("1714557600000000", "2024-05-01T10:00:00+00:00"),
        ("1714557600000000000", "2024-05-01T10:00:00+00:00"),
        ("1714557600.5", "2024-05-01T10:00:00.500000+00:00"),
        ("2024", "2024"),
        ("2024-05", "2024-05"),
        (" 2024-05-01 ", "2024-05-01"),
    ],
)
def test_times_are_read_as_instants_in_utc(text: str, in_utc: str) -> None:
    read = any_time(text)
    assert read is not None
    assert read.text == in_utc
    again = moment(in_utc)
    assert again is not None and again == read


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-31", "2024-13-45", "2024-05-02Tlunch", "2024-05-02T25:00", "2024-5-2", "03/01/2024", "May",
        "",
        "yesterday", "2024-05-01T10:00:00+25:00", "0000-01-01", "1,714,521,600", "5", "20240501", "nan",
        "1e30",
        "-1714557600", "2024-W05-1",
    ],
)  # fmt: skip
def test_what_is_no_time_is_none(text: str) -> None:
    assert any_time(text) is None


@pytest.mark.parametrize(
    ("text", "plausible"),
    [("2024-05-01", True), ("1970-01-01", True), ("9999-12-31", False), ("1900-01-01", False),
     ("0001-01-01T00:00:00", False), ("2999-12-31", False)],
)  # fmt: skip
def test_placeholders_are_no_plausible_dates(text: str, plausible: bool) -> None:
    read = moment(text)
    assert read is not None and read.plausible == plausible


@pytest.mark.parametrize(
    ("date", "inside", "after"),
    [
        ("2024-05-01", "2024-05-01T23:59:59.999999Z", "2024-05-02"),
        ("2024-12", "2024-12-31T23:00Z", "2025-01-01"),
        ("2024", "2024-12-31", "2025"),
        ("2024-05-01T10:00Z", "2024-05-01T10:00Z", "2024-05-01T10:00:01Z"),
    ],
)
def test_a_date_lasts_until_its_end(date: str, inside: str, after: str) -> None:
    read, within, beyond = moment(date), moment(inside), moment(after)
    assert read and within and beyond
    assert within.at <= read.until < beyond.at


def test_the_order_of_texts_is_the_order_of_time() -> None:
    rng = random.Random(0)
    texts = []
    for _ in range(500):
        offset = rng.choice(["Z", "+09:00", "-11:30", ""])
        fraction = rng.choice(["", ".5", ".123456"])
        texts.append(
            f"2024-0{rng.randint(1, 3)}-{rng.randint(1, 28):02d}T{rng.randint(0, 23):02d}:15:00"
            f"{fraction}{offset}"
        )
    read = [found for text in texts if (found := moment(text))]
    assert len(read) == len(texts)
    assert sorted(read) == sorted(read, key=lambda found: found.text)


def test_unix_times_before_1973_are_counters() -> None:
    assert unix_time("99999999") is None
    assert unix_time("100000000") is not None
