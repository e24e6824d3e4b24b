"""Rows of CSV files with a header."""

import csv
from collections.abc import Iterator
from pathlib import Path

from efficientdet_tf.data.records import DataError


def read_rows(
    file: Path, columns: tuple[str, ...], optional: tuple[str, ...] = (), *, format: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and values of a CSV file.

    Args:
      file: the file, in UTF-8.
      columns: names of the columns that it must have.
      optional: further columns; the values of one that is missing are "". Default none.
      format: name of the format in messages, e.g. "Open Images' CSV".

    Yields:
      (number of the line, values of `columns` and `optional`); "" for cells that are missing.

    Raises:
      DataError: if the file cannot be read, or a column is missing.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened)
            header = next(reader, [])
            missing = [name for name in columns if name not in header]
            if missing:
                raise DataError(
                    f"{file}: line 1: column {missing[0]} is missing; {format} has "
                    f"{', '.join(columns)}"
                )
            wanted = (*columns, *optional)
            places = [header.index(name) if name in header else len(header) for name in wanted]
            for row in reader:
                if row:
                    yield reader.line_num, [row[i] if i < len(row) else "" for i in places]
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text file in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num}: not valid CSV: {error}") from error
