"""Kill a 2-rank ZeRO-3 training again and again, start it again, and compare what comes out with the undisturbed run.

    python -m tests.torture [--kills 50] [--seed 0] [--fork]

Every start is ``clpds run RECIPE --ranks 2``; every other one saves asynchronously. A kill is SIGKILL to one rank, to
all ranks or to the launcher, at a step of a save (before a file is opened, made, renamed or removed) or at a random
instant. Between the kills a second start is tried while the first lives, the run moves to another path, and its files
get times in the future, as if the clock had been set back. With 50 kills the same follows with another number of ranks
at each start. Raises AssertionError where a promise of docs/reliability.md is broken.
"""

import argparse
import random
import tempfile
import time
from itertools import cycle
from pathlib import Path

import tests.conftest  # noqa: F401  # sets what must be set before libraries are imported
from tests.torture import between, compare
from tests.torture.killing import VICTIMS, Kill, strike
from tests.torture.starting import preload
from tests.torture.training import Training, write_training

RANKS = (2, 1, 4, 2)  # of the starts with another number of ranks


def main() -> None:
    """Parse, torture, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fork", action="store_true", help="fork the ranks instead of starting Python for each")
    options = parser.parse_args()
    if options.fork:
        preload()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clpds-torture-") as folder:
        training = write_training(Path(folder), steps=6 * options.kills, fork=options.fork)
        touches = undisturbed(training)
        torture(training, plan(options.kills, touches, options.seed), options.seed)
        say(f"survived {options.kills} kills; metrics, weights and optimizer states are those of the undisturbed run")
        if options.kills >= 50:
            changed = write_training(Path(folder) / "ranks", steps=30, fork=options.fork, dropout=False)
            undisturbed(changed)
            change_ranks(changed, options.seed)
            say(f"survived {len(RANKS)} kills with another number of ranks each; the losses are equal to 1e-5")
    say(f"bytes lost: 0; {time.monotonic() - began:.0f} s, seed {options.seed}")


def undisturbed(training: Training) -> dict[int, int]:
    """Train without a kill; how many steps a save has, by rank."""
    log = training.folder / "touches"
    training.start("whole", {"log": str(log)}).end(0)
    touches = {rank: compare.touches(Path(f"{log}-{rank}")) for rank in (0, 1)}
    say(f"a save has {touches[0]} steps on rank 0, {touches[1]} on rank 1")
    return touches


def plan(kills: int, touches: dict[int, int], seed: int) -> list[Kill | None]:
    """Three of four at steps of a save, with 50 kills at each once, on both ranks; None: at a random instant."""
    draw = random.Random(seed)
    steps = [(rank, touch) for rank, count in touches.items() for touch in range(1, count + 1)]
    points = cycle(draw.sample(steps, len(steps)))
    chosen: list[Kill | None] = []
    for number in range(kills):
        if number % 4 == 3 or number == kills // 3:
            chosen.append(None)
        else:
            rank, touch = next(points)
            save = 3 if number == 0 else draw.randint(1, 2)  # from the third on a save also removes an old checkpoint
            chosen.append(Kill(rank, save, touch, VICTIMS[number % 3]))
    return chosen


def torture(training: Training, kills: list[Kill | None], seed: int) -> None:
    """Kill and start again until all kills are done, then train to the end and compare."""
    draw = random.Random(seed)
    run = "killed"
    for number, kill in enumerate(kills):
        victim = kill.victim if kill else draw.choice(VICTIMS)
        start = training.start(run, kill, asynchronous=number % 2 == 1)
        if kill is None:
            between.await_steps(training.folder / run, start, draw.randint(1, 4))
            if number == len(kills) // 3:
                between.second_start_is_refused(training, start, run)
            time.sleep(draw.random() * 0.05)
            assert start.running(), "the run was over before its kill"
            strike(start.process.pid, draw.choice(sorted(start.ranks)), victim)
        assert start.end() != 0
        step = compare.require_sound(training.folder / run)
        where = f"step {kill.touch:2} of save {kill.save}, rank {kill.rank}" if kill else "a random instant"
        say(f"{number + 1:3}  {victim:8} killed at {where:24}  step {step} saved")
        if number == len(kills) // 2:
            run = between.moved(training, run)
        if number == 2 * len(kills) // 3:
            between.clock_set_back(training.folder / run)
    training.start(run).end(0)
    compare.require_equal(training.folder / run, training.folder / "whole")


def change_ranks(training: Training, seed: int) -> None:
    """One start after the other with another number of ranks, each killed in a save; then to the end."""
    draw = random.Random(seed)
    for ranks in RANKS:
        kill = Kill(0, 2, draw.randint(1, 16), draw.choice(VICTIMS))  # with one rank a save has fewer steps
        assert training.start("changed", kill, ranks=ranks).end() != 0
        say(f"{ranks} ranks: step {compare.require_sound(training.folder / 'changed')} saved")
    training.start("changed").end(0)
    compare.require_close(training.folder / "changed", training.folder / "whole")


def say(text: str) -> None:
    """A line at once, also into a file."""
    print(text, flush=True)


if __name__ == "__main__":  # and not where a child of multiprocessing imports this
    main()
