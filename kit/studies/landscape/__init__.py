"""Loss landscape around a trained model (Li et al. 2018; DHA Fig. 3; METHOD section 5), and numbers for its flatness.

`plane`, `line` and `sharpness` take any model and images; `compare` takes runs and keeps the results in their
directories. `kit.figures` draws a comparison, `kit.studies.landscape.report` writes it down.
"""

from kit.studies.landscape.runs import Landscape, check, compare, gather, one_each
from kit.studies.landscape.surface import LossLines, Plane, direction, largest_eigenvalue, line, plane, sharpness

__all__ = [
    "Landscape",
    "LossLines",
    "Plane",
    "check",
    "compare",
    "direction",
    "gather",
    "largest_eigenvalue",
    "line",
    "one_each",
    "plane",
    "sharpness",
]
