"""The report: one HTML file that opens offline. SQL aggregates, Vega-Lite draws to SVG here, Jinja2 writes the page."""
