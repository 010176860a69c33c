#!/usr/bin/env bash
# Loses a disk of a development cluster for good and measures how fast its data is rebuilt on the others, once while
# nobody else asks for anything and once while files are written and read. By hand: it needs 5.5 times the room of the
# disk, and minutes.
#
#   scripts/rebuild.sh [GIB] [DIR]   # GIB: what the disk holds when it is lost (default: 10)
#                                    # DIR: where the cluster goes (default: /var/tmp)
set -euo pipefail
cd "$(dirname "$0")/.."
gib=${1:-10}
place=$(realpath "${2:-/var/tmp}")
. scripts/env.sh
quarry_build_setup
quarry_install jq bc
cargo build --locked --release -p quarry-cli
quarry=$CARGO_TARGET_DIR/release/quarry

scratch=$(mktemp -d "$place/quarry-rebuild.XXXXXX")
home=$scratch/cluster
# The user's own configuration is neither read nor written.
export XDG_CONFIG_HOME=$scratch/xdg QUARRY_CLUSTER=$home/client.toml
finish() {
  "$quarry" dev stop --dir "$home" >/dev/null || true
  rm -rf "$scratch"
}
trap finish EXIT
"$quarry" dev --dir "$home" --dataservers 5 --processes --detach

# Three copies on five disks: each disk holds three fifths of what is stored.
files=$((gib * 5 / 3))
echo "storing $files files of 1 GiB" >&2
head -c 1G /dev/urandom > "$scratch/file"
for i in $(seq "$files"); do "$quarry" put "$scratch/file" "/file-$i"; done

state() { "$quarry" status --json | jq -r "$1"; }
is_clean='.pools[0] | .clean == .pg_count'

# Kills a dataserver and removes its disk, waits until that is out and everything is clean, and prints what it took.
lose() {
  local copied t0 t1
  copied=$(state .copied_bytes)
  "$quarry" dev kill "data-$1" --dir "$home" >/dev/null
  rm -r "$home/dataserver-$1/disk-1"
  until [ "$("$quarry" disk list --json | jq -r '[.[] | select(.state | test("out"))] | length')" = "$2" ]; do sleep 0.2; done
  t0=$(date +%s.%N)
  until [ "$(state "$is_clean")" = true ]; do sleep 0.5; done
  t1=$(date +%s.%N)
  copied=$(($(state .copied_bytes) - copied))
  awk -v b="$copied" -v t="$(echo "$t1 - $t0" | bc)" -v what="$3" \
    'BEGIN { printf "%s: %.2f GiB copied in %.1f s: %.3f GB/s\n", what, b / 2^30, t, b / 1e9 / t }'
}

"$quarry" bench write --json > "$scratch/before.json" || true
lose 5 1 "alone"
echo "while clients write and read:"
# One after the other, before the loss and as long as the rebuild takes.
head -c 256M "$scratch/file" > "$scratch/load"
( while :; do
    t0=$(date +%s.%N); "$quarry" put "$scratch/load" /load; t1=$(date +%s.%N); "$quarry" get /load "$scratch/back"; t2=$(date +%s.%N)
    awk -v a="$t0" -v b="$t1" -v c="$t2" 'BEGIN { printf "  put of 256 MiB %.3f GB/s, get %.3f GB/s\n", 0.2684 / (b - a), 0.2684 / (c - b) }'
  done ) & load=$!
sleep 10
echo "  data-4 is lost"
lose 4 2 "with clients"
kill "$load" || true
wait "$load" 2>/dev/null || true
echo "the machine: $(jq -c . "$scratch/before.json")"
for i in $(seq "$files"); do "$quarry" cat "/file-$i" | cmp - "$scratch/file"; done
echo "all $files files are identical"
