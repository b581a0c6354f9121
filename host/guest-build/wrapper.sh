#!/bin/sh
# Stands before the compiler for the packages of this workspace: .cargo/config.toml says why. "$1" is the compiler.
#
# When cargo asks for the version, this looks whether the target of components is there. Where it is missing,
# check-target installs it or says what helps; it is compiled here, since nothing else is yet.
if [ "$2" = -vV ]; then
  libraries=$("$1" --print target-libdir --target wasm32-wasip2 2>/dev/null)
  if ! ls "$libraries"/libstd-*.rlib >/dev/null 2>&1; then
    sources=$(dirname "$0")/src
    folder=$(mktemp -d) || exit
    trap 'rm -rf "$folder"' EXIT
    if "$1" --edition 2024 -o "$folder/check" "$sources/check_target.rs" && ! RUSTC=$1 "$folder/check"; then
      # cargo remembers what was answered, by the date of this file: without this, also after the target was installed.
      touch "$0" 2>/dev/null
      exit 1
    fi
    rm -rf "$folder"
    trap - EXIT
  fi
fi
exec "$@"
