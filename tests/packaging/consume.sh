#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The packaging tests, one function a case: consume.sh CASE
#
# The environment, set by CMakeLists.txt, says where things are: source, build, work (a folder for consumers), the tools
# cmake, ninja, cxx and nm, and the list public_modules. The first command that fails ends the case.
set -euo pipefail
shopt -s inherit_errexit
exec </dev/null
: "${source:?}" "${build:?}" "${work:?}" "${cmake:?}" "${ninja:?}" "${cxx:?}" "${nm:?}" "${public_modules:?}"
# What a user has set for builds of their own is not part of these.
unset CXXFLAGS LDFLAGS CMAKE_BUILD_TYPE CMAKE_GENERATOR CMAKE_PREFIX_PATH

readonly consumer=${BASH_SOURCE[0]%/*}/consumer
readonly prefix="$work/a moved prefix"
readonly strict="-Wall -Wextra -Wpedantic -Werror"

die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
skip() { printf 'SKIP: %s\n' "$*"; exit 77; }

# configure TREE [OPTION...]: configures the consumer, which must print nothing to stderr, in the build tree TREE.
configure() {
  local -r tree=$work/$1
  echo "configure $*"
  "$cmake" -S "$consumer" -B "$tree" -G Ninja "-DCMAKE_MAKE_PROGRAM=$ninja" "-DCMAKE_CXX_COMPILER=$cxx" \
    "-DCMAKE_PREFIX_PATH=$prefix" "${@:2}" 2>&1 >"$work/$1.log" | tee "$work/$1.errors" ||
    die "cmake printed: $(<"$work/$1.log")"
  [[ ! -s $work/$1.errors ]] || die "cmake printed a warning: $(<"$work/$1.errors")"
}

build() {
  "$ninja" -C "$work/$1" "${@:2}" >"$work/$1.log" 2>&1 || die "ninja ${*:2} said: $(cat "$work/$1.log")"
}

# The consumer prints the size of a file it maps.
run() {
  local printed
  printed=$("$work/$1/consumer" "$consumer/main.cpp")
  [[ $printed == "$(stat -c %s "$consumer/main.cpp")" ]] || die "the consumer printed '$printed'"
}

fresh() { rm -rf -- "${work:?}/$1"; }

# in_every_dialect TREE [OPTION...]: configures the consumer for one pair of standard and extensions after the other, and
# calls `consume TREE DIALECT` for each. It is one tree, in which ninja builds again whatever has another command line
# then, and only that; so pairs that come to the same dialect follow each other, and all but the first cost no time.
in_every_dialect() {
  local -r tree=$1
  local pair standard extensions dialect compiled
  fresh "$tree"
  for pair in {unset,20,23}/{unset,ON} 26/{unset,ON} 26/OFF {unset,20,23}/OFF; do
    standard=${pair%/*}
    extensions=${pair#*/}
    local -a settings=(-UCMAKE_CXX_STANDARD -UCMAKE_CXX_EXTENSIONS "-DCMAKE_CXX_FLAGS=$strict")
    [[ $standard == unset ]] || settings+=("-DCMAKE_CXX_STANDARD=$standard")
    [[ $extensions == unset ]] || settings+=("-DCMAKE_CXX_EXTENSIONS=$extensions")
    configure "$tree" "${settings[@]}" "${@:2}"

    # Everything is compiled in one dialect: the consumer's, raised to C++23 when it is older.
    dialect=gnu++23
    [[ $standard != 26 ]] || dialect=gnu++26
    [[ $extensions != OFF ]] || dialect=c++${dialect#gnu++}
    compiled=$("$ninja" -C "$work/$tree" -t commands consumer | grep -o -- '-std=[a-z0-9+]*' | sort -u)
    [[ $compiled == "-std=$dialect" ]] || die "wanted $dialect alone, and the compiler is told: $compiled"
    consume "$tree" "$dialect"
  done
}

# with_flags TREE FLAGS [OPTION...]: builds and runs a consumer of the package with these CMAKE_CXX_FLAGS.
with_flags() {
  fresh "$1"
  configure "$1" "-DCMAKE_CXX_FLAGS=$2" "${@:3}"
  build "$1"
  run "$1"
}

# refused SENTENCE CONFIGURATION...: both fmmap itself and a consumer of the package stop with the sentence, which CMake
# may have broken into lines.
refused() {
  local said project tree=${FUNCNAME[1]}
  for project in "$source" "$consumer"; do
    fresh "$tree"
    if said=$("$cmake" -S "$project" -B "$work/$tree" "-DCMAKE_PREFIX_PATH=$prefix" "${@:2}" 2>&1); then
      die "$project was configured"
    fi
    [[ $(tr -s ' \n' ' ' <<<"$said") == *"$1"* ]] || die "expected '$1' but $project said: $said"
  done
}

