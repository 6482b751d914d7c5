#!/bin/sh
# The search behind [tuned] of the emoji presets: the same grid for every method, judged on held-out training samples (a fifth of
# each step's), two epochs a step, seed 0. What stands under [tuned] does not count here, so that it can be found again.
#
#     benches/tune.sh PRESET.toml OUT rates    every method at three learning rates
#     benches/tune.sh PRESET.toml OUT own      at the best of them, two further values of what is a method's own
#     benches/tune.sh PRESET.toml OUT edges    one step further where the best lay at an end of what had been tried
#     benches/tune.sh PRESET.toml OUT heads    rates, of the methods whose head starts as the class prompts, and der's two endings
#     benches/tune.sh PRESET.toml OUT dro      gdro's three weightings, each at several lambda
#     benches/tune.sh PRESET.toml OUT texts    rates, of the methods that learn from texts and go on from step to step
#
# JOBS runs at a time (default: one for each core), each on one thread. Finished runs are kept. What a stream has no meaning for is
# refused and told. Prints a table for each setting. zero-shot has nothing to tune, and oracle is joint on these presets.
set -eu
preset=$1 out=$2 part=$3
perennial=${PERENNIAL:-target/release/perennial}

# One line a run: settings parted by commas, and a method.
rates() {
    for method in $("$perennial" list methods | cut -d' ' -f1 | grep -v -x -e zero-shot -e oracle); do
        for rate in 1e-4 3e-4 1e-3; do echo "train.learning_rate=$rate $method"; done
    done
}

texts() {
    for method in sequential cumulative-all cumulative-exp cumulative-equal lwf patching gcl gdro; do
        for rate in 1e-4 3e-4 1e-3; do echo "train.learning_rate=$rate $method"; done
    done
}

# With what was found for random heads beside the rate.
heads() {
    foster=objective.foster.beta=0.85,objective.foster.compression_beta=0
    for rate in 3e-5 1e-4 3e-4; do
        echo "train.learning_rate=$rate finetune-ce"
        echo "train.learning_rate=$rate,objective.ewc.lambda=1e6 ewc"
        echo "train.learning_rate=$rate,objective.icarl.weight=3 icarl"
        echo "train.learning_rate=$rate,objective.der.auxiliary=0.1 der"
        echo "train.learning_rate=$rate,objective.der.auxiliary=0.1,objective.der.balance=false der"
        echo "train.learning_rate=$rate,$foster foster"
    done
    # Where the best lay at an end of these.
    echo "train.learning_rate=1e-5 finetune-ce"
    echo "train.learning_rate=1e-3,objective.ewc.lambda=1e6 ewc"
    echo "train.learning_rate=1e-3,$foster foster"
}

dro() {
    for weighting in prior batch sample; do
        for lambda in 1 3 10 30; do
            echo "objective.tau=0.3,objective.weighting=$weighting,objective.lambda=$lambda gdro"
        done
    done
}

own() {
    cat <<'END'
objective.tau=0.07 gcl
objective.tau=0.3 gcl
objective.tau=0.3 gdro
objective.lambda=3 gdro
train.learning_rate=3e-4,objective.lwf.mu=0.1 lwf
train.learning_rate=3e-4,objective.lwf.mu=10 lwf
patching.own=true patching
patching.validation=0.2 patching
objective.ewc.lambda=1e5 ewc
objective.ewc.lambda=1e7 ewc
objective.icarl.weight=0.3 icarl
objective.icarl.weight=3 icarl
train.learning_rate=1e-3,objective.der.auxiliary=0.3 der
train.learning_rate=1e-3,objective.der.auxiliary=3 der
train.learning_rate=1e-3,objective.foster.beta=0.7,objective.foster.compression_beta=0.87 foster
train.learning_rate=1e-3,objective.foster.beta=0.96,objective.foster.compression_beta=0.87 foster
train.learning_rate=3e-4,objective.co2l.weight=0.3 co2l
train.learning_rate=3e-4,objective.co2l.weight=3 co2l
objective.cassle.weight=0.3 cassle
objective.cassle.weight=3 cassle
END
}

edges() {
    for method in sequential finetune-ce cumulative-all lwf patching gcl gdro ewc icarl; do
        echo "train.learning_rate=3e-5 $method"
    done
    for method in sequential lwf patching icarl; do
        echo "train.learning_rate=1e-5 $method"
    done
    cat <<'END'
objective.tau=0.6 gcl
objective.lambda=10 gdro
objective.lambda=3,objective.tau=0.3 gdro
objective.lambda=3,objective.tau=0.6 gdro
objective.lambda=10,objective.tau=0.3 gdro
train.learning_rate=3e-5,objective.lambda=3,objective.tau=0.3 gdro
objective.lambda=3,objective.margin=0.3 gdro
objective.ewc.lambda=1e6 ewc
objective.icarl.weight=10 icarl
train.learning_rate=3e-5,objective.icarl.weight=3 icarl
train.learning_rate=3e-3,objective.der.auxiliary=0.3 der
train.learning_rate=1e-3,objective.der.auxiliary=0.1 der
train.learning_rate=3e-3,objective.foster.beta=0.85,objective.foster.compression_beta=0.87 foster
train.learning_rate=1e-2,objective.foster.beta=0.85,objective.foster.compression_beta=0.87 foster
train.learning_rate=3e-3,objective.foster.boosting=0.3,objective.foster.beta=0.85,objective.foster.compression_beta=0.87 foster
train.learning_rate=3e-3,objective.foster.boosting=0.8,objective.foster.beta=0.85,objective.foster.compression_beta=0.87 foster
train.learning_rate=1e-3,objective.foster.beta=0.85,objective.foster.compression_beta=0.5 foster
train.learning_rate=1e-3,objective.foster.beta=0.85,objective.foster.compression_beta=0 foster
train.learning_rate=1e-3,objective.foster.beta=0,objective.foster.compression_beta=0 foster
train.learning_rate=1e-3,objective.foster.boosting=0.8,objective.foster.beta=0.85,objective.foster.compression_beta=0 foster
END
}

one() {
    settings=$1 method=$2
    place="$out/$settings"
    set -- --set evaluation.held_out=0.2 --set train.epochs=2 --set train.samples=0
    old_ifs=$IFS IFS=,
    for setting in $settings; do set -- "$@" --set "$setting"; done
    IFS=$old_ifs
    "$perennial" compare "$out/preset.toml" --methods "$method" --threads 1 --out "$place" "$@" >/dev/null 2>>"$out/log" ||
        echo "failed: $settings $method, see $out/log"
}

if [ "${4:-}" ]; then
    one "$4" "$5"
    exit
fi
mkdir -p "$out"
sed '/^\[tuned\]/,$d' "$preset" >"$out/preset.toml"
$part | xargs -P "${JOBS:-$(nproc)}" -L 1 "$0" "$preset" "$out" "$part"
for settings in $($part | cut -d' ' -f1 | sort -u); do
    echo "$settings"
    "$perennial" report "$out/$settings"/*/
done
