# SPDX-License-Identifier: MIT OR Apache-2.0
#
# libfuse comes without a package file for CMake, and its headers lie in a folder of their own. Gives the target FUSE3::FUSE3.
find_path(FUSE3_INCLUDE_DIR fuse_common.h PATH_SUFFIXES fuse3)
find_library(FUSE3_LIBRARY fuse3)
if(FUSE3_INCLUDE_DIR)
  file(STRINGS "${FUSE3_INCLUDE_DIR}/fuse_common.h" version REGEX "^#define FUSE_M(AJOR|INOR)_VERSION[ \t]+[0-9]+")
  list(TRANSFORM version REPLACE "^.*[ \t]" "")
  list(JOIN version "." FUSE3_VERSION)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(FUSE3 REQUIRED_VARS FUSE3_LIBRARY FUSE3_INCLUDE_DIR VERSION_VAR FUSE3_VERSION)
if(FUSE3_FOUND AND NOT TARGET FUSE3::FUSE3)
  add_library(FUSE3::FUSE3 UNKNOWN IMPORTED)
  set_target_properties(
    FUSE3::FUSE3 PROPERTIES IMPORTED_LOCATION "${FUSE3_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${FUSE3_INCLUDE_DIR}"
  )
endif()
mark_as_advanced(FUSE3_INCLUDE_DIR FUSE3_LIBRARY)
