"""α: learners that choose the child network."""

from __future__ import annotations

from kit.arch.base import ArchLearner, Given, random_picks
from kit.arch.lasso import lasso
from kit.arch.sparse import SparseCoding

__all__ = ["ArchLearner", "Given", "SparseCoding", "lasso", "random_picks"]
