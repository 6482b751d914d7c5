#!/bin/sh
# The search behind [tuned.*] of the emoji presets: the same grid for every method, judged on held-out training samples (a fifth of
# each step's), two epochs a step, seed 0.
#
#     benches/tune.sh PRESET OUT rates    every method at three learning rates
#     benches/tune.sh PRESET OUT own      at the preset's rate, two further values of what is a method's own
#
# JOBS runs at a time (default: one for each core), each on one thread. Finished runs are kept. What a stream has no meaning for is
# refused and told. Prints a table for each setting. zero-shot has nothing to tune, and oracle is joint on these presets.
set -eu
preset=$1 out=$2 part=$3
perennial=${PERENNIAL:-target/release/perennial}

# One line a run: a setting and a method.
rates() {
    for method in $("$perennial" list methods | cut -d' ' -f1 | grep -v -x -e zero-shot -e oracle); do
        for rate in 1e-4 3e-4 1e-3; do echo "train.learning_rate=$rate $method"; done
    done
}

own() {
    cat <<'END'
objective.tau=0.07 gcl
objective.tau=0.3 gcl
objective.tau=0.3 gdro
objective.lambda=3 gdro
objective.lwf.mu=0.1 lwf
objective.lwf.mu=10 lwf
patching.own=true patching
patching.validation=0.2 patching
objective.ewc.lambda=1e5 ewc
objective.ewc.lambda=1e7 ewc
objective.icarl.weight=0.3 icarl
objective.icarl.weight=3 icarl
objective.der.auxiliary=0.3 der
objective.der.auxiliary=3 der
objective.foster.beta=0.7 foster
objective.foster.beta=0.96 foster
objective.co2l.weight=0.3 co2l
objective.co2l.weight=3 co2l
objective.cassle.weight=0.3 cassle
objective.cassle.weight=3 cassle
END
}

one() {
    "$perennial" compare "$preset" --methods "$2" --set "$1" --threads 1 --out "$out/$1" \
        --set evaluation.held_out=0.2 --set train.epochs=2 --set train.samples=0 >/dev/null 2>>"$out/log" ||
        echo "failed: $1 $2, see $out/log"
}

if [ "${4:-}" ]; then
    one "$4" "$5"
    exit
fi
mkdir -p "$out"
$part | xargs -P "${JOBS:-$(nproc)}" -L 1 "$0" "$preset" "$out" "$part"
for setting in $($part | cut -d' ' -f1 | sort -u); do
    echo "$setting"
    "$perennial" report "$out/$setting"/*/
done
