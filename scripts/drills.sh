#!/usr/bin/env bash
# Drills: a cluster of real processes in network namespaces, a load, faults, and a comparison of all that was acknowledged.
#
#   scripts/drills.sh [NAME...]      the drills with these names (all if left out), in all shapes and durations
#   scripts/drills.sh figures        how long reads, writes and metadata stand still when a server dies
#
# QUARRY_DRILL_SEEDS="1 2 3" runs each drill once a seed (default: 1), QUARRY_DRILL_SEED=7 only that one. QUARRY_DRILLS=short
# takes what scripts/test.sh takes: a few minutes for all. What was injected, what shows that it took effect, and the
# ends of the servers' logs when a drill fails are in the folder that is named at the end, beside the table of results.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
quarry_build_setup
quarry_install iproute2 nftables xfsprogs e2fsprogs util-linux procps
seeds=${QUARRY_DRILL_SEED:-${QUARRY_DRILL_SEEDS:-1}}
export QUARRY_DRILLS=${QUARRY_DRILLS:-long}
out=$(mktemp -d "${TMPDIR:-/tmp}/quarry-drills.XXXXXX")

cargo build --locked --release --workspace --bins || exit 1
cargo test --locked --release --workspace --no-run 2>/dev/null || exit 1
targets=()
for file in tests/tests/drills_*.rs; do
  name=$(basename "$file" .rs)
  [ "$name" = drills_figures ] || targets+=(--test "$name")
done
which=()
if [ "${1:-}" = figures ]; then
  targets=(--test drills_figures)
  which=(--ignored)
else
  for name in "$@"; do which+=("$name"); done
fi

failed=0
for seed in $seeds; do
  # One after the other: each takes the whole machine and measures time.
  QUARRY_DRILL_SEED=$seed cargo test --locked --release --workspace --no-fail-fast "${targets[@]}" -- \
    --nocapture --test-threads=1 "${which[@]}" >"$out/seed-$seed.log" 2>&1 || failed=1
  grep -E '^test .* (ok|FAILED)$|(ok|FAILED)$' "$out/seed-$seed.log" | sort | uniq -c | sed "s/^/seed $seed: /"
done
{
  printf 'drill | seed | took | operations | faults | longest gaps in s\n'
  cat "$out"/seed-*.log | sed -n 's/^drill | //p'
} | column -t -s '|' | tee "$out/table"
cat "$out"/seed-*.log | sed -n 's/^figure | //p' | column -t -s '|' | tee "$out/figures"
grep -hE "^(Error|error|thread .* panicked)" "$out"/seed-*.log && failed=1
echo "logs: $out" >&2
exit $failed
