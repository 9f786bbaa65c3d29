"""The figures of a report: reduction of long series, axes, palette, drawing, and SVG that lives inside a page."""
