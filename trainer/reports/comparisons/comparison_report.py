"""A comparison of models as people read it, in each form, and as JSON.

    found = comparison_report.Comparison(rows, pairs, tested)
    print(found)
    found.save(folder)            # comparison.txt, .csv, .md, .tex, .html and .json

`trainer.runs.compared` makes a `Comparison` of runs; `comparison_tables` has what it shows.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from trainer.reports import paper, verdict
from trainer.reports.comparisons import comparison_tables
from trainer.reports.comparisons.comparison_tables import Content, ModelRow
from trainer.reports.pages import templating
from trainer.storage import files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib

    from trainer.reports.comparisons.table_formats import ReportTable

SCHEMA_VERSION = 1  # Incremented when a key of comparison.json changes its meaning or is removed.
JSON = "comparison.json"
FILES = tuple(f"comparison.{suffix}" for suffix in ("txt", "csv", "md", "tex", "html", "json"))


@dataclasses.dataclass(frozen=True)
class Comparison(Content):
    """Models that were evaluated on the same test examples, side by side.

        found = trainer.compare(["runs/a", "runs/b"])
        print(found)
        found.pairs[0].area.p_value

    Its attributes are those of `comparison_tables.Content`.
    """

    @property
    def guard_fired(self) -> bool:
        """Whether a model must not be used; `rows` say why."""
        return any(row.warnings for row in self.rows)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each reason not to use a run, and for each run that has failed."""
        return (
            *(
                f"{verdict.DO_NOT_USE} {_run(row, seed)}: {reason}"
                for row in self.rows
                for seed, reasons in row.warnings.items()
                for reason in reasons
            ),
            *(
                f"FAILED: {_run(row, seed)}: {reason}"
                for row in self.rows
                for seed, reason in row.failures.items()
            ),
        )

    @functools.cached_property
    def tables(self) -> tuple[ReportTable, ...]:
        """The paper's table, every figure, and the pairs, as far as there is anything in them."""
        return comparison_tables.tables(self)

    def to_json(self) -> dict[str, Any]:
        """Returns everything as dictionaries, lists and numbers, for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "tested": self.tested and dataclasses.asdict(self.tested),
            "rows": [row.to_json() for row in self.rows],
            "pairs": [
                {**pair.to_json(), "p_value_holm": adjusted}
                for pair, adjusted in zip(self.pairs, self.holm_p_values, strict=True)
            ],
            "operating_points": self.points,
            "paper": {row.backbone: row.shares for row in paper.ROWS} if self.with_paper else None,
        }

    def save(self, folder: pathlib.Path) -> None:
        """Writes the comparison in each form into a folder; `comparison.json` last."""
        written = {
            "txt": self.to_text(colour=False),
            "csv": comparison_tables.tidy(self).to_csv(),
            "md": "\n".join(table.to_markdown() for table in self.tables),
            "tex": "\n".join(table.to_latex() for table in self.tables),
            "html": _page(self),
        }
        for suffix, content in written.items():
            with files.replacing(folder / f"comparison.{suffix}") as partial:
                partial.write_text(content, encoding="utf-8", newline="")
        files.save_json(folder / JSON, self.to_json())

    def to_text(self, *, colour: bool, is_short: bool = False) -> str:
        """Returns the tables as text, the warnings last.

        Args:
          colour: whether to print the warnings in red, with ANSI codes.
          is_short: whether to leave out all figures but those that decide.
        """
        tables = comparison_tables.short_tables(self) if is_short else self.tables
        lines = map(text.visible, self.warnings)
        warnings = "\n".join(map(verdict.red, lines) if colour else lines)
        blocks = [*(table.to_text() for table in tables), f"{warnings}\n" if warnings else ""]
        return "\n".join(filter(None, blocks))

    def __repr__(self) -> str:
        """Names the models, and how many examples they were evaluated on."""
        names = ", ".join(text.visible(row.name) for row in self.rows)
        count = self.tested.examples if self.tested else 0
        return f"<Comparison of {names} on {text.counted(count, 'test example')}>"

    def __str__(self) -> str:
        """Returns the tables as text."""
        return self.to_text(colour=False)

    def _repr_html_(self) -> str:
        """Shows the tables in a notebook."""
        return "\n".join(table.to_html() for table in self.tables)


def _run(row: ModelRow, seed: int) -> str:
    return f"{row.name}, seed {seed}" if len({*row.runs, *row.failures}) > 1 else row.name


def _page(of: Comparison) -> str:
    """Returns the HTML page: one file that loads nothing."""
    context = {
        "title": f"Comparison: {', '.join(row.name for row in of.rows)}",
        "warnings": of.warnings,
        "runs": {row.label: ", ".join(row.runs.values()) for row in of.rows if row.runs},
        "tables": of.tables,
        "command": of.command,
    }
    return templating.render("trainer.reports", "comparison.html.j2", context, scripts=("copy.js",))
