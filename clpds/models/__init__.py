"""What transformers lacks: model classes of our own, and packed documents through a model.

Importing this registers the classes with transformers' Auto classes.
"""

from clpds.models import minijoint as minijoint
