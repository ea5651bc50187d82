"""``depo replay``: what an estimator would have known, on outcomes that were recorded before.

`trace` is what was recorded; `parquet` and `run_directory` read it; `full` and `censored` replay it;
`smoother` is a reference line that sees the future, `told` lets the oracle see it; `bootstrap` gives
intervals, `quality` the figures; `comparison` runs everything that was asked for; `tables`, `document` and
`plots` show it; `command` is the command line's part.
"""
