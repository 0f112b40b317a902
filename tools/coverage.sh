#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds and runs the tests with the coverage preset, which has the sanitizers of asan-ubsan too, so that one build does for
# both, and prints which lines of modules/ and src/ the tests reach.
#
#   tools/coverage.sh [--floor N]
#
#   --floor N   the percentage of lines below which the run fails; 90 unless told
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

die() { printf 'coverage: %s\n' "$*" >&2; exit 1; }

floor=90
while (($#)); do
  case $1 in
    --floor) floor=${2:?--floor wants a number}; shift 2 ;;
    *) die "unknown option $1; the option is --floor N" ;;
  esac
done
[[ $floor =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--floor wants a number, not $floor"
command -v llvm-cov-19 >/dev/null || die "needs LLVM's tools: apt-get install llvm-19"

readonly tree=build/coverage
rm -rf $tree/profiles
cmake --workflow --preset coverage

# A process that a test kills leaves a broken profile: those are passed over, as long as any is whole.
find $tree/profiles -name '*.profraw' >$tree/profiles/list
llvm-profdata-19 merge --sparse --failure-mode=all --input-files=$tree/profiles/list -o $tree/merged.profdata

mapfile -t binaries < <(find $tree/tests -maxdepth 1 -type f -executable | sort)
[[ ! -x $tree/src/tool/fmmap ]] || binaries+=("$tree/src/tool/fmmap")
((${#binaries[@]})) || die "no test programs under $tree/tests"
report=$(llvm-cov-19 report --instr-profile=$tree/merged.profdata --show-region-summary=false \
  --show-branch-summary=false "${binaries[@]/#/--object=}" --sources modules src)
echo "$report"

reached=$(awk '$1 == "TOTAL" { sub(/%/, "", $NF); print $NF }' <<<"$report")
awk -v reached="$reached" -v floor="$floor" 'BEGIN { exit !(reached >= floor) }' ||
  die "$reached % of lines reached, under the floor of $floor %"
echo "coverage: $reached % of lines reached, the floor is $floor %"
