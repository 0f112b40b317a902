# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Debian's libuv comes without a package file for CMake. Gives the target Libuv::Libuv.
find_path(Libuv_INCLUDE_DIR uv.h)
find_library(Libuv_LIBRARY uv)
if(Libuv_INCLUDE_DIR)
  file(STRINGS "${Libuv_INCLUDE_DIR}/uv/version.h" version REGEX "^#define UV_VERSION_(MAJOR|MINOR|PATCH)[ \t]+[0-9]+")
  list(TRANSFORM version REPLACE "^.*[ \t]" "")
  list(JOIN version "." Libuv_VERSION)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Libuv REQUIRED_VARS Libuv_LIBRARY Libuv_INCLUDE_DIR VERSION_VAR Libuv_VERSION)
if(Libuv_FOUND AND NOT TARGET Libuv::Libuv)
  add_library(Libuv::Libuv UNKNOWN IMPORTED)
  set_target_properties(
    Libuv::Libuv PROPERTIES IMPORTED_LOCATION "${Libuv_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${Libuv_INCLUDE_DIR}"
  )
endif()
mark_as_advanced(Libuv_INCLUDE_DIR Libuv_LIBRARY)
