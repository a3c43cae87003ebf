"""CSV lists of files: which files, and what else a list says of each. No TensorFlow.

for name, columns in file_lists.read(path):
    columns.get("label")
"""

from __future__ import annotations

import collections
import csv
import io
from typing import TYPE_CHECKING

from trainer.storage import documents
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Collection, Iterable, Mapping, Sequence

FILE_COLUMNS = ("file", "path", "image", "file_name", "filename")
"""Names of the column that holds the files; the first that is there counts."""
_PREFIX = "list_"
"""Of a column that has the name of one beside which it is to stand."""
_MAX_BYTES = 1 << 28
_WAY_OUT = "a list is CSV in UTF-8 with a column `file`"


def read(path: pathlib.Path) -> list[tuple[str, dict[str, str]]]:
    """Reads a CSV list: the file of each row, and its other columns.

    A column `file`, `path`, `image` or `file_name` holds paths, relative to the list's folder. The
    columns are separated by commas, semicolons or tabs; those without a name are left out.

    Raises:
      RunError: when it can't be read, has no such column, a column twice, or a row that has no file
        or more cells than there are columns.
    """
    content = documents.read_text(path, way_out=_WAY_OUT, max_bytes=_MAX_BYTES)
    head = content.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        rows = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(rows, [])]
        column = _column_of_files(names)
        return [
            _parse_row(row, names, column, rows.line_num)
            for row in rows
            if any(map(str.strip, row))
        ]
    except (ValueError, csv.Error) as error:
        raise documents.refused(path, text.clause(error), _WAY_OUT) from error


def renamed(lists: Iterable[Mapping[str, str]], taken: Collection[str]) -> dict[str, str]:
    """Returns the names under which the columns of lists can stand beside others.

    Args:
      lists: the columns of each file.
      taken: names of the others, in whatever case.

    Returns:
      The new name of each column, in the order in which the columns first appear.
    """
    names = list(dict.fromkeys(name for columns in lists for name in columns))
    used = {name.lower() for name in taken}
    found = {}
    for name in names:
        new = name
        while new.lower() in used or (new != name and new in names):
            new = _PREFIX + new
        found[name] = new
    return found


def _column_of_files(names: Sequence[str]) -> int:
    """Returns the position of the column; raises ValueError, a clause, if there is none."""
    twice = [name for name, count in collections.Counter(filter(None, names)).items() if count > 1]
    if twice:
        raise ValueError(f"it has the column {text.shown(twice[0])} twice")
    lower = [name.lower() for name in names]
    for name in FILE_COLUMNS:
        if name in lower:
            return lower.index(name)
    shown = text.one_line(", ".join(filter(None, names)))[:200]
    raise ValueError(f"it has no column `file`, but {shown or 'nothing'}")


def _parse_row(
    row: Sequence[str], names: Sequence[str], column: int, line: int
) -> tuple[str, dict[str, str]]:
    """Returns a file and its other columns; raises ValueError, a clause, if it has no file."""
    cells = [cell.strip() for cell in row]
    if any(cells[len(names) :]):
        raise ValueError(
            f"line {line} has {len(cells)} cells, the first line {len(names)}: a name with a "
            "separator in it stands in quotes"
        )
    cells += [""] * (len(names) - len(cells))
    if not cells[column]:
        raise ValueError(f"line {line} has no {text.one_line(names[column])}")
    pairs = zip(names, cells, strict=False)
    return cells[column], {name: cell for name, cell in pairs if name and name != names[column]}
