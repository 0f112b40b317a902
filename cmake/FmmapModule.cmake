# SPDX-License-Identifier: MIT OR Apache-2.0
#
# fmmap_add_module           one public module: its target, alias, file sets, and its twin for tests
# fmmap_add_internal_module  one internal module, imported by implementation units only
# fmmap_find                 a dependency of an optional part, or the line that installs it
# fmmap_report               what is built, what is left out and why
#
# The project sets no compiler flag: warnings and sanitizers live in CMakePresets.json.
#
# Every module is built up to twice: `fmmap_<name>`, which is installed, calls the system directly (FMMAP_BUILD_DIRECT);
# `fmmap_<name>_seamed`, from the same sources, calls it through the run-time table of src/os/invoke_table.cppm, for tests
# (FMMAP_BUILD_SEAMED). Where the latter alone is built, both names are its names.

set_property(GLOBAL PROPERTY FMMAP_MODULES "")
set_property(GLOBAL PROPERTY FMMAP_PACKAGES "")
set_property(GLOBAL PROPERTY FMMAP_BUILT "")
set_property(GLOBAL PROPERTY FMMAP_LEFT_OUT "")

# fmmap_add_module(<name> INTERFACE <.cppm in modules/<name>/>... [INTERNAL <.cppm in src/<name>/>...]
#                  [SOURCES <.cpp in src/<name>/>...] [DEPENDS <module>...] [DEPENDS_ON_INTERNAL <module>...]
#                  [FOLDER <folder>] [LIBRARIES <target>...] [INTERFACE_LIBRARIES <target>...]
#                  [PACKAGE <package> [version] [CONFIG] CURE <apt line>])
#
# An adapter lies in the FOLDER of the module it extends, and links LIBRARIES, or INTERFACE_LIBRARIES where its interface
# includes their headers, of a PACKAGE that those who use it from an installed fmmap need as well.
function(fmmap_add_module name)
  cmake_parse_arguments(
    PARSE_ARGV 1 arg "" "FOLDER;CURE"
    "INTERFACE;INTERNAL;SOURCES;DEPENDS;DEPENDS_ON_INTERNAL;LIBRARIES;INTERFACE_LIBRARIES;PACKAGE"
  )
  if(NOT arg_FOLDER)
    set(arg_FOLDER ${name})
  endif()
  list(TRANSFORM arg_INTERFACE PREPEND "${PROJECT_SOURCE_DIR}/modules/${arg_FOLDER}/" OUTPUT_VARIABLE interface)
  list(TRANSFORM arg_INTERNAL PREPEND "${PROJECT_SOURCE_DIR}/src/${arg_FOLDER}/" OUTPUT_VARIABLE internal)
  list(TRANSFORM arg_SOURCES PREPEND "${PROJECT_SOURCE_DIR}/src/${arg_FOLDER}/" OUTPUT_VARIABLE sources)
  foreach(file IN LISTS interface)
    cmake_path(NORMAL_PATH file)
    list(APPEND units "${file}")
  endforeach()

  foreach(twin IN LISTS FMMAP_TWINS)
    string(REPLACE "direct" "" suffix "${twin}")
    set(target "fmmap_${name}${suffix}")
    add_library(${target} STATIC)
    target_sources(
      ${target}
      PUBLIC FILE_SET CXX_MODULES BASE_DIRS "${PROJECT_SOURCE_DIR}/modules" FILES ${units}
      PRIVATE ${sources}
    )
    if(internal)
      target_sources(
        ${target} PRIVATE FILE_SET internal TYPE CXX_MODULES BASE_DIRS "${PROJECT_SOURCE_DIR}/src" FILES ${internal}
      )
    endif()
    fmmap_set_language(${target})
    foreach(dependency IN LISTS arg_DEPENDS)
      target_link_libraries(${target} PUBLIC fmmap_${dependency}${suffix})
    endforeach()
    foreach(dependency IN LISTS arg_DEPENDS_ON_INTERNAL)
      target_link_libraries(${target} PRIVATE fmmap_${dependency}${suffix})
    endforeach()
    target_link_libraries(${target} PRIVATE ${arg_LIBRARIES} PUBLIC ${arg_INTERFACE_LIBRARIES})
  endforeach()

  if(arg_PACKAGE)
    list(JOIN arg_PACKAGE " " arg_PACKAGE)
    set_property(GLOBAL APPEND PROPERTY FMMAP_PACKAGES "_fmmap_needs(${name} \"${arg_CURE}\" ${arg_PACKAGE})")
  endif()
  fmmap_name_module(${name})
  get_property(target TARGET fmmap_${name} PROPERTY NAME) # what fmmap_<name> is an alias of, if it is one
  add_library(fmmap::${name} ALIAS ${target})
  set_property(GLOBAL APPEND PROPERTY FMMAP_BUILT "fmmap::${name}")
endfunction()

