# SPDX-License-Identifier: MIT OR Apache-2.0
#
# cmake -DFROM=<folder> -DTO=<folder> -P TidyCommands.cmake
#
# Copies what compile_commands.json says of modules/ and src/, once a source: tests have the library built from the same ones.
cmake_minimum_required(VERSION 3.28...4.0) # a script has no project's policies
file(READ "${FROM}/compile_commands.json" commands)
string(JSON count LENGTH "${commands}")
math(EXPR last "${count} - 1")
set(kept "")
set(seen "")
foreach(i RANGE ${last})
  string(JSON file GET "${commands}" ${i} file)
  if(file MATCHES "/(modules|src)/" AND NOT file IN_LIST seen)
    list(APPEND seen "${file}")
    string(JSON command GET "${commands}" ${i})
    list(APPEND kept "${command}")
  endif()
endforeach()
list(JOIN kept ",\n" kept)
file(WRITE "${TO}/compile_commands.json" "[\n${kept}\n]\n")
