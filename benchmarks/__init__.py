"""Benchmarks that a sceptic can rerun: ``python -m benchmarks NAME …`` from the root of the repository.

Each writes one JSON file with everything measured and what it was measured with (``provenance``). Markdown
and plots are rendered from that file alone (``report``): a table never says what was not recorded.
"""