# --- The package ------------------------------------------------------------------------------------------------------

the_prefix_is_moved_after_installation() {
  rm -rf -- "${work:?}/the first prefix" "$prefix"
  "$cmake" --install "$build" --prefix "$work/the first prefix"
  mv -- "$work/the first prefix" "$prefix"
}

only_what_a_consumer_needs_is_installed() {
  local module file found
  for module in $public_modules; do
    [[ $(find "$prefix" -name "libfmmap_$module.a") ]] || die "no archive of $module"
  done
  for file in share/licenses/fmmap/LICENSE-{MIT,APACHE} share/fmmap/modules/fmmap.cppm; do
    [[ -s $prefix/$file ]] || die "no $file"
  done
  [[ $(find "$prefix" -name fmmapConfigVersion.cmake) ]] || die "no version file"

  found=$(find "$prefix" -type f ! -name '*.a' ! -name '*.cppm' ! -name '*.cmake' ! -name 'LICENSE-*' ! -path "$prefix/bin/fmmap")
  [[ ! $found ]] || die "these are neither archives, sources, configuration, licences nor the tool: $found"
  found=$(grep -rliE --include '*.cmake' 'cli11|nlohmann' "$prefix" || true)
  [[ ! $found ]] || die "these ask for what only the tool needs: $found"
  found=$(find "$prefix" -name '*seamed*' -o -name 'invoke_table.cppm' -o -name state.cppm)
  [[ ! $found ]] || die "these are for fmmap alone: $found"
  found=$(grep -rlF --include '*.cmake' -e "$source" -e "$build" -e "$work" "$prefix" || true)
  [[ ! $found ]] || die "these name folders of this machine: $found"
}

the_archives_hold_no_seam() {
  local archive symbols
  while read -r archive; do
    symbols=$("$nm" "$archive" 2>/dev/null)
    [[ $symbols == *fmmap* ]] || die "nm names no symbol of fmmap in $archive"
    [[ $symbols != *seam* ]] || die "$archive has the table: $(grep -m 3 seam <<<"$symbols")"
  done < <(find "$prefix" -name '*.a')
  grep -q '^namespace fmmap::os::seam' "$source/src/os/invoke_table.cppm" || die "the table is in another namespace now"
}

a_component_that_is_not_installed_is_named() {
  local said
  fresh component
  if said=$("$cmake" -S "$consumer" -B "$work/component" -G Ninja "-DCMAKE_CXX_COMPILER=$cxx" \
    "-DCMAKE_PREFIX_PATH=$prefix" -DCOMPONENT=no_such_module 2>&1); then
    die "a module that does not exist was found"
  fi
  [[ $said == *'this fmmap was installed without the module "no_such_module".'* ]] || die "$said"
}

# Where a package is missing that only some modules need, the others serve, and those are an error that says what to install.
# is_missed MODULE PACKAGE CURE: the consumer, which has just been configured without the package, is refused with the cure when
# it names the module or links it.
is_missed() {
  local said
  if said=$("$cmake" -S "$consumer" -B "$work/missing" -ULINK -DCOMPONENT="$1" 2>&1); then
    die "the module $1 was found without the package it needs"
  fi
  said=$(tr -s ' \n' ' ' <<<"$said")
  [[ $said == *"$2 was not found, which the module \"$1\" needs: $3."* ]] || die "$said"
  if said=$("$cmake" -S "$consumer" -B "$work/missing" -UCOMPONENT -DLINK="$1" 2>&1); then
    die "the module $1 was linked without the package it needs"
  fi
  said=$(tr -s ' \n' ' ' <<<"$said")
  [[ $said == *"$2::$2 (not found: $3)"* ]] || die "$said"
}

