#!/usr/bin/env bash
# One visit to a machine with a GPU: is the program right there, how fast is it, and how fast is PyTorch beside it.
#
#     benches/gpu_visit.sh BINARY OUT_DIR [COMMIT]
#
# BINARY is a built perennial; COMMIT says which one where there is no .git. The machine needs NVIDIA's driver and
# a python3 with PyTorch (PYTHON names another); compute-sanitizer for the last parts. No Rust, no network.
#
# The parts run in the order of their worth, each under a time limit of its own and all within BUDGET seconds (535);
# PARTS, a regular expression, chooses among them by name, for a second visit say: PARTS='^check|1024'.
# A part that fails does not stop the next; its failure stands in the table at the end and makes the exit status 1.
# A missed speed target is a result, not a failure. OUT_DIR gets: summary.json (to be kept under benches/results/),
# table.txt, and the logs check.log, visit.log, sanitizers.log.

set -u -o pipefail

if (($# < 2 || $# > 3)); then
    echo "usage: $0 BINARY OUT_DIR [COMMIT]" >&2
    exit 2
fi
binary=$(realpath "$1")
mkdir -p "$2" || exit 2
out=$(realpath "$2")
cd "$(dirname "$0")/.." || exit 2
COMMIT=${3:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
export COMMIT
python=${PYTHON:-python3}
budget=${BUDGET:-535}
chosen=${PARTS:-.}
sanitizer_share=130 # seconds that the parts before the sanitizers may not use

work=$(mktemp -d)
failures=0
rm -f "$out"/{check,visit,sanitizers}.log
: >"$work/parts.tsv"

# part NAME LIMIT LOG COMMAND...: runs it for at most LIMIT seconds, appends what it prints to OUT_DIR/LOG.log and
# writes how it went to parts.tsv: name, result, seconds, last line printed.
part() {
    local name=$1 limit=$2 log=$out/$3.log
    shift 3
    [[ $name =~ $chosen ]] || return 0
    local left=$((budget - SECONDS)) start=$SECONDS result last=""
    [[ $log == */sanitizers.log ]] || left=$((left - sanitizer_share))
    ((limit <= left)) || limit=$left
    if ((limit < 10)); then
        result="no time left"
    else
        printf '%s ...\n' "$name"
        printf '\n== %s\n' "$name" >>"$log"
        local before
        before=$(stat -c %s "$log")
        timeout -k 8 "$limit" "$@" >>"$log" 2>&1
        local status=$?
        case $status in
            0) result=pass ;;
            124 | 137) result="over $limit s" ;;
            126 | 127) result="cannot run" ;;
            *) result="exit $status" ;;
        esac
        last=$(tail -c "+$((before + 1))" "$log" | tr '\r\t' '\n ' | grep -v '^ *$' | tail -n 1)
    fi
    [[ $result == pass ]] || failures=$((failures + 1))
    printf '%s\t%s\t%s\t%s\n' "$name" "$result" "$((SECONDS - start))" "$last" >>"$work/parts.tsv"
}

# Ours, then PyTorch's for the same model and batch; PyTorch's compares with ours if that is there.
# pair WHAT MODEL BATCH OUR_LIMIT TORCH_LIMIT [TORCH_OPTION...]
pair() {
    local what=$1 model=$2 batch=$3 our_limit=$4 torch_limit=$5
    shift 5
    local ours=$work/ours-$what-$model-$batch.json theirs=$work/torch-$what-$model-$batch.json
    part "bench $what $model $batch" "$our_limit" visit \
        "$binary" bench "$what" --device cuda --model "$model" --batch "$batch" --json "$ours"
    local against=(--skip-perennial)
    [[ -s $ours ]] && against=(--ours "$ours")
    part "torch $what $model $batch" "$torch_limit" visit \
        "$python" -u benches/torch_clip.py "$what" --device cuda --model "presets/models/$model.json" \
        --batch "$batch" --json "$theirs" "${against[@]}" "$@"
}

