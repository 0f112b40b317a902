# SPDX-License-Identifier: MIT OR Apache-2.0
#
# perf names a function that only an arena knows: PERF, PROGRAM, SCRATCH.

set(data "${SCRATCH}/perf_test.data")
execute_process(
  COMMAND "${PERF}" record -q -e cpu-clock -o "${data}" -- "${PROGRAM}" count
  RESULT_VARIABLE result
  OUTPUT_VARIABLE process
  ERROR_VARIABLE why
  OUTPUT_STRIP_TRAILING_WHITESPACE
)
if(NOT result EQUAL 0)
  message("SKIP: perf record does not work here: ${why}")
  return()
endif()
execute_process(
  COMMAND "${PERF}" report -i "${data}" --stdio
  OUTPUT_VARIABLE report
  ERROR_QUIET COMMAND_ERROR_IS_FATAL ANY
)
file(REMOVE "${data}" "/tmp/perf-${process}.map")
if(NOT report MATCHES "made_while_it_runs")
  message(FATAL_ERROR "perf does not name the function:\n${report}")
endif()
