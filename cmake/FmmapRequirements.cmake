# SPDX-License-Identifier: MIT OR Apache-2.0
#
# What a machine must have for fmmap to be configured, as a project and as an installed package. Each check returns one
# sentence that says what is missing and what cures it, before CMake's own message, which names neither.

# Named modules need a generator that scans sources for `import`: Ninja on Linux.
function(fmmap_check_generator problem)
  set(sentence "")
  if(NOT CMAKE_GENERATOR MATCHES "Ninja")
    string(
      CONCAT sentence
        "fmmap is made of C++20 modules, which CMake builds with Ninja and not with \"${CMAKE_GENERATOR}\": "
        "configure again in an empty folder with -G Ninja (Debian: apt-get install ninja-build)."
    )
  endif()
  set(${problem} "${sentence}" PARENT_SCOPE)
endfunction()

function(fmmap_check_compiler problem)
  set(cure "use -DCMAKE_CXX_COMPILER=clang++-19 (Debian: apt-get install clang-19 clang-tools-19, or fmmap's tools/setup.sh).")
  set(found "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
  set(sentence "")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    set(oldest 19)
  elseif(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(oldest 15)
  else()
    set(oldest "")
  endif()
  if(NOT oldest)
    set(sentence "fmmap is built by clang 19 or newer or g++ 15 or newer, and this compiler is ${found}: ${cure}")
  elseif(CMAKE_CXX_COMPILER_VERSION VERSION_LESS oldest)
    set(sentence "fmmap needs ${CMAKE_CXX_COMPILER_ID} ${oldest} or newer for its modules, and this compiler is ${found}: ${cure}")
  elseif(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND NOT CMAKE_CXX_COMPILER_CLANG_SCAN_DEPS)
    string(REGEX MATCH "^[0-9]+" major "${CMAKE_CXX_COMPILER_VERSION}")
    string(
      CONCAT sentence
        "clang-scan-deps, which finds the imports of a source file, was not found beside ${CMAKE_CXX_COMPILER}: "
        "install it (Debian: apt-get install clang-tools-${major}) and configure again in an empty folder."
    )
  endif()
  set(${problem} "${sentence}" PARENT_SCOPE)
endfunction()

# Stops the configuration where fmmap_check_<part> has something to say.
function(fmmap_require part)
  cmake_language(CALL fmmap_check_${part} problem)
  if(problem)
    message(FATAL_ERROR "${problem}")
  endif()
endfunction()
