#!/usr/bin/env bash
# Stores all of /usr (or another tree) in a development cluster of its own, reads it back, and
# compares names, contents, modes, times, links, and which names are one file. By hand: it needs
# four times the room of the tree, and minutes.
#
#   scripts/usr.sh [TREE] [DIR]      # DIR: where the cluster and the copy go (default: /var/tmp)
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$(realpath "${1:-/usr}")
place=$(realpath "${2:-/var/tmp}")
[ -d "$tree" ] || { echo "usr: '$tree' is no directory: name a tree of files to store" >&2; exit 2; }
. scripts/env.sh
quarry_build_setup
quarry_install rsync
cargo build --locked --release -p quarry-cli
quarry=$CARGO_TARGET_DIR/release/quarry

scratch=$(mktemp -d "$place/quarry-usr.XXXXXX")
# The user's own configuration is neither read nor written.
export XDG_CONFIG_HOME=$scratch/xdg QUARRY_CLUSTER=$scratch/cluster/client.toml
finish() {
  "$quarry" dev stop --dir "$scratch/cluster" || true
  rm -rf "$scratch"
}
trap finish EXIT
"$quarry" dev --dir "$scratch/cluster" --detach

files=$(find "$tree" -xdev \( -type f -o -type l \) | wc -l)
bytes=$(find "$tree" -xdev -type f -printf '%s\n' | awk '{s+=$1} END {printf "%.0f", s}')
echo "storing $tree: $files files and links, $((bytes >> 20)) MiB, three copies of each" >&2
t0=$(date +%s.%N); "$quarry" put -r "$tree/." /tree; t1=$(date +%s.%N)
echo "reading it back" >&2
"$quarry" get -r /tree "$scratch/"; t2=$(date +%s.%N)
echo "comparing" >&2
differences=$(rsync -rlptDHcni --no-devices --no-specials --delete "$tree/" "$scratch/tree/" | head -20)
if [ -n "$differences" ]; then
  echo "usr: what came back differs:" >&2
  echo "$differences" >&2
  exit 1
fi
awk -v a="$t0" -v b="$t1" -v c="$t2" -v n="$files" -v m="$((bytes >> 20))" 'BEGIN {
  printf "identical: %d files and links, %d MiB\n", n, m
  printf "  stored in %.1f s: %.0f MiB/s, %.0f files/s\n", b - a, m / (b - a), n / (b - a)
  printf "  read in   %.1f s: %.0f MiB/s, %.0f files/s\n", c - b, m / (c - b), n / (c - b)
}'
