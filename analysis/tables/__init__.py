"""Tables of the report: as frames of numbers, and as strings for page, terminal, Markdown, LaTeX and CSV."""
