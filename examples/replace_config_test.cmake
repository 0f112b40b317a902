# SPDX-License-Identifier: MIT OR Apache-2.0
#
# cmake -D PROGRAM=replace_config -D SCRATCH=folder -P replace_config_test.cmake
#
# Sets values as a user would, and wants everything else untouched; then lets a reader and a writer compete.

set(config "${SCRATCH}/replace_config.data")

function(expect expected)
  execute_process(COMMAND "${PROGRAM}" "${config}" ${ARGN} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
  file(READ "${config}" found HEX) # as text it would come without carriage returns
  string(HEX "${expected}" expected)
  if(NOT found STREQUAL expected)
    message(FATAL_ERROR "after ${ARGN} the file is\n${found} instead of\n${expected}")
  endif()
endfunction()

file(REMOVE "${config}" "${config}.demo")
expect("colour = red\n" colour red)
file(WRITE "${config}" "# a comment\ncolour = red\r\nsize = 1")
expect("# a comment\ncolour = blue\r\nsize = 1" colour blue)
expect("# a comment\ncolour = blue\r\nsize = 20" size 20)
expect("# a comment\ncolour = blue\r\nsize = 20\nshape = round\n" shape round)
file(REMOVE "${config}")

execute_process(COMMAND "${PROGRAM}" --demo "${config}.demo" COMMAND_ERROR_IS_FATAL ANY)
