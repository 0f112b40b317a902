#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Prepares a Debian machine for fmmap, builds the library and shows it at work on real input.
#
#   tools/setup.sh [--all] [--no-build]
#
#   --all       install what benchmarks and gates need as well: formatter, linter, sanitizers, coverage, peers
#   --no-build  install and stop
#
# For Debian 12 (bookworm), 13 (trixie) and sid. Root, or sudo, is needed only while a package is missing; a second run
# installs nothing and asks no mirror. No package is ever removed. Nothing is read from standard input.
set -euo pipefail
exec </dev/null
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/sbin:/sbin" # dpkg wants them, and a plain `su` leaves them out

readonly cmake_needed=3.28

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

all=false
build=true
for option; do
  case $option in
    --all) all=true ;;
    --no-build) build=false ;;
    *) die "unknown option $option; the options are --all and --no-build" ;;
  esac
done

# --- What is missing --------------------------------------------------------------------------------------------------

command -v apt-get >/dev/null ||
  die "this system has no apt-get; install clang >= 19 with clang-scan-deps, CMake >= $cmake_needed, Ninja >= 1.11" \
    "and Boost.Test its own way, then run: cmake --workflow --preset dev"

system=$(. /etc/os-release && echo "$PRETTY_NAME")
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")

installed() { [[ " $(dpkg-query -W -f '${db:Status-Status} ' "$1" 2>/dev/null)" == *" installed "* ]]; }

newest_clang() { sed -n 's/^clang-\([2-9][0-9]\)$/\1/p' | sort -n | tail -n 1; }

# The LLVM to use: 19 on Debian 12 and 13; elsewhere the newest from 20 on, one that is installed before one on offer.
llvm_version() {
  local llvm
  case $suite in
    bookworm | trixie) llvm=19 ;;
    *)
      llvm=$(dpkg --get-selections 'clang-*' 2>/dev/null | sed -n 's/[:[:blank:]].*install$//p' | newest_clang)
      [[ $llvm ]] || llvm=$(apt-cache pkgnames clang- | newest_clang)
      ;;
  esac
  echo "$llvm"
}

cmake_version() { { cmake --version 2>/dev/null || echo none 0; } | sed -n '1s/.* //p'; }

new_enough() { dpkg --compare-versions "$1" ge $cmake_needed; }

# Debian 12 has two Boosts whose -dev packages exclude each other. 1.81 is wanted: 1.74, the default there, lacks what
# the Boost.Asio adapter needs. But a 1.74 that somebody works with stays.
keeps_old_boost() { [[ $suite == bookworm ]] && installed libboost1.74-dev; }

# Prints the packages wanted with LLVM version $1.
wanted() {
  local llvm=$1 boost=
  [[ $suite != bookworm ]] || keeps_old_boost || boost=1.81
  echo "clang-$llvm clang-tools-$llvm g++ cmake ninja-build libboost-test$boost-dev libmimalloc-dev libxxhash-dev liburing-dev"
  echo "libcli11-dev nlohmann-json3-dev"
  $all || return 0
  echo "clang-format-$llvm clang-tidy-$llvm llvm-$llvm llvm-$llvm-dev libclang-$llvm-dev libclang-rt-$llvm-dev"
  echo "libbenchmark-dev libboost$boost-dev libboost-context$boost-dev libboost-iostreams$boost-dev libsqlite3-dev liblmdb-dev"
  echo "libglib2.0-dev libuv1-dev"
  echo "btrfs-progs debootstrap e2fsprogs fuse3 gdb git jq libfuse3-dev libxbyak-dev python3 strace util-linux xfsprogs"
}

# Prints those of them that are missing. Any CMake in PATH will do that is new enough, whoever installed it.
missing() {
  local package
  for package in $(wanted "$1"); do
    case $package in
      cmake) new_enough "$(cmake_version)" || echo cmake ;;
      *) installed "$package" || echo "$package" ;;
    esac
  done
}

# --- Installing -------------------------------------------------------------------------------------------------------

# Runs a command as root, under umask 022: what packages write at installation is for everybody to read.
as_root() {
  local -a sudo=()
  ((EUID == 0)) || sudo=(sudo)
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive sh -c 'umask 022 && exec "$@"' sh "$@"
}

