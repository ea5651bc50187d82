"""Which prompts are worth rolling out. Estimators believe, the selector chooses.

Takes plain settings and needs numpy only. A trainer other than depo's own uses it through ``Picker``, which
is told counts; depo's loop drives the ``Selector`` itself.
"""

from depo.selection.ledger import Ledger
from depo.selection.open_step import OpenStep
from depo.selection.picker import Baseline, Picker
from depo.selection.picks import SelectionSettings
from depo.selection.pool import PromptPool
from depo.selection.rules import Considered, InPoolOrder, Rule, build_rule
from depo.selection.selector import Selector, build_selector

__all__ = [
    "Baseline",
    "Considered",
    "InPoolOrder",
    "Ledger",
    "OpenStep",
    "Picker",
    "PromptPool",
    "Rule",
    "SelectionSettings",
    "Selector",
    "build_rule",
    "build_selector",
]
