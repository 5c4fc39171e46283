"""Reading tables as text: cells are separated by comma, semicolon, tab or |, told by the header line.

Knows nothing of what the columns mean.
"""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator

from oppu_core.errors import DataError

DELIMITERS = ",;\t|"
SEP_LINE = re.compile(r'"?sep=([^"\r\n])"?\s*')  # names the delimiter for spreadsheets

# Far more than a text may have: only a quote that is never closed gets there.
_CELL_CHARS = 16 << 20
_RULE = re.compile(r"\s*:?-+:?\s*")  # below the header of a Markdown table


class Table:
    """A table that is read row by row.

    Attributes:
        names: The columns' names, without spaces around them; "" for a column that has none.
        line: The line where the latest row ends.
    """

    def __init__(self, lines: Iterable[str], where: str, delimiter: str | None = None) -> None:
        """Read the header.

        Args:
            lines: The lines with their ends. Blank ones before the header and a line ``sep=;`` are skipped.
            where: How messages begin.
            delimiter: The delimiter of cells; told by the header if not given.

        Raises:
            DataError: the header is empty, has a column twice, or is not a header.
        """
        csv.field_size_limit(_CELL_CHARS)
        self._where = where
        rest = iter(lines)
        head: list[str] = []
        for line in rest:
            named = None if any(map(str.strip, head)) else SEP_LINE.fullmatch(line)
            delimiter = named[1] if named else delimiter
            head.append("\n" if named or not line.strip() else line)
            if sum(bool(line.strip()) for line in head) == 2:
                break
        header, row = (*filter(str.strip, head), "", "")[:2]
        delimiter = delimiter or delimiter_of(header, row)
        self._ends = f" {delimiter}" in header
        self._is_markdown = header.startswith("|")
        self._reader = csv.reader(
            itertools.chain(head, rest),
            delimiter=delimiter,
            skipinitialspace=f"{delimiter} " in header,
            quoting=csv.QUOTE_NONE if self._is_markdown else csv.QUOTE_MINIMAL,
            strict=True,
        )
        self.names = [name.strip() for name in next(self.rows(), [])]
        named_columns = [name for name in self.names if name]
        if not named_columns or len(set(named_columns)) < len(named_columns):
            problem = "has a column twice" if named_columns else "is empty"
            raise DataError(f"{where}: the header {problem}. Name every column, each in its own way.")

    @property
    def line(self) -> int:
        """The line where the latest row ends, from 1."""
        return self._reader.line_num

    def rows(self) -> Iterator[list[str]]:
        """The cells of each row; lines without any are skipped.

        Raises:
            DataError: the quotes are wrong, or a cell is endless.
        """
        try:
            for cells in self._reader:
                if cells and not (self._is_markdown and all(_RULE.fullmatch(cell) for cell in cells if cell)):
                    yield [cell.rstrip() for cell in cells] if self._ends else cells
        except csv.Error as error:
            raise DataError(
                f"{self._where}, line {self.line}: not the CSV it should be ({error}). Check the quotes, "
                'which are doubled inside of a quoted cell (""), and export it again.'
            ) from error


def delimiter_of(header: str, row: str = "") -> str:
    """The delimiter of a header line.

    It makes most columns, among those by which the first row has as many cells; a comma if any will do.
    """
    widths = {delimiter: len(cells_of(header, delimiter)) for delimiter in DELIMITERS}
    steady = [each for each in DELIMITERS if widths[each] > 1 and len(cells_of(row, each)) == widths[each]]
    return max(steady or DELIMITERS, key=lambda delimiter: widths[delimiter])


def cells_of(line: str, delimiter: str) -> list[str]:
    """The cells of one line, without spaces around them."""
    try:
        cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [cell.strip() for cell in cells]
