"""GDAS (Dong & Yang 2019), on which DAAS builds: hard Gumbel over every edge's operations, on two levels."""

from kit.arch import Edges, register
from kit.methods import TWO_LEVELS
from kit.methods import register as register_method


@register("gdas", title="GDAS", brings={"arch_reach": 6.0, "temperature": 10.0, "last_temperature": 0.1})
class Gdas(Edges):
    """Every edge runs one operation. The derived child has fewer edges, and has to be trained anew."""

    retrain = True
    limited = False


ONE = {"children": 1, "arch_samples": 1}  # one child for the weights and one for α in a step, as the paper has it
register_method("gdas", "GDAS: NAS alone, two levels, retrained", arch="gdas", stages=TWO_LEVELS, values=ONE)
