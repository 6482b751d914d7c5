#!/usr/bin/env python3
"""Predicts, from the machine code, how many cycles the epilogue warps of the wgmma products take for a tile of 128 x 256.

    python3 benches/epilogue_cycles.py [FOLDER]     # where `cargo build` left linear.sm_90a.z; found under target/ by itself

An epilogue warp has a scheduler of its own but for the consumers, which mostly wait. So the model is one warp that issues in order:
an instruction comes when the stall count of the one before has passed, the scoreboards that it waits for are down, and its pipe
is free. Stall counts and scoreboards are in the machine code; rates are those of the CUDA programming guide for 9.0 (a scheduler
has 32 FMA lanes, 16 for integers, 4 for MUFU); latencies are rounded from published measurements. Branches are never taken but the
last: the path of a full tile. What comes out is a prediction, and none has been held against a GPU.
"""

import collections
import os
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NVDISASM = ROOT / "target/nvrtc/nvidia/cu13/bin/nvdisasm"
# Cycles until a result is there; of loads from memory, from DRAM.
LATENCY = {"MUFU": 24, "LDS": 33, "LDG": 700, "STG": 20, "LDC": 40}
SOURCE_READ = 12  # until a store or a load has read its registers
# Cycles that an instruction of a warp keeps its pipe.
PIPES = {
    "MUFU": ("mufu", 8),
    **dict.fromkeys(["FFMA", "FMUL", "FADD"], ("fma", 1)),
    **dict.fromkeys(["IMAD"], ("imad", 2)),
    **dict.fromkeys(["LDS", "LDG", "STG"], ("memory", 4)),
    **dict.fromkeys(
        "LOP3 IADD3 SHF LEA SEL FSEL FSETP ISETP FMNMX PRMT F2FP MOV PLOP3 VIADD VIMNMX VIADDMNMX".split(), ("alu", 2)
    ),
}
ROWS = 43  # of a tile's 128, of a thread of three warps
REPEATS = 8

Instruction = collections.namedtuple("Instruction", "text name stall sets reads waits")


def kernels(cubin):
    """Each kernel's instructions, and where its labels are."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [NVDISASM, "--print-code", "-hex", file.name]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    found, code, labels = {}, [], {}
    for line, following in zip(lines, lines[1:]):
        if match := re.match(r"\.text\.(\w+):", line):
            code, labels = found.setdefault(match[1], ([], {}))
        elif match := re.match(r"(\.L_x_\d+):", line):
            labels[match[1]] = len(code)
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;\s.*/\* 0x[0-9a-f]{16} \*/", line):
            # The upper half of the encoding: stall count, scoreboard to set, one to set when operands are read, mask to wait for.
            control = int(re.search(r"/\* 0x([0-9a-f]{16}) \*/", following)[1], 16) >> 41
            name = re.sub(r"^@!?U?P\w+\s+", "", match[1]).split()[0].split(".")[0]
            fields = control & 15, control >> 5 & 7, control >> 8 & 7, control >> 11 & 63
            code.append(Instruction(match[1], name, *fields))
    return found


def epilogue(code, labels):
    """The smallest loop that stores 16 bytes."""
    loops = []
    for at, instruction in enumerate(code):
        target = re.search(r"\bBRA\b.*\((\.L_x_\d+)\)", instruction.text)
        if target and labels.get(target[1], at + 1) <= at:
            body = code[labels[target[1]] : at + 1]
            if any("STG.E.128" in other.text for other in body):
                loops.append(body)
    return min(loops, key=len)


def cycles(body):
    time, ends, scoreboards, free = 0, [], [0] * 6, collections.defaultdict(int)
    for _ in range(REPEATS):
        for _, name, stall, sets, reads, waits in body:
            time = max([time] + [scoreboards[i] for i in range(6) if waits >> i & 1])
            if name in PIPES:
                pipe, busy = PIPES[name]
                time = max(time, free[pipe])
                free[pipe] = time + busy
            if sets < 6:
                scoreboards[sets] = max(scoreboards[sets], time + LATENCY.get(name, 20))
            if reads < 6:
                scoreboards[reads] = max(scoreboards[reads], time + SOURCE_READ)
            time += max(1, stall)
        ends.append(time)
    return (ends[-1] - ends[REPEATS // 2 - 1]) / (REPEATS - REPEATS // 2)


def main():
    roots = sys.argv[1:] or [os.environ.get("CARGO_TARGET_DIR", ROOT / "target")]
    files = sorted(Path(roots[0]).glob("**/linear.sm_90a.z"), key=lambda path: path.stat().st_mtime)
    if not files:
        sys.exit(f"no linear.sm_90a.z under {roots[0]}: build first")
    print("kernel                                      instructions  MUFU  cycles  cycles a tile    (a value: instructions, cycles)")
    for name, (code, labels) in sorted(kernels(zlib.decompress(files[-1].read_bytes())).items()):
        if not re.match(r"linear_wgmma_k._256", name):
            continue
        body = epilogue(code, labels)
        count = collections.Counter(instruction.name for instruction in body)
        # An iteration may be two batches, and end after the first.
        rows, batches = count["LDS"], 1 + (count["LDG"] == 0)
        taken = cycles(body)
        tile = -(-ROWS // (rows // batches)) * taken / batches
        values = 8 * rows
        print(
            f"{name:44}{len(body):12}{count['MUFU']:6}{taken:8.0f}{tile:15,.0f}"
            f"                     {len(body) / values:5.1f}{taken / values:8.1f}"
        )


main()
