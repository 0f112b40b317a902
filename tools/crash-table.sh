#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Makes mistakes in a copy of the sources, one at a time, and shows which crash test catches each.
#
#   tools/crash-table.sh [--json FILE] [NAME...]
#
#   --json FILE   the table as a JSON array as well
#   NAME          only mistakes whose names contain it
#
# The mistakes are in tests/mutations.json: what is replaced by what in which file, and which tests have to fail. The copy is
# built with the dev preset in build/crash-table. Exits 1 when a mistake is not caught, or when the tests fail without one.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
command -v python3 >/dev/null || { echo "crash-table: needs python3: apt-get install python3" >&2; exit 2; }
exec python3 tools/crash_table.py "$@"
