"""Growth: a wider and deeper model that starts with the small one's function (arXiv 2104.11390)."""

from clpds.transfer.growth.grow import grow
from clpds.transfer.growth.measure import Difference, measure
from clpds.transfer.growth.plan import Growth, sizes

__all__ = ["Difference", "Growth", "grow", "measure", "sizes"]
