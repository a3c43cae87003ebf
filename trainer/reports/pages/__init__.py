"""The HTML page of a run, its charts, and the templates that a search shares."""
