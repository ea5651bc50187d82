"""Prompts: where they come from, and how they are put to the policy.

`sources` reads problems from files, hub data sets and generators; `text` converts their values; `prompts`
makes token ids of them, drops what cannot be used and counts it; `stored` keeps them in the run directory.
"""

from depo.data.prompts import DataReport, LoadedData, load_data, load_prompts
from depo.data.stored import RunPrompts, load_saved, save_prompts
from depo.data.text import prompt_key

__all__ = [
    "DataReport",
    "LoadedData",
    "RunPrompts",
    "load_data",
    "load_prompts",
    "load_saved",
    "prompt_key",
    "save_prompts",
]
