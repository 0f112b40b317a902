# SPDX-License-Identifier: MIT OR Apache-2.0
#
# cmake -D PROGRAM=elf_symbols -D FILE=library -D SCRATCH=folder [-D READELF=readelf] -P elf_symbols_test.cmake
#
# Holds what elf_symbols says of a file against readelf, and wants a sentence for each way of cutting the file short.

set(ENV{LC_ALL} C)
execute_process(COMMAND "${PROGRAM}" "${FILE}" OUTPUT_VARIABLE said COMMAND_ERROR_IS_FATAL ANY)
message("${said}")
if(NOT said MATCHES "([0-9]+) sections" OR NOT said MATCHES "([0-9]+) symbols, ([0-9]+) of functions")
  message(FATAL_ERROR "elf_symbols does not say what it should")
endif()
string(REGEX REPLACE ".*\n([0-9]+) sections.*\n([0-9]+) symbols, ([0-9]+) of.*" "\\1;\\2;\\3" counted "${said}")

if(READELF)
  execute_process(COMMAND "${READELF}" --wide --file-header "${FILE}" OUTPUT_VARIABLE header COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND "${READELF}" --wide --symbols "${FILE}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "Number of section headers: +([0-9]+)" _ "${header}")
  set(expected ${CMAKE_MATCH_1})
  # Of two tables, .dynsym comes first and .symtab last; elf_symbols prefers the latter.
  string(FIND "${symbols}" "Symbol table '" table REVERSE)
  string(SUBSTRING "${symbols}" ${table} -1 symbols)
  string(REGEX MATCH "contains ([0-9]+) entr" _ "${symbols}")
  list(APPEND expected ${CMAKE_MATCH_1})
  string(REGEX MATCHALL " FUNC " functions "${symbols}")
  list(LENGTH functions functions)
  list(APPEND expected ${functions})
  if(NOT counted STREQUAL expected)
    message(FATAL_ERROR "sections, symbols and functions are ${counted}; readelf counts ${expected}")
  endif()
endif()

foreach(length IN ITEMS 0 3 40 64 5000 100000)
  set(cut "${SCRATCH}/elf_symbols.cut")
  execute_process(COMMAND head -c ${length} "${FILE}" OUTPUT_FILE "${cut}" COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND "${PROGRAM}" "${cut}" OUTPUT_QUIET ERROR_VARIABLE why RESULT_VARIABLE status)
  if(NOT status EQUAL 1 OR NOT why MATCHES "elf_symbols.cut")
    message(FATAL_ERROR "of a file cut to ${length} bytes: ${status} ${why}")
  endif()
endforeach()
file(REMOVE "${cut}")
message("cut short: ${why}")
