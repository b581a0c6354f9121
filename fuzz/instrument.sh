#!/bin/sh
# Stands before the compiler while `fuzz/run` builds: what is fuzzed counts the ways that are taken through it.
# "$1" is the compiler. The flags are those of cargo-fuzz, and stable.
wrapper="$(dirname "$0")/../host/guest-build/wrapper.sh"
case " $* " in
*" --crate-name outlast_protocol "* | *" --crate-name outlast_run "* | *" --crate-name outlast_model "* | *" --crate-name outlast_fuzz "*)
  exec "$wrapper" "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
  ;;
esac
exec "$wrapper" "$@"
