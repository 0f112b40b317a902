#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Tries the committed tree on a bare Debian, as a newcomer would.
#
#   tools/chroot-check.sh bookworm|trixie|sid [--keep]
#
#   --keep   leave the new system in place, and print where it is
#
# The tree goes to a path with a space, belongs to an ordinary user, and all is done under umask 077:
#   bookworm, trixie   README's first command as root, README's second as the user, then the first again as the user
#   sid                built and tested with the newest g++ and the newest clang there is
# Needs root, git and debootstrap. The bare system is kept for thirty days in ${XDG_CACHE_HOME:-~/.cache}/fmmap-chroot.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/sbin:/sbin"

say() { printf 'chroot-check: %s\n' "$*"; }
die() { printf 'chroot-check: %s\n' "$*" >&2; exit 1; }

suite=
keep=false
for option; do
  case $option in
    bookworm | trixie | sid) suite=$option ;;
    --keep) keep=true ;;
    *) die "unknown argument $option; usage: tools/chroot-check.sh bookworm|trixie|sid [--keep]" ;;
  esac
done
[[ $suite ]] || die "usage: tools/chroot-check.sh bookworm|trixie|sid [--keep]"
((EUID == 0)) || die "needs root, to make a system of its own"
command -v debootstrap >/dev/null && command -v git >/dev/null ||
  die "needs debootstrap and git: apt-get install debootstrap git"

# --- The new system ---------------------------------------------------------------------------------------------------

work=$(mktemp -d "${TMPDIR:-/var/tmp}/fmmap-$suite.XXXXXX")
root=$work/root
home="/home/new comer"
checkout="$home/fm map"

leave() {
  if $keep; then
    say "the system is in $root"
  else
    rm -rf --one-file-system "$work"
  fi
}
trap leave EXIT

# Prints the mirror this machine takes Debian from.
mirror() {
  local own
  own=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 'Component: main')
  own=${own%%$'\n'*}
  echo "${own:-http://deb.debian.org/debian}"
}

# Makes the bare system, from the cache while that is fresh.
make_system() {
  local cache base
  cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/fmmap-chroot
  base=$cache/$suite-$(dpkg --print-architecture).tar
  mkdir -p "$cache" "$root"
  if [[ ! $(find "$base" -mtime -30 2>/dev/null) ]]; then
    say "debootstrap of $suite from $(mirror)"
    debootstrap --variant=minbase "$suite" "$root" "$(mirror)" >"$work/debootstrap.log" ||
      die "debootstrap failed: $(tail -n 3 "$work/debootstrap.log")"
    tar -C "$root" --numeric-owner -cf "$base.new" .
    mv "$base.new" "$base"
  else
    tar -C "$root" --numeric-owner -xpf "$base"
  fi
  # It reaches the network as this machine does.
  cp -L /etc/resolv.conf "$root/etc/resolv.conf"
  apt-config dump | grep -E '^Acquire::(http|https|ftp|Retries|ForceIPv[46])\b' >"$root/etc/apt/apt.conf.d/90host" || true
}

# Runs command $2 as user $1 in the new system, as after a login. It has namespaces of its own: its mounts and whatever
# it leaves running end with it, so there is nothing to unmount, and removing the system can reach nothing outside it.
# The system is the root of that namespace and not a chroot, for in a chroot a test could make no user namespace.
# With $offline set there is no network.
offline=
inside() {
  unshare --mount --propagation private --pid --fork --kill-child ${offline:+--net} sh -euc '
    mount --bind "$1" "$1"
    mount --rbind /dev "$1/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
    mount --rbind /sys "$1/sys"
    mount -t proc proc "$1/proc"
    cd "$1"
    pivot_root . mnt
    umount -l mnt
    exec runuser -l "$2" -s /bin/bash -c "umask 077; $3"
  ' sh "$root" "$@"
}

