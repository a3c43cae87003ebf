"""What people read of a run: the text report and report.json, plots, the HTML page."""
