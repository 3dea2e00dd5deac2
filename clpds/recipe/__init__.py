"""The typed recipe: one dataclass a verb, the same for the command line and for YAML.

A recipe names its steps in order::

    steps:
      tokenizer: {verb: tokenizer, input: [de.txt], vocab_size: 8192, out: runs/de/tokenizer}
      train:
        verb: train
        model: runs/de/clp
        ...

This module is pure data and imports nothing heavy: a login node reads a recipe at once.
"""

from clpds.recipe.fields import Count, Dtype, MaybeCount, MaybePath, MaybeText, NotNegative
from clpds.recipe.read import Recipe, checked, load_recipe, load_stage, of_step, read_yaml
from clpds.recipe.steps import VERBS, Convert, Eval, Inspect, Report, Step, verb_of
from clpds.recipe.text import Data, Dictionary, Embeddings, Pairs, Tokenizer
from clpds.recipe.training import LANGUAGES, Corpus, Optimizer, Saving, Schedule, Train, Validation
from clpds.recipe.transfer import NEEDS, USED_BY, GrowthFill, Init, InitMethod, NewLayers, VocabularyMethod

__all__ = [
    "LANGUAGES",
    "NEEDS",
    "USED_BY",
    "VERBS",
    "Convert",
    "Corpus",
    "Count",
    "Data",
    "Dictionary",
    "Dtype",
    "Embeddings",
    "Eval",
    "GrowthFill",
    "Init",
    "InitMethod",
    "Inspect",
    "MaybeCount",
    "MaybePath",
    "MaybeText",
    "NewLayers",
    "NotNegative",
    "Optimizer",
    "Pairs",
    "Recipe",
    "Report",
    "Saving",
    "Schedule",
    "Step",
    "Tokenizer",
    "Train",
    "Validation",
    "VocabularyMethod",
    "checked",
    "load_recipe",
    "load_stage",
    "of_step",
    "read_yaml",
    "verb_of",
]
