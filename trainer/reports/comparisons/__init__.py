"""The tables of a comparison, as text, CSV, Markdown, LaTeX and HTML."""
