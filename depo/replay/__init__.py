"""``depo replay``: what an estimator would have known, on outcomes that were recorded before.

`trace` is what was recorded; `parquet` and `run_directory` read it; `full` and `censored` replay it; `told`
knows pass rates from the future, for a reference line and the oracle; `quality` gives the figures;
`comparison` runs everything that was asked for, named as in `specs`; `report` shows it; `command` is the
command line's part.
"""
