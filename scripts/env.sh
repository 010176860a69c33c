# To be sourced: where builds go and which RocksDB they link.
#
# One profile (release) and one target folder outside the checkout serve tools, tests and
# benchmarks of every clone on this machine; RocksDB is compiled once (scripts/rocksdb.sh).
quarry_cache=${XDG_CACHE_HOME:-$HOME/.cache}/quarry
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$quarry_cache/target}
if [ -f "$HOME/.cargo/env" ]; then . "$HOME/.cargo/env"; fi
quarry_as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Debian packages that are missing among those named are installed.
quarry_install() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  echo "installing ${missing[*]}" >&2
  quarry_as_root apt-get update -qq
  quarry_as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

# Rust of at least the version that Cargo.toml names.
quarry_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  found=$(rustc --version 2>/dev/null | cut -d' ' -f2) || true
  if [ -n "$found" ] && [ "$(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -1)" = "$wanted" ]; then
    return
  fi
  echo "Rust $wanted or newer is needed, ${found:-none} is here: running the official installer" >&2
  quarry_install curl ca-certificates
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile default
  . "$HOME/.cargo/env"
}

# Everything that a build needs.
quarry_build_setup() {
  quarry_install gcc g++ make libclang-dev git ca-certificates
  quarry_rust
  ROCKSDB_LIB_DIR=$(scripts/rocksdb.sh)
  export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
}
