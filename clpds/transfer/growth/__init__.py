"""Growth: a wider and deeper model that starts with the small one's function (arXiv 2104.11390)."""

from clpds.transfer.growth.grow import grow
from clpds.transfer.growth.measure import measure
from clpds.transfer.growth.plan import Growth
from clpds.transfer.growth.step import Grown, grow_source, growth_of

__all__ = ["Grown", "Growth", "grow", "grow_source", "growth_of", "measure"]
