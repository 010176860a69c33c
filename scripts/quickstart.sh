#!/usr/bin/env bash
# From a clone to a stored tree: installs what is missing, builds, starts a cluster in the
# background (one metaserver, three dataservers, state kept on disk), stores TREE, reads it back,
# compares, prints the figures and what to try next. The cluster is left running.
#
#   scripts/quickstart.sh [TREE]     # default: /usr/share
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$(realpath "${1:-/usr/share}")
[ -d "$tree" ] || { echo "quickstart: '$tree' is no directory: name a tree of files to store" >&2; exit 2; }
. scripts/env.sh
quarry_build_setup
quarry_install rsync
echo "building quarry" >&2
cargo build --locked --release -p quarry-cli
quarry=$CARGO_TARGET_DIR/release/quarry

"$quarry" dev --detach
# The user's own client file may be for another cluster.
export QUARRY_CLUSTER=${XDG_DATA_HOME:-$HOME/.local/share}/quarry/dev/client.toml
name=quickstart-$(date +%Y%m%d-%H%M%S)-$$
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/quarry-quickstart.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

files=$(find "$tree" -xdev \( -type f -o -type l \) | wc -l)
bytes=$(find "$tree" -xdev -type f -printf '%s\n' | awk '{s+=$1} END {printf "%.0f", s}')
seconds() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.1f", b - a}'; }
rate() { awk -v n="$1" -v s="$2" 'BEGIN {printf "%.0f", n / (s > 0 ? s : 0.1)}'; }

"$quarry" mkdir "/$name"
echo "storing $tree ($files files and links, $((bytes >> 20)) MiB), three copies of each" >&2
t0=$(date +%s.%N); "$quarry" put -r "$tree/." "/$name/tree"; t1=$(date +%s.%N)
echo "reading it back" >&2
"$quarry" get -r "/$name/tree" "$scratch/"; t2=$(date +%s.%N)
echo "comparing names, contents, modes, times and links" >&2
differences=$(rsync -rlptgoDHcni --no-owner --no-group --no-devices --no-specials --delete "$tree/" "$scratch/tree/" | head -20)
if [ -n "$differences" ]; then
  echo "quickstart: what came back differs:" >&2
  echo "$differences" >&2
  exit 1
fi
put=$(seconds "$t0" "$t1"); get=$(seconds "$t1" "$t2")
cat <<EOF

identical: $files files and links, $((bytes >> 20)) MiB
  stored in   $put s: $(rate "$((bytes >> 20))" "$put") MiB/s, $(rate "$files" "$put") files/s (three copies, synced)
  read in     $get s: $(rate "$((bytes >> 20))" "$get") MiB/s, $(rate "$files" "$get") files/s

The cluster is running. To try next:
  export PATH=$CARGO_TARGET_DIR/release:\$PATH QUARRY_CLUSTER=$QUARRY_CLUSTER
  quarry ls -l /$name/tree
  quarry status
  echo hello | quarry put - /hello.txt && quarry cat /hello.txt
  quarry locate /hello.txt
  quarry bench write --size 1G
  quarry dev stop
EOF
