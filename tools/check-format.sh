#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Checks that clang-format 19 would change nothing in the tracked C++ sources.
#
#   tools/check-format.sh [--fix]
#
#   --fix   changes the files instead
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

case ${1:-} in
  '') action=(--dry-run -Werror) ;;
  --fix) action=(-i) ;;
  *) echo "check-format: unknown option $1; the option is --fix" >&2; exit 1 ;;
esac

command -v clang-format-19 >/dev/null || {
  echo "check-format: needs clang-format-19: apt-get install clang-format-19" >&2
  exit 1
}

mapfile -d '' -t sources < <(git ls-files -z '*.cpp' '*.cppm' '*.hpp')
((${#sources[@]})) || { echo "check-format: no tracked sources" >&2; exit 1; }
clang-format-19 "${action[@]}" "${sources[@]}"
echo "check-format: ${#sources[@]} files are formatted"
