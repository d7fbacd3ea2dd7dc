"""Fair timing: programs side by side in rounds, on the same cores."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from process import Floats


class Answer(NamedTuple):
    """What a program found in one run of all its vessels."""

    seconds: float
    states: Floats  # [n, K, N'] at the end of every interval
    steps: float  # per vessel, on average
    failed: str = ""  # why it did not finish


@dataclass
class Peer:
    """A program that is ready to run: compiled and warmed up where it needs that."""

    name: str
    vessels: int
    run: Callable[[], Answer]
    seconds: list[float] = field(default_factory=list)
    answer: Answer | None = None

    @property
    def ms(self) -> float:
        """Median time per vessel."""
        return 1e3 * statistics.median(self.seconds) / self.vessels

    @property
    def least_ms(self) -> float:
        """Shortest time per vessel."""
        return 1e3 * min(self.seconds) / self.vessels


def warmed(name: str, vessels: int, run: Callable[[], Answer]) -> Peer:
    """A peer that compiles in its first run; one that does not finish then is not asked again."""
    first = run()
    return Peer(name, vessels, (lambda: first) if first.failed else run)


def in_turn(peers: Sequence[Peer], repeats: int, budget_s: float) -> None:
    """Run the peers A B C A B C ..., so that a machine that slows down hits all alike.

    A peer that has used up its budget sits out the rounds that remain; everybody runs once.
    """
    for turn in range(repeats):
        for peer in peers:
            if turn and (sum(peer.seconds) > budget_s or (peer.answer and peer.answer.failed)):
                continue
            peer.answer = peer.run()
            peer.seconds.append(peer.answer.seconds)


def clocked(call: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of a call, s, and what it gave."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(f"  {text}", file=sys.stderr, flush=True)
