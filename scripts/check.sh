#!/usr/bin/env bash
# The gate: format, lints, documentation, licences, tests. It only reads; scripts/fix.sh rewrites.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
quarry_build_setup
step() { echo "== $*" >&2; }

step format
cargo fmt --all --check
step lints
cargo clippy --locked --release --workspace --all-targets -- -D warnings
step "the client alone"
cargo clippy --locked --release -p quarry-cli --no-default-features --features client -- -D warnings
step documentation
RUSTDOCFLAGS="-D warnings" cargo doc --locked --release --workspace --no-deps
step "licences, sources, duplicate versions"
if ! cargo deny --version >/dev/null 2>&1; then
  echo "installing cargo-deny" >&2
  cargo install --locked --quiet --version 0.20.2 cargo-deny
fi
cargo deny --locked check bans licenses sources
# The advisory database is a download: checked where it can be reached, and said when not.
if ! cargo deny --locked check advisories 2>"$CARGO_TARGET_DIR/advisories.log"; then
  if grep -q "failed to fetch advisory database" "$CARGO_TARGET_DIR/advisories.log"; then
    echo "skipped: advisories (their database can not be reached from here)" >&2
  else
    cat "$CARGO_TARGET_DIR/advisories.log" >&2
    exit 1
  fi
fi
step tests
scripts/test.sh
