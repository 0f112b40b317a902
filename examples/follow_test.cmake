# SPDX-License-Identifier: MIT OR Apache-2.0
#
# cmake -D PROGRAM=follow -D SCRATCH=folder -P follow_test.cmake

file(REMOVE "${SCRATCH}/follow.data") # of a run that was killed
execute_process(COMMAND "${PROGRAM}" --demo "${SCRATCH}/follow.data" COMMAND_ERROR_IS_FATAL ANY)
