# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Target `tidy`: clang-tidy over the library's own units, by the rules of .clang-tidy. It depends on the library, because
# clang-tidy reads the module interfaces that the build has made; and on a plugin that keeps its checks from all that these
# and the standard headers declare, a tenth of the time (docs/decisions.md, 58).

find_program(FMMAP_RUN_CLANG_TIDY NAMES run-clang-tidy-19 run-clang-tidy-20 run-clang-tidy-21)
string(REGEX MATCH "[0-9]+$" fmmap_tidy_version "${FMMAP_RUN_CLANG_TIDY}")
find_path(FMMAP_TIDY_INCLUDES clang/Frontend/FrontendPluginRegistry.h PATHS "/usr/lib/llvm-${fmmap_tidy_version}/include" NO_DEFAULT_PATH)
mark_as_advanced(FMMAP_RUN_CLANG_TIDY FMMAP_TIDY_INCLUDES)

if(FMMAP_RUN_CLANG_TIDY AND FMMAP_TIDY_INCLUDES)
  add_library(fmmap_tidy_own_code MODULE EXCLUDE_FROM_ALL "${PROJECT_SOURCE_DIR}/tools/tidy/own_code.cpp")
  target_include_directories(fmmap_tidy_own_code SYSTEM PRIVATE "${FMMAP_TIDY_INCLUDES}")
  target_compile_options(fmmap_tidy_own_code PRIVATE -fno-rtti) # as clang is compiled
  set_target_properties(fmmap_tidy_own_code PROPERTIES CXX_SCAN_FOR_MODULES OFF)

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
    COMMAND
      "${FMMAP_RUN_CLANG_TIDY}" -quiet -load "$<TARGET_FILE:fmmap_tidy_own_code>" -p "${PROJECT_BINARY_DIR}/tidy"
    DEPENDS ${libraries} fmmap_tidy_own_code
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "clang-tidy over modules/ and src/"
    VERBATIM USES_TERMINAL
  )
else()
  add_custom_target(
    tidy
    COMMAND "${CMAKE_COMMAND}" -E echo "tidy needs packages that are not here: tools/setup.sh --all"
    COMMAND "${CMAKE_COMMAND}" -E false
    VERBATIM
  )
endif()
