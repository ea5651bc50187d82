"""Which prompts are worth rolling out. Estimators believe, the selector chooses."""

from depo.selection.rules import RULES, View, top
from depo.selection.selector import Selector

__all__ = ["RULES", "Selector", "View", "top"]