# fmmap_add_internal_module(<name> INTERFACE <.cppm in src/<name>/>... [DIRECT <.cppm>...] [SEAMED <.cppm>...]
#                           SOURCES <.cpp in src/<name>/>... [DEPENDS <module>...])
#
# DIRECT units go into the installed build only, SEAMED ones into its twin for tests.
function(fmmap_add_internal_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "INTERFACE;DIRECT;SEAMED;SOURCES;DEPENDS")
  set(folder "${PROJECT_SOURCE_DIR}/src")
  foreach(twin IN LISTS FMMAP_TWINS)
    string(REPLACE "direct" "" suffix "${twin}")
    set(target "fmmap_${name}${suffix}")
    if(twin STREQUAL "_seamed")
      set(units ${arg_INTERFACE} ${arg_SEAMED})
    else()
      set(units ${arg_INTERFACE} ${arg_DIRECT})
    endif()
    list(TRANSFORM units PREPEND "${folder}/${name}/")
    list(TRANSFORM arg_SOURCES PREPEND "${folder}/${name}/" OUTPUT_VARIABLE sources)
    add_library(${target} STATIC)
    target_sources(
      ${target}
      PUBLIC FILE_SET CXX_MODULES BASE_DIRS "${folder}" FILES ${units}
      PRIVATE ${sources}
    )
    fmmap_set_language(${target})
    foreach(dependency IN LISTS arg_DEPENDS)
      target_link_libraries(${target} PUBLIC fmmap_${dependency}${suffix})
    endforeach()
  endforeach()
  fmmap_name_module(${name})
endfunction()

function(fmmap_name_module name)
  if(FMMAP_BUILD_DIRECT)
    set_target_properties(fmmap_${name} PROPERTIES EXPORT_NAME ${name})
  else()
    add_library(fmmap_${name} ALIAS fmmap_${name}_seamed)
  endif()
  set_property(GLOBAL APPEND PROPERTY FMMAP_MODULES ${name})
endfunction()

function(fmmap_set_language target)
  # CXX_EXTENSIONS stays unset: it would be exported, and a consumer with the other setting could not import the module.
  target_compile_features(${target} PUBLIC cxx_std_23)
  set_target_properties(${target} PROPERTIES CXX_SCAN_FOR_MODULES ON POSITION_INDEPENDENT_CODE ON)
  if(NOT FMMAP_INSTALL)
    set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL ON) # built where something links it
  endif()
endfunction()

# fmmap_find(<part> <package> [version] [COMPONENTS ...] [OPTIONAL] CURE <apt line>)
#
# Sets FMMAP_HAS_<part>. A missing package leaves the part out with the line that cures it, or stops with FMMAP_REQUIRE_ALL
# unless the part is OPTIONAL.
macro(fmmap_find part package)
  cmake_parse_arguments(find "OPTIONAL" "CURE" "COMPONENTS" ${ARGN})
  find_package(${package} ${find_UNPARSED_ARGUMENTS} COMPONENTS ${find_COMPONENTS} QUIET)
  set(FMMAP_HAS_${part} ${${package}_FOUND})
  foreach(component IN LISTS find_COMPONENTS) # Boost's own file says that Boost is found when one of them is not
    if(NOT ${package}_${component}_FOUND)
      set(FMMAP_HAS_${part} FALSE)
    endif()
  endforeach()
  if(FMMAP_HAS_${part})
    set_property(GLOBAL APPEND PROPERTY FMMAP_BUILT "${part} (${package} ${${package}_VERSION})")
  else()
    if(FMMAP_REQUIRE_ALL AND NOT find_OPTIONAL)
      message(FATAL_ERROR "fmmap's ${part} need ${package}, which was not found: ${find_CURE}")
    endif()
    set_property(GLOBAL APPEND PROPERTY FMMAP_LEFT_OUT "${part}: ${package} was not found, ${find_CURE}")
  endif()
endmacro()

function(fmmap_report)
  get_property(built GLOBAL PROPERTY FMMAP_BUILT)
  get_property(left_out GLOBAL PROPERTY FMMAP_LEFT_OUT)
  list(JOIN built ", " built)
  message(STATUS "fmmap ${PROJECT_VERSION} builds: ${built}")
  foreach(line IN LISTS left_out)
    message(STATUS "fmmap leaves out ${line}")
  endforeach()
endfunction()

set(FMMAP_TWINS "")
if(FMMAP_BUILD_DIRECT)
  list(APPEND FMMAP_TWINS direct)
endif()
if(FMMAP_BUILD_SEAMED)
  list(APPEND FMMAP_TWINS "_seamed")
endif()
if(NOT FMMAP_TWINS OR (FMMAP_INSTALL AND NOT FMMAP_BUILD_DIRECT))
  message(FATAL_ERROR "what is installed is built with FMMAP_BUILD_DIRECT, which is off")
endif()
