# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Target `tidy`: clang-tidy over the library's own units, by the rules of .clang-tidy. It depends on the library, because
# clang-tidy reads the module interfaces that the build has made.

find_program(FMMAP_RUN_CLANG_TIDY NAMES run-clang-tidy-19 run-clang-tidy-20 run-clang-tidy-21 run-clang-tidy)
mark_as_advanced(FMMAP_RUN_CLANG_TIDY)

if(FMMAP_RUN_CLANG_TIDY)
  get_property(modules GLOBAL PROPERTY FMMAP_MODULES)
  list(TRANSFORM modules PREPEND fmmap_ OUTPUT_VARIABLE libraries)
  if(NOT FMMAP_BUILD_DIRECT)
    list(TRANSFORM libraries APPEND _seamed)
  endif()
  if(TARGET fmmap_tool)
    list(APPEND libraries fmmap_tool)
  endif()
  add_custom_target(
    tidy
    COMMAND
      "${CMAKE_COMMAND}" -DFROM=${PROJECT_BINARY_DIR} -DTO=${PROJECT_BINARY_DIR}/tidy
      -P "${CMAKE_CURRENT_LIST_DIR}/TidyCommands.cmake"
    COMMAND "${FMMAP_RUN_CLANG_TIDY}" -quiet -p "${PROJECT_BINARY_DIR}/tidy"
    DEPENDS ${libraries}
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "clang-tidy over modules/ and src/"
    VERBATIM USES_TERMINAL
  )
else()
  add_custom_target(
    tidy
    COMMAND "${CMAKE_COMMAND}" -E echo "run-clang-tidy was not found: apt-get install clang-tidy-19"
    COMMAND "${CMAKE_COMMAND}" -E false
    VERBATIM
  )
endif()
