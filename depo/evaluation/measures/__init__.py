"""Figures of repeated sampling as pure functions of arrays: no files, no models.

Letters in array names: N problems, R resamples of the bootstrap, K values of k.
"""
