"""Difficulty estimators: text and counts in, beliefs about pass rates out. A library of its own."""

from estimators.registry import build

__all__ = ["build"]
