# SPDX-License-Identifier: MIT OR Apache-2.0
#
# cmake -DFROM=<folder> -DTO=<folder> -P TidyCommands.cmake
#
# Copies compile_commands.json without the library's twins for tests, which are the same sources a second time.
file(READ "${FROM}/compile_commands.json" commands)
string(JSON count LENGTH "${commands}")
math(EXPR last "${count} - 1")
set(kept "")
foreach(i RANGE ${last})
  string(JSON output GET "${commands}" ${i} output)
  string(JSON file GET "${commands}" ${i} file)
  if(file MATCHES "/(modules|src)/" AND NOT output MATCHES "_seamed\\.dir/")
    string(JSON command GET "${commands}" ${i})
    list(APPEND kept "${command}")
  endif()
endforeach()
list(JOIN kept ",\n" kept)
file(WRITE "${TO}/compile_commands.json" "[\n${kept}\n]\n")
