"""What transformers lacks: MiniJoint and TRILayer encoders, and packed documents through a model.

Importing this registers the classes with transformers' Auto classes.
"""

from clpds.models import minijoint as minijoint
from clpds.models import trelm as trelm
