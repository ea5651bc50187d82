"""Which prompts are worth rolling out. Estimators believe, the selector chooses.

Takes plain settings: a trainer other than depo's own can use it (``Selector``'s module shows how).
"""

from depo.selection.open_step import OpenStep
from depo.selection.picks import SelectionSettings
from depo.selection.rules import Considered, InPoolOrder, Rule, build_rule
from depo.selection.selector import Selector, build_selector

__all__ = [
    "Considered",
    "InPoolOrder",
    "OpenStep",
    "Rule",
    "SelectionSettings",
    "Selector",
    "build_rule",
    "build_selector",
]
