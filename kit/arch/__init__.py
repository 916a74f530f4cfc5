"""α: architecture learners. One is added by `register` above its class, in kit or in a user's own file."""

from kit.arch.base import ARCH, ArchLearner, Given, Searcher, random_picks, register
from kit.arch.edges import Edges, Gumbel
from kit.arch.lasso import lasso
from kit.arch.logits import Categorical, Dsnas, Reinforce
from kit.arch.sparse import SparseCoding