apt_get() { as_root apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -qq "$@"; }

refresh_lists() { apt_get update || say "apt-get update reported errors; going on with the package lists there are"; }

add_backports() {
  local -r file=/etc/apt/sources.list.d/bookworm-backports.sources
  say "CMake $cmake_needed is in bookworm-backports: adding $file, for CMake alone"
  as_root tee $file >/dev/null <<'SOURCE'
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCE
  refresh_lists
}

# Prints how to ask apt-get for a CMake that is new enough, or nothing when no source has one.
cmake_on_offer() {
  if new_enough "$(apt-cache policy cmake | sed -n 's/^ *Candidate: \([0-9].*\)/\1/p')"; then
    echo cmake
  elif [[ $(apt-cache madison cmake) == *bookworm-backports* ]]; then
    echo cmake/bookworm-backports cmake-data/bookworm-backports
  fi
}

install_packages() {
  local package names=()
  say "installing $*"
  for package; do
    if [[ $package == cmake ]]; then
      [[ $(cmake_on_offer) || $suite != bookworm ]] || add_backports
      [[ $(cmake_on_offer) ]] || die "this system's package sources have no CMake >= $cmake_needed"
      names+=($(cmake_on_offer))
    else
      # apt-get would read an unknown name as a pattern, and install whatever matches it.
      apt-cache show "$package" >/dev/null 2>&1 || die "this system's package sources have no $package"
      names+=("$package")
    fi
  done
  apt_get install --yes --no-install-recommends --no-remove "${names[@]}" >/dev/null
}

llvm=$(llvm_version)
needed=$(missing "$llvm")
if [[ $needed ]]; then
  ((EUID == 0)) || command -v sudo >/dev/null ||
    die "packages are missing and there is no sudo; as root run: tools/setup.sh --no-build, or (on Debian 12 with" \
      "bookworm-backports, for CMake): apt-get install --no-install-recommends" $needed
  refresh_lists
  llvm=$(llvm_version)
  [[ $llvm ]] || die "this system's package sources have no clang >= 20"
  install_packages $(missing "$llvm")
  new_enough "$(cmake_version)" ||
    die "$(command -v cmake) is CMake $(cmake_version) and hides the newer one; fmmap needs $cmake_needed"
else
  say "everything is installed"
fi
if keeps_old_boost; then
  say "Boost 1.74 is in use here and stays; all is built with it but the Boost.Asio adapter, which needs 1.81"
fi
$build || exit 0

# --- Building, and the main job ---------------------------------------------------------------------------------------

# Root builds as the checkout's owner, who can then go on in the same build tree.
as_owner() {
  local -a drop=()
  ((EUID != 0)) || drop=(setpriv --reuid "$(stat -c %u .)" --regid "$(stat -c %g .)" --clear-groups)
  "${drop[@]}" "$@"
}

other_clang=()
[[ $llvm == 19 ]] || other_clang=("-DCMAKE_CXX_COMPILER=clang++-$llvm")

SECONDS=0
as_owner cmake --preset release "${other_clang[@]}"
as_owner cmake --build --preset release
built="build/release in $SECONDS s, by clang $("clang++-$llvm" -dumpversion) and CMake $(cmake_version), on $system"

say "persistent_vector: killed while it changes a vector and a map in a file, reopened, and again"
kept=$(as_owner build/release/examples/persistent_vector build/release/persistent_vector.heap 100)
echo "$kept"
[[ ${kept##*$'\n'} == "100 kills, 100 reopens, 0 lost, 0 mixed" ]] || die "persistent_vector says '$kept'"

readonly text=/var/lib/dpkg/status
say "count_lines: the lines of $text, in place"
counted=$(as_owner build/release/examples/count_lines $text)
echo "$counted"
lines=$(wc -l <$text)
[[ $counted =~ [0-9]+ && ${BASH_REMATCH[0]} == "$lines" ]] || die "count_lines says '$counted', wc -l says $lines"

say "shown:"
say "  built              $built"
say "  persistent_vector  ${kept##*$'\n'}"
say "  count_lines        $lines lines in $text, as wc -l counts them"
say "next: cmake --workflow --preset dev"
