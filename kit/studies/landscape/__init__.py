"""Loss landscape around a trained model (Li et al. 2018; DHA Fig. 3; METHOD section 5) and numbers for its flatness.

The package loss_landscapes supplies metrics and the model wrapper that they expect; directions and grid are built here
(its own walk
leaves the centre, see METHOD section 5). The caller's model is never moved: a copy is. `compare` does all of it for
several runs, on the
same directions' seed, and keeps what is done in their directories; `kit.figures` draws it and `kit.landscape.report`
writes it down.
"""

from kit.studies.landscape.curvature import largest_eigenvalue, sharpness
from kit.studies.landscape.directions import direction
from kit.studies.landscape.grid import Lines, Plane, line, plane
from kit.studies.landscape.runs import (
    Landscape,
    by_method,
    check,
    compare,
    findings,
    gather,
    method_findings,
    one_each,
    table,
)

__all__ = [
    "Landscape",
    "Lines",
    "Plane",
    "by_method",
    "check",
    "compare",
    "direction",
    "findings",
    "gather",
    "largest_eigenvalue",
    "line",
    "method_findings",
    "one_each",
    "plane",
    "sharpness",
    "table",
]
