"""Sparse coding that begins at an architecture known to be good, and leaves it where the data say so: α of `joint`."""

import torch

from kit.arch import SparseCoding, register

TRIES = 200  # of a node; for two of 35 candidates in seven dimensions a few do


@register("sparse-known", title="Sparse coding from the usual architecture", brings={"arch_reach": 3.0})
class SparseKnown(SparseCoding):
    """Where `SparseCoding` begins at chance, this one begins at the space's usual architecture (DARTS V2 for cells): b
    is the sum of that architecture's columns of A, so that its operations have gates of 1. Where the LASSO finds other
    columns that add up to the same b, the node's A is drawn once more. A space without a usual architecture begins at
    chance. The reach is short: from gates of 1, a long one forgets where it began."""

    def __init__(self, *given, **settings):
        super().__init__(*given, **settings)
        network = self.limits.network
        if network.usual is None:
            return
        known = tuple(tuple(sorted(picks)) for picks in network.picks_of(network.genotypes[network.usual]))
        index = torch.tensor(known, device=self.device).unsqueeze(1).expand(-1, self.A.shape[1], -1)
        chance = self.b.detach().clone()
        for _ in range(TRIES):
            with torch.no_grad():
                self.b.copy_(chance + self.A.gather(2, index).sum(2))
            self.alpha = self.alpha_before = self.recovered()
            found = self.largest(self.alpha.abs())
            others = torch.tensor([one != other for one, other in zip(found, known)])
            if not others.any():
                break
            self.A[others] = self.columns()[others]
        self.picks = self.strongest(self.alpha.abs())
