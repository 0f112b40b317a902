# SPDX-License-Identifier: MIT OR Apache-2.0
#
# cmake -D PROGRAM=upgrade_heap -D SCRATCH=folder -P upgrade_heap_test.cmake

set(old "${SCRATCH}/upgrade_heap.old")
set(new "${SCRATCH}/upgrade_heap.new")
set(text "${SCRATCH}/upgrade_heap.text")
file(REMOVE "${old}" "${new}" "${text}")
execute_process(COMMAND "${PROGRAM}" make "${old}" COMMAND_ERROR_IS_FATAL ANY)
execute_process(
  COMMAND "${PROGRAM}" export "${old}"
  OUTPUT_FILE "${text}"
  ERROR_VARIABLE left COMMAND_ERROR_IS_FATAL ANY
)
if(NOT left STREQUAL "left out: debugging\n")
  message(FATAL_ERROR "of what is left out it says: ${left}")
endif()
execute_process(COMMAND "${PROGRAM}" import "${new}" INPUT_FILE "${text}" COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${PROGRAM}" show "${new}" OUTPUT_VARIABLE shown COMMAND_ERROR_IS_FATAL ANY)
foreach(line IN ITEMS "loans: " "  90: 4000000 cents" "payments: " "savings: " "  17: 125025 cents" "  18: -310 cents")
  string(FIND "${shown}" "${line}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "\"${line}\" is missing in:\n${shown}")
  endif()
endforeach()

# The old types are not the new ones, and a line that is no line of an export is named.
execute_process(COMMAND "${PROGRAM}" import "${new}" INPUT_FILE "${text}" RESULT_VARIABLE again ERROR_VARIABLE why)
if(again EQUAL 0 OR NOT why MATCHES "upgrade_heap.new")
  message(FATAL_ERROR "a heap that is there is imported into: ${why}")
endif()
file(WRITE "${text}" "account savings many\n")
file(REMOVE "${new}")
execute_process(COMMAND "${PROGRAM}" import "${new}" INPUT_FILE "${text}" RESULT_VARIABLE wrong ERROR_VARIABLE why)
if(wrong EQUAL 0 OR NOT why MATCHES "no line of an export: account savings many")
  message(FATAL_ERROR "a wrong line is taken: ${why}")
endif()