# The table and summary.json, from parts.tsv and the reports.
summary() {
    python3 - "$work" "$out/summary.json" <<'PYTHON' | tee "$out/table.txt"
import json
import os
import subprocess
import sys
from pathlib import Path

work, target = Path(sys.argv[1]), Path(sys.argv[2])


def query(field):
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def read(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


parts = [dict(zip(("part", "result", "seconds", "last_line"), line.split("\t")))
         for line in (work / "parts.tsv").read_text().splitlines()]
for part in parts:
    part["seconds"] = int(part["seconds"])
reports = {path.stem: read(path) for path in sorted(work.glob("*.json"))}
reports = {name: report for name, report in reports.items() if report}
for report in reports.values():
    report.pop("perennial", None)  # PyTorch's report repeats ours
found = {
    "device": query("name"), "driver": query("driver_version"), "commit": os.environ["COMMIT"],
    "parts": [{key: part[key] for key in ("part", "result", "seconds")} for part in parts],
    "reports": reports,
}
target.write_text(json.dumps(found, indent=1) + "\n")


def cell(value, width, form, scale=1):
    return f"{value * scale:>{width}{form}}" if value is not None else " " * width


print(f"\n{found['device']}, driver {found['driver']}, commit {found['commit']}\n")
print(f"{'part':<30} {'result':<14} {'s':>4}")
for part in parts:
    said = part["result"] != "pass" or not part["part"].startswith(("bench", "torch"))
    line = f"{part['part']:<30} {part['result']:<14} {part['seconds']:>4}  {part['last_line'][:90] if said else ''}"
    print(line.rstrip())

print(f"\n{'step':<14} {'program':<32} {'pairs/s':>9} {'ms':>8} {'TFLOP/s':>8} {'MFU':>6} {'GiB':>6} {'ours/it':>8}")
for setting in dict.fromkeys(name.split("-", 2)[2] for name in reports if "-step-" in name):
    ours, theirs = reports.get(f"ours-step-{setting}", {}), reports.get(f"torch-step-{setting}", {})
    batch, lines, compared = int(setting.rsplit("-", 1)[1]), {}, None
    share = ours["mfu"] / ours["tflops"] if ours.get("mfu") and ours.get("tflops") else None  # of one TFLOP/s
    for program, suffix in (("perennial", ""), ("perennial full context", "_full_context")):
        compared = ours.get(f"samples_per_second{suffix}", compared)  # the full context where it is there
        gflops = ours.get(f"gflops{suffix}")
        lines[program] = {"speed": ours.get(f"samples_per_second{suffix}"), "tflops": gflops and gflops / 1e3,
                          "mfu": gflops and share and share * gflops / 1e3, "peak_bytes": ours.get("peak_bytes")}
    for program, speed in theirs.get("samples_per_second", {}).items():
        lines.setdefault(program, {"speed": speed, "ratio": compared and compared / speed})
        for key, value in theirs["speeds"][program].items():
            lines[program][key] = lines[program].get(key) or value
    for program, line in lines.items():
        if line["speed"]:
            print(f"{setting:<14} {program:<32} {line['speed']:>9.1f} {1e3 * batch / line['speed']:>8.2f} "
                  f"{cell(line.get('tflops'), 8, '.1f')} {cell(line.get('mfu'), 6, '.1%')} "
                  f"{cell(line.get('peak_bytes'), 6, '.1f', 2**-30)} {cell(line.get('ratio'), 8, '.2f')}".rstrip())

ceilings = [(name.split("-", 2)[2], report["ceilings"]) for name, report in reports.items()
            if name.startswith("torch-kernels")]
for setting, ceiling in ceilings[:1]:
    print(f"\nceilings in PyTorch: products {ceiling['gflops'] / 1e3:.0f} TFLOP/s, "
          f"copies {ceiling['gb_per_second'] / 1e3:.2f} TB/s")
print(f"\n{'target':<30} {'setting':<14} {'':<6} {'rows':>8} {'median':>7} {'worst':>6}")
targets = 0
for name, report in reports.items():
    for aim in report.get("targets", []):
        targets += 1
        rows = f"{aim['reached']}/{aim['rows']}"
        print(f"{aim['target']:<30} {name.split('-', 2)[2]:<14} {'met' if aim['met'] else 'MISSED':<6} {rows:>8} "
              f"{cell(aim.get('median'), 7, '.2f')} {cell(aim.get('worst'), 6, '.2f')}  {aim.get('worst_row', '')}")
if not targets:
    print("none measured: a target needs perennial's report and PyTorch's")
PYTHON
    rm -rf "$work"
}
# However the visit ends, what it found is shown.
trap summary EXIT
trap 'exit 1' INT TERM

# shellcheck disable=SC2016  # $0 is the inner shell's
part machine 60 visit bash -c '
    for tool in nvcc ncu compute-sanitizer; do
        command -v "$tool" >/dev/null && "$tool" --version | tail -n 2 || echo "$tool: not found"
    done
    nvidia-smi && "$0" -c "
import torch
print(torch.__version__, torch.version.cuda, torch.cuda.is_available() or \"no CUDA\")
raise SystemExit(not torch.cuda.is_available())"' "$python"
part check 100 check "$binary" check --device cuda
part "check mma" 30 check "$binary" check --device cuda --kernels mma --only linear
pair step ViT-B-16 256 45 150 --compile
pair kernels ViT-B-16 256 60 50
pair step ViT-B-32 1024 45 130 --compile
pair kernels ViT-B-32 1024 60 50
pair kernels ViT-B-32 256 40 40
pair kernels ViT-B-16 1024 60 50
for tool in memcheck racecheck synccheck; do
    part "$tool" 60 sanitizers compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$binary" check --device cuda --smallest
done

((failures == 0))
