"""``depo replay``: what an estimator would have known, on outcomes that were recorded before.

`trace` is what was recorded, with the pass rates that follow from all of it; `parquet` and `run_directory`
read it; `full` and `censored` replay it, each with its figures; `comparison` runs everything that was asked
for; `report` shows it; `command` is the command line's part.
"""
