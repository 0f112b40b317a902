# SPDX-License-Identifier: MIT OR Apache-2.0
#
# What `cmake --install` puts where. Every module of FMMAP_MODULES is installed as an archive and the sources of its
# interface, never as a compiled interface: those are good for one compiler and one set of flags, so consumers compile
# their own. The sources are text that no machine differs in, hence share/.
#
# An internal module is installed too, because the archives call it; consumers scan its sources but never compile them,
# and cannot import it.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(FMMAP_PACKAGE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/fmmap")
get_property(FMMAP_PACKAGE_MODULES GLOBAL PROPERTY FMMAP_MODULES)
get_property(FMMAP_PACKAGE_NEEDS GLOBAL PROPERTY FMMAP_PACKAGES)
list(JOIN FMMAP_PACKAGE_NEEDS "\n" FMMAP_PACKAGE_NEEDS)
list(TRANSFORM FMMAP_PACKAGE_MODULES PREPEND "fmmap_" OUTPUT_VARIABLE targets)

install(
  TARGETS ${targets}
  EXPORT fmmapTargets
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  FILE_SET CXX_MODULES DESTINATION "${CMAKE_INSTALL_DATADIR}/fmmap/modules"
)
if(TARGET fmmap_tool)
  install(TARGETS fmmap_tool RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(
  EXPORT fmmapTargets
  NAMESPACE fmmap::
  DESTINATION "${FMMAP_PACKAGE_DIR}"
  CXX_MODULES_DIRECTORY modules
)

configure_file("${CMAKE_CURRENT_LIST_DIR}/fmmapConfig.cmake.in" "${PROJECT_BINARY_DIR}/fmmapConfig.cmake" @ONLY)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/fmmapConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(
  FILES
    "${PROJECT_BINARY_DIR}/fmmapConfig.cmake"
    "${PROJECT_BINARY_DIR}/fmmapConfigVersion.cmake"
    "${CMAKE_CURRENT_LIST_DIR}/FmmapRequirements.cmake"
    "${CMAKE_CURRENT_LIST_DIR}/FindLiburing.cmake"
    "${CMAKE_CURRENT_LIST_DIR}/FindLibuv.cmake"
  DESTINATION "${FMMAP_PACKAGE_DIR}"
)
install(
  FILES "${PROJECT_SOURCE_DIR}/LICENSE-MIT" "${PROJECT_SOURCE_DIR}/LICENSE-APACHE"
  DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/fmmap"
)
