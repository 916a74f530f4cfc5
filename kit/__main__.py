"""usage: python -m kit name=value …

One search: python -m kit dataset=digits method=dha epochs=10
On several GPUs: torchrun --nproc_per_node=4 -m kit dataset=cifar10 method=dha

The names are the fields of kit.Config:"""

import os
import sys

from kit import Config, KitError, search
from kit.lab import notebook
from kit.search import ranks
from kit.search.progress import say


def main(arguments: list[str]) -> None:
    """Exits with 1 after a KitError, which is printed by one rank."""
    if not arguments or {"-h", "--help"} & set(arguments):
        fields = (f"  {name:18} {field.description or ''}" for name, field in Config.model_fields.items())
        say("\n".join([__doc__, *fields]))
        sys.exit(0 if arguments else 2)
    for name in ("stdout", "stderr"):  # some libraries write to them, whether they are there or not
        setattr(sys, name, getattr(sys, name) or open(os.devnull, "w"))
    with ranks.joined():
        try:
            run = search(ranks.together(lambda: Config(**notebook.assigned(arguments))))
        except KitError as error:
            if not isinstance(error, ranks.RaisedElsewhere):
                mark = f"rank {ranks.rank()}: " if ranks.count() > 1 else ""
                say(f"{mark}{error}", sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt as stopped:
            say(str(stopped) or "stopped", sys.stderr)
            sys.exit(130)
        if ranks.rank() == 0:
            say(f"{run.path}: test accuracy {run.metrics['test_accuracy']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
    ranks.leave()
