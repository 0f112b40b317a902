# SPDX-License-Identifier: MIT OR Apache-2.0
#
# cmake -D PROGRAM=write_tone -D SCRATCH=folder -P write_tone_test.cmake

set(tone "${SCRATCH}/write_tone.wav")
file(REMOVE "${tone}")
execute_process(COMMAND "${PROGRAM}" COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${PROGRAM}" "${tone}" COMMAND_ERROR_IS_FATAL ANY)

# Written by hand from the format's description: RIFF, WAVE, fmt, 1 channel, 44100 Hz, 16 bits, data.
set(expected 52494646ac58010057415645666d7420100000000100010044ac000088580100020010006461746188580100)
file(READ "${tone}" header LIMIT 44 HEX)
file(SIZE "${tone}" size)
if(NOT header STREQUAL expected OR NOT size EQUAL 88244)
  message(FATAL_ERROR "the header is ${header} instead of ${expected}, the size ${size}")
endif()

execute_process(COMMAND "${PROGRAM}" "${tone}" ERROR_VARIABLE why RESULT_VARIABLE status)
if(NOT status EQUAL 1 OR NOT why MATCHES "File exists" OR NOT EXISTS "${tone}")
  message(FATAL_ERROR "over an existing file: ${status} ${why}")
endif()
file(REMOVE "${tone}")
