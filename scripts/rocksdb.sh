#!/usr/bin/env bash
# Compiles RocksDB once per machine and user, and prints the folder of the archive.
#
# The crate librocksdb-sys would compile it again for every new target folder and for
# some changes of shared build dependencies: ten to twenty minutes on two cores. So it is compiled
# here, from the version in Cargo.lock, into the cache, and every later build links that.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/quarry
version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
lib=$cache/rocksdb-$version
if [ ! -s "$lib/librocksdb.a" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/rocksdb.lock"
  flock 9
  if [ ! -s "$lib/librocksdb.a" ]; then
    echo "compiling RocksDB $version, once for this machine (ten to twenty minutes on two cores)" >&2
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC cargo build --locked --release -p librocksdb-sys \
      --target-dir "$cache/rocksdb-build" >&2
    found=$(find "$cache/rocksdb-build/release/build" -name librocksdb.a -print -quit)
    mkdir -p "$lib"
    cp "$found" "$lib/librocksdb.a.new"
    # Every test is linked with it: without debug information in a fraction of the time and the room.
    strip --strip-debug "$lib/librocksdb.a.new"
    mv "$lib/librocksdb.a.new" "$lib/librocksdb.a"
    rm -rf "$cache/rocksdb-build"
  fi
fi
echo "$lib"
