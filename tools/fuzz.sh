#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds the fuzzers and runs one of them, or all: tools/fuzz.sh [NAME...] [--seconds N]
#
#   --seconds N   how long each of them runs (default 60)
#
# Starts from tests/fuzz/corpus/NAME; what it finds new is kept in build/fuzz/corpus/NAME, and an input that fails is
# written to build/fuzz and named in the output. Prints the executions and the findings of each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=60
names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds)
      seconds=${2:?--seconds takes a number}
      shift 2
      ;;
    -*)
      sed -n '4,9s/^# \{0,1\}//p' "$0" >&2
      exit 2
      ;;
    *)
      names+=("$1")
      shift
      ;;
  esac
done
if [ ${#names[@]} -eq 0 ]; then
  for source in tests/fuzz/*_fuzz.cpp; do
    name=${source##*/}
    names+=("${name%_fuzz.cpp}")
  done
fi

cmake --preset fuzz
cmake --build --preset fuzz

findings=0
for name in "${names[@]}"; do
  corpus=build/fuzz/corpus/$name
  log=build/fuzz/$name.log
  mkdir -p "$corpus"
  status=0
  "build/fuzz/tests/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/$name-" "$corpus" "tests/fuzz/corpus/$name" >"$log" 2>&1 || status=$?
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  if [ "$status" -ne 0 ]; then
    findings=$((findings + 1))
    tail -n 40 "$log"
  fi
  printf 'fuzz %s: %s executions in %s s, %s\n' "$name" "${executions:-unknown}" "$seconds" \
    "$([ "$status" -eq 0 ] && echo '0 findings' || echo "a finding: see $log")"
done
[ "$findings" -eq 0 ]
