#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds and runs the benchmarks and holds them against benchmarks/bars.json: docs/benchmarks.md tells what they measure.
#
#   tools/bench.sh [MODULE...] [--json FILE] [--dir DIR] [--smoke]
#
#   MODULE      only rows of these modules
#   --json FILE the rows as a JSON array as well
#   --dir DIR   where data files go, emptied of them afterwards; a folder in the build tree unless told
#   --smoke     tiny sizes, one repetition, no bar: shows only that everything runs
#
# Exits 1 when a row is SHORT of its bar. Two runs never overlap: the later one waits.
set -euo pipefail

die() { printf 'bench: %s\n' "$*" >&2; exit 2; }

json=
data=
smoke=()
modules=()
while (($#)); do
  case $1 in
    --json) json=$(realpath -m -- "${2:?--json wants a file}"); shift ;;
    --dir) data=$(realpath -m -- "${2:?--dir wants a folder}"); shift ;;
    --smoke) smoke=(--smoke) ;;
    -*) die "unknown option $1; the options are --json FILE, --dir DIR and --smoke" ;;
    *) modules+=("$1") ;;
  esac
  shift
done
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

command -v python3 >/dev/null || die "needs python3: apt-get install python3"
known=$(python3 -c '
import json
for bar in json.load(open("benchmarks/bars.json")):
    print(bar["module"], bar["id"].split(".")[0], sep="\n")')
for module in "${modules[@]}"; do
  grep -qxF -- "$module" <<<"$known" || die "benchmarks/bars.json has no rows of $module"
done

# Whoever ran first owns the lock's file; to wait for it, others need only read it.
readonly lock=/tmp/fmmap-bench.lock
[[ -e $lock ]] || (umask 000 && : >>$lock)
exec 9<$lock
flock --nonblock 9 || { echo "bench: waiting for another run" && flock 9; }

readonly tree=build/release
results=$(mktemp -d)
trap 'rm -rf -- "$results"' EXIT
{ cmake --preset benchmark && cmake --build --preset benchmark; } >"$results/log" 2>&1 ||
  { cat "$results/log" >&2; die "the build failed"; }
data=$(mktemp -d -- "${data:-$PWD/$tree}/bench-XXXXXX")
trap 'rm -rf -- "$results" "$data"' EXIT

# --- Where it runs ----------------------------------------------------------------------------------------------------

setting() { printf '  %-24s %s\n' "$1" "$(cat "$2" 2>/dev/null || echo unknown)"; }

printf '%s\n' "bench: fmmap $(git describe --always --dirty 2>/dev/null || echo 'of unknown version') on $(date -u +%F)"
printf '  %-24s %s\n' kernel "$(uname -sr)"
printf '  %-24s %s\n' processors "$(nproc), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
printf '  %-24s %s\n' memory "$(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
printf '  %-24s %s\n' "file system of the data" "$(df --output=fstype -- "$data" | tail -n 1)"
printf '  %-24s %s\n' "load at the start" "$(cut -d ' ' -f 1-3 /proc/loadavg)"
for name in vm.overcommit_memory vm.max_map_count vm.dirty_ratio vm.dirty_background_ratio; do
  setting $name /proc/sys/${name//.//}
done
setting "transparent huge pages" /sys/kernel/mm/transparent_hugepage/enabled

# --- The rows ---------------------------------------------------------------------------------------------------------

# Whether any of the names is of a module that was asked for.
wanted() {
  local name
  ((${#modules[@]})) || return 0
  for name; do [[ " ${modules[*]} " != *" $name "* ]] || return 0; done
  return 1
}

# Every row in a process of its own, in which the variants take turns in random order. Rows of microseconds, which are the
# ones with a least time, in five: where a process has its stack and its code moves them by a few per cent.
for program in $tree/benchmarks/*; do
  [[ -f $program && -x $program ]] || continue
  listed=$("$program" --benchmark_list_tests)
  for row in $(cut -d / -f 1 <<<"$listed" | uniq); do
    wanted "$(basename "$program")" "${row%%.*}" || continue
    echo "bench: $row" >&2
    processes=1
    ((${#smoke[@]})) || ! grep -q "^${row//./\\.}/.*/min_time:" <<<"$listed" || processes=5
    for ((process = 1; process <= processes; process++)); do
      "$program" --dir "$data" "${smoke[@]}" --benchmark_filter="^${row//./\\.}/" \
        --benchmark_enable_random_interleaving=true \
        --benchmark_out="$results/$row.$process.json" --benchmark_out_format=json >"$results/log" 2>&1 ||
        { cat "$results/log" >&2; die "$row did not run"; }
    done
  done
done

python3 tools/bench_report.py benchmarks/bars.json "$results" "${smoke[@]}" ${json:+--json "$json"} "${modules[@]}"
