"""What the tests of pages share: documents of runs, and a browser."""
