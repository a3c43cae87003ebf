r"""One table, five forms: text for a terminal, CSV, Markdown, LaTeX and HTML.

    table = table_formats.ReportTable("Results", ("model", "accuracy"), (("vgg16", "96.9 %"),))
    print(table.to_text())
    table.to_latex()               # \begin{tabular} … of the package booktabs

Cells are text, numbers, or None where there is nothing. Each form escapes what its reader would
take for markup: names come from folders and files.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import textwrap
from typing import TYPE_CHECKING

import markupsafe

from trainer.reports.pages import templating
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Cell = str | float | None

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "−": "$-$", "–": "--", "…": r"\ldots{}", "×": r"$\times$",
    "[": "{[}", "]": "{]}",
}  # fmt: skip
"""Brackets are in braces: one at the start of a row would be an argument of the row before."""
_WIDTH = 100
"""Characters of a line of notes."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~&])")


@dataclasses.dataclass(frozen=True)
class ReportTable:
    """A table with a title above it and notes below it.

    Attributes:
      title: one line.
      head: the names of the columns.
      rows: as many cells as there are columns, each.
      notes: sentences.
      num_names: how many columns, from the left, are of names: these are aligned to the left, the
        others, which are of figures, to the right.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    num_names: int = 1

    def __post_init__(self) -> None:
        """Checks that each row has a cell for each column.

        Raises:
          ValueError: when one has not.
        """
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(
                    f"a row has {len(row)} cells, and there are {len(self.head)} columns."
                )

    def to_text(self) -> str:
        """Returns aligned columns, the title above, the notes below; ends with a line feed."""
        lines = [[text.visible(cell) for cell in row] for row in self._lines()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = ("  ".join(self._aligned(line, widths)).rstrip() for line in lines)
        notes = (textwrap.fill(text.visible(note), _WIDTH) for note in self.notes)
        return (
            "\n".join([text.visible(self.title), *(f"  {line}" for line in aligned), *notes]) + "\n"
        )

    def to_csv(self) -> str:
        """Returns head and rows as CSV; numbers exactly, and no text that would be a formula."""
        written = io.StringIO(newline="")
        writer = csv.writer(written, lineterminator="\r\n")
        writer.writerow(map(text.cell, self.head))
        for row in self.rows:
            writer.writerow([text.cell(cell) if isinstance(cell, str) else cell for cell in row])
        return written.getvalue()

    def to_markdown(self) -> str:
        """Returns a table of GitHub's Markdown, the title and the notes as paragraphs."""
        head, *rows = ([_markdown(cell) for cell in row] for row in self._lines())
        rule = ["---"] * self.num_names + ["---:"] * (len(head) - self.num_names)
        lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
        blocks = [f"**{_markdown(self.title)}**", "\n".join(lines), *map(_markdown, self.notes)]
        return "\n\n".join(blocks) + "\n"

    def to_latex(self) -> str:
        r"""Returns a `table` with `\toprule` and the like, which need the package booktabs."""
        head, *rows = (f"{' & '.join(map(_latex, row))} \\\\" for row in self._lines())
        columns = "l" * self.num_names + "r" * (len(self.head) - self.num_names)
        body = [r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            *body,
            r"\end{tabular}",
            *(rf"\par\footnotesize {_latex(note)}" for note in self.notes),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def to_html(self) -> markupsafe.Markup:
        """Returns a `table` element with the title as its caption, and the notes as paragraphs."""
        template = templating.environment().get_template("report_table.html.j2")
        return markupsafe.Markup(template.render(table=self))

    @property
    def shown_rows(self) -> list[list[str]]:
        """The rows as text."""
        return [[_shown(cell) for cell in row] for row in self.rows]

    def _aligned(self, line: Sequence[str], widths: Sequence[int]) -> list[str]:
        """Aligns names to the left, figures to the right."""
        sides = [str.ljust] * self.num_names + [str.rjust] * (len(line) - self.num_names)
        return [side(cell, width) for side, cell, width in zip(sides, line, widths, strict=True)]

    def _lines(self) -> Iterator[Sequence[str]]:
        yield self.head
        yield from self.shown_rows


def _shown(cell: Cell) -> str:
    if cell is None:
        return "–"
    return cell if isinstance(cell, str) else f"{cell:.4g}"


def _markdown(plain: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text.visible(plain))


def _latex(plain: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text.visible(plain))
