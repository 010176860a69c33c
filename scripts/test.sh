#!/usr/bin/env bash
# Installs what is missing and runs all tests: units, then whole clusters with real faults.
# Arguments go to `cargo test`, for example: scripts/test.sh -p quarry-common placement
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
quarry_build_setup
# Network namespaces, packet filters, loop file systems that lose power, false clocks.
quarry_install iproute2 nftables xfsprogs e2fsprogs util-linux procps faketime
# The cluster tests start this binary.
cargo build --locked --release --workspace --bins
if [ $# -gt 0 ]; then
  exec cargo test --locked --release "$@"
fi
cargo test --locked --release --workspace --no-fail-fast
