"""Launches every selftest in every schedule and compares with expectations.txt.

    python3 run.py plain|race|asan [kernel ...]

Builds the library first, under target/emulator/selftest. The asan flavour starts itself again with libasan preloaded.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROWS, PITCH, MAP_ROWS, MAP_COLUMNS = 128, 96, 100, 90


def main():
    flavour, only = sys.argv[1], sys.argv[2:]
    build = HERE.parents[2] / "target" / "emulator" / "selftest" / flavour
    if flavour == "asan" and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        library = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
        options = "halt_on_error=0:suppress_equal_pcs=0:detect_leaks=0:log_path=/dev/null"
        os.execve(sys.executable, [sys.executable] + sys.argv, dict(os.environ, LD_PRELOAD=library, ASAN_OPTIONS=options))
    made = subprocess.run(
        ["make", "-s", "-C", HERE.parent, f"FLAVOUR={flavour}", f"KERNELS={HERE}", f"BUILD={build}"],
        env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
    )
    if made.returncode:
        sys.exit("the build failed")
    sys.path.insert(0, str(HERE.parent))
    from emulator import Emulator

    emulator = Emulator(str(build / "libemulator.so"))
    wrong = 0
    for line in (HERE / "expectations.txt").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        kernel, blocks, threads, shared, flavours, expected = line.split(None, 5)
        if (flavours != "all" and flavour not in flavours.split(",")) or (only and kernel not in only):
            continue
        outcomes = run(emulator, kernel, int(blocks), int(threads), int(shared))
        if expected == "0":
            right = all(outcome == "0" for outcome in outcomes)
        elif expected == "failures":
            right = any(outcome.isdigit() and outcome != "0" for outcome in outcomes)
        else:
            right = any(expected in outcome for outcome in outcomes)
        if not right or only:
            print(f"{kernel}: {'right' if right else 'WRONG'}: expected '{expected}', but")
            for outcome in sorted(set(outcomes)):
                print(f"    {outcome}")
        wrong += not right
    print(f"{flavour}: {'all as expected' if not wrong else f'{wrong} wrong'}")
    sys.exit(wrong != 0)


def run(emulator, kernel, blocks, threads, shared):
    """The number of failures, or the error, of each schedule."""
    import numpy as np
    from emulator import Error

    outcomes = []
    for order in (0, 1):
        for completion in (0, 1, 2):
            failures = np.zeros(1, np.int32)
            data = np.arange(ROWS * PITCH, dtype=np.uint16)
            map = emulator.tensor_map(data.reshape(ROWS, PITCH)[:MAP_ROWS, :MAP_COLUMNS], 64)
            try:
                emulator.launch(kernel, blocks, threads, [failures, data, map], shared, order, completion, seed=7)
                outcomes.append(str(failures[0]))
            except Error as error:
                outcomes.append(str(error))
    return outcomes


main()
