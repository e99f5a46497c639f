"""What makes a model better at equal cost: one option a row, beside networks of other authors.

    PYTHONPATH=tests python -m bench.ablations run --data top50k.h5 --seconds 1200 --out FOLDER
    PYTHONPATH=tests python -m bench.ablations table --out FOLDER
    PYTHONPATH=tests python -m bench.ablations trial

`base` is `models/demo`; every other row changes one thing of it, and the peers stand as their
authors train them. Each row trains for the same CPU seconds of one thread on the 30 hardest
particles of top jets, and samples as many jets with 8, 16 and 50 evaluations of its network, which
are compared with the held-out jets of the repository. A row is a file, written when it is complete:
a run that is cut goes on with what is missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.ablations.rows import ROWS
from bench.ablations.runs import Settings, run, table, trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("order", choices=["run", "table", "trial"])
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--data", help="the file of training jets")
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="CPU time of a row")
    parser.add_argument("--samples", type=int, default=Settings.samples, help="jets of a row")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    given = parser.parse_args()
    if given.order == "trial":
        sys.stdout.write(trial(given.rows) + "\n")
        return
    if given.order == "run":
        if given.data is None:
            parser.error("say what to train on: --data FILE")
        settings = Settings(given.data, given.seconds, samples=given.samples)
        run(settings, given.rows, given.seeds, given.out)
    sys.stdout.write(table(given.out) + "\n")


if __name__ == "__main__":
    main()