a_missing_package_is_missed_by_its_module_alone() {
  local need module package cure
  local -a needs=() without=()
  while IFS='|' read -r module package cure; do
    if [[ " $public_modules " == *" $module "* ]]; then
      needs+=("$module|$package|$cure")
      without+=("-DCMAKE_DISABLE_FIND_PACKAGE_$package=ON")
    fi
  done <<'EOF'
mimalloc|mimalloc|apt-get install libmimalloc-dev
asio|Boost|apt-get install libboost-dev, or libboost1.81-dev on Debian 12
uv|Libuv|apt-get install libuv1-dev
EOF
  ((${#needs[@]} > 0)) || skip "fmmap was built without mimalloc, Boost and libuv (Debian: apt-get install libmimalloc-dev libuv1-dev)"
  fresh missing
  configure missing "${without[@]}"
  build missing
  run missing
  for need in "${needs[@]}"; do
    IFS='|' read -r module package cure <<<"$need"
    is_missed "$module" "$package" "$cure"
  done
}

the_tool_runs_where_it_is_installed() {
  [[ -e $prefix/bin/fmmap ]] || skip "fmmap was built without its tool (Debian: apt-get install libcli11-dev nlohmann-json3-dev)"
  [[ $("$prefix/bin/fmmap" --version) == "fmmap "* ]] || die "it does not say its version"
  [[ $("$prefix/bin/fmmap" map --json "$consumer/main.cpp") == *'"file_bytes": '"$(stat -c %s "$consumer/main.cpp")"* ]] ||
    die "it does not know the size of a file"
}

# --- Consumers --------------------------------------------------------------------------------------------------------

find_package_serves_every_dialect_under_strict_warnings() {
  consume() { build "$1"; run "$1"; }
  in_every_dialect installed
}

# Whether interfaces can be imported shows when the consumer is compiled. All of fmmap is compiled, linked and run for the
# dialect that differs most from the one this build has already done that in.
add_subdirectory_serves_every_dialect_under_strict_warnings() {
  consume() {
    if [[ $2 == c++26 ]]; then
      build "$1" consumer
      run "$1"
    else
      build "$1" CMakeFiles/consumer.dir/main.cpp.o
    fi
  }
  in_every_dialect embedded "-DFMMAP_SOURCE=$source"
}

# One flag in CMAKE_CXX_FLAGS, one given by add_compile_options, which is not for linking: the run-time library of OpenMP
# need not be there, as nothing here runs parallel. What the flags change is the language.
consumers_may_use_pthread_and_openmp() { with_flags pthread_and_openmp -pthread -DOPTIONS=-fopenmp; }

consumers_may_use_address_sanitizer() {
  echo 'auto main() -> int {}' >"$work/probe.cpp"
  "$cxx" -fsanitize=address "$work/probe.cpp" -o "$work/probe" 2>/dev/null ||
    skip "$cxx has no address sanitizer to link (Debian: apt-get install libclang-rt-19-dev)"
  with_flags address_sanitizer "-fsanitize=address -g"
}

each_module_links_alone() {
  local module
  fresh alone
  configure alone "-DEACH_MODULE=${public_modules// /;}"
  build alone
  for module in $public_modules; do
    "$work/alone/alone_$module"
  done
}

add_subdirectory_brings_no_tests_examples_or_install() {
  local found
  fresh plain
  configure plain "-DFMMAP_SOURCE=$source"
  found=$("$ninja" -C "$work/plain" -t targets all | grep -E '(test|example|seamed|bench)[^/]*:' || true)
  [[ ! $found ]] || die "the consumer's build has these targets: $found"
  found=$("${cmake%cmake}ctest" --test-dir "$work/plain" -N 2>&1)
  [[ $found == *"No tests were found"* || $found == *"Total Tests: 0"* ]] || die "ctest lists: $found"
  rm -rf -- "${work:?}/nothing"
  "$cmake" --install "$work/plain" --prefix "$work/nothing"
  [[ ! -e $work/nothing ]] || die "the consumer installs: $(find "$work/nothing")"
}

# --- What stops the configuration -------------------------------------------------------------------------------------

makefiles_are_refused_with_the_cure() {
  command -v make >/dev/null || skip "there is no make, whose generator is to be refused (Debian: apt-get install make)"
  refused 'builds with Ninja and not with "Unix Makefiles": configure again in an empty folder with -G Ninja' \
    -G "Unix Makefiles" "-DCMAKE_CXX_COMPILER=$cxx"
}

an_old_compiler_is_refused_with_the_cure() {
  local old
  for old in g++-12 g++-13 g++-14 clang++-14 clang++-15 clang++-16 clang++-17 clang++-18; do
    if command -v $old >/dev/null; then
      refused "or newer for its modules, and this compiler is" -G Ninja "-DCMAKE_CXX_COMPILER=$old"
      refused "use -DCMAKE_CXX_COMPILER=clang++-19" -G Ninja "-DCMAKE_CXX_COMPILER=$old"
      return
    fi
  done
  skip "no compiler older than clang 19 and g++ 15 is installed"
}

a_missing_clang_scan_deps_is_refused_with_the_cure() {
  [[ $("$cxx" --version) == *clang* ]] || skip "$cxx finds imports itself"
  refused "clang-scan-deps, which finds the imports of a source file, was not found" \
    -G Ninja "-DCMAKE_CXX_COMPILER=$cxx" -DCMAKE_CXX_COMPILER_CLANG_SCAN_DEPS=
}

mkdir -p -- "$work"
[[ $(type -t "${1-}") == function ]] || die "there is no case '${1-}'"
"$1"