copy_tree() {
  inside root "useradd --create-home --home-dir '$home' --shell /bin/bash newcomer"
  inside newcomer "mkdir '$checkout'"
  git -c safe.directory='*' archive HEAD | inside newcomer "tar -x -C '$checkout'"
}

# --- The check --------------------------------------------------------------------------------------------------------

shown=()

# One step, called $1: user $2 runs command $3 in the checkout. What it prints is in $work/log afterwards.
step() {
  local -r name=$1 user=$2 command=$3 start=$SECONDS
  say "$name, as $user: $command"
  inside "$user" "cd '$checkout' && $command" </dev/null 2>&1 | tee "$work/log" || die "$name failed: $command"
  shown+=("$(printf '%4d s  %s, as %s: %s' $((SECONDS - start)) "$name" "$user" "$command")")
}

# Notes what ctest said at the end of the last step, which fails when it said nothing.
note_tests() {
  local passed
  passed=$(grep -E '^100% tests passed' "$work/log") || die "ctest did not say that all tests passed"
  shown+=("        $passed")
}

# Prints README.md's two commands: what its code blocks say from the line on that runs setup.sh.
readme_commands() {
  awk '/^```/ { fenced = !fenced; next }
       fenced && /setup\.sh/ { found = 1 }
       fenced && found && n < 2 { sub(/^\$ /, ""); sub(/ +#.*/, ""); if (NF) { print; ++n } }' README.md
}

check_readme() {
  local -a commands
  mapfile -t commands < <(readme_commands)
  [[ ${commands[0]:-} == *setup.sh* && ${commands[1]:-} == *"cmake --workflow"* ]] ||
    die "README.md does not give the two commands it promises: tools/setup.sh and a cmake --workflow"
  step "first command" root "${commands[0]}"
  mapfile -t -O "${#shown[@]}" shown < <(sed -n 's/^setup:   /        /p' "$work/log")
  step "second command" newcomer "${commands[1]}"
  note_tests
  offline=yes step "first command again" newcomer "${commands[0]}"
  grep -qx 'setup: everything is installed' "$work/log" || die "setup.sh found something to install a second time"
  shown+=("        nothing was installed; there was no root, no sudo and no network")
}

# Builds and tests with the compiler $1, and with nothing of CMakePresets.json.
check_compiler() {
  local -r cxx=$1
  step "$cxx" newcomer \
    "cmake -G Ninja -B build/$cxx -DCMAKE_CXX_COMPILER=$cxx -DFMMAP_BUILD_TESTS=ON -DFMMAP_REQUIRE_ALL=ON"
  step "$cxx" newcomer "cmake --build build/$cxx"
  step "$cxx" newcomer "ctest --test-dir build/$cxx --output-on-failure --no-tests=error -j 2"
  note_tests
}

# Prints the newest program in the system whose name is $1, a hyphen and a version.
newest() { find "$root/usr/bin" -name "$1-[1-9][0-9]" -printf '%f\n' | sort -V | tail -n 1; }

check_compilers() {
  local gxx clangxx
  step "installation" root "tools/setup.sh --no-build"
  gxx=$(newest g++)
  clangxx=$(newest clang++)
  [[ ${gxx#g++-} -ge 15 && ${clangxx#clang++-} -ge 20 ]] || die "wants g++ >= 15 and clang >= 20, finds $gxx, $clangxx"
  step "versions" newcomer "$gxx --version; $clangxx --version; cmake --version; ninja --version"
  mapfile -t -O "${#shown[@]}" shown < <(sed -nE '/^(g\+\+-|Debian clang|cmake)/s/^/        /p' "$work/log")
  check_compiler "$gxx"
  check_compiler "$clangxx"
}

make_system
copy_tree
if [[ $suite == sid ]]; then
  check_compilers
else
  check_readme
fi

say "shown on a bare $suite, in '$checkout', umask 077, of $(git -c safe.directory='*' rev-parse --short HEAD):"
printf 'chroot-check:   %s\n' "${shown[@]}"
