"""Figures of the report, drawn from records; each function returns a figure that `style.save` writes."""
