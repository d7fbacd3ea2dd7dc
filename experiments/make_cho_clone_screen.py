"""Write the shipped simulated screens: `python experiments/make_cho_clone_screen.py [FOLDER]` (default: datasets/)."""

import sys
from pathlib import Path

from optim.runtime import configure
from optim.synthetic import ScreenOptions, make_screen

if __name__ == "__main__":
    configure()
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "datasets"
    for name, mismatch in (("cho_clone_screen", False), ("cho_clone_screen_mismatch", True)):
        print(make_screen(target / name, name, ScreenOptions(mismatch=mismatch)))
