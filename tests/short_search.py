"""`autometa` in a process of its own, with final comparisons as short as `short_judgement` has."""

from autometa import finals
from autometa.baselines import PEERS
from autometa.cli import main

if __name__ == "__main__":
    finals.CAP = 1
    for name in set(PEERS) - {"ridge", "ridge_pooled"}:
        del PEERS[name]
    main()
