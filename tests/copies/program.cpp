// SPDX-License-Identifier: MIT OR Apache-2.0

// Has the copies of fmmap that are linked, or in the shared libraries that are named, used around a fork:
//
//   program [LIBRARY...]
#include <array>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using use = auto(bool in_child) -> char const*;

constexpr unsigned longest =
    60; // seconds that a process may take, for one that hangs to be a failure and not a nuisance

[[noreturn]] void fail(char const* who, char const* what) {
  std::fprintf(stderr, "%s: %s\n", who, what);
  std::_Exit(1);
}

auto find_copies(std::span<void* const> libraries) -> std::vector<use*> {
  std::vector<use*> found;
  auto const add = [&](void* where) {
    for (char const* name : {"use_a", "use_b"}) {
      if (auto* const one = reinterpret_cast<use*>(::dlsym(where, name)); one != nullptr) {
        found.push_back(one);
      }
    }
  };
  add(RTLD_DEFAULT);
  for (auto* const one : libraries) {
    add(one);
  }
  return found;
}

void use_all(std::span<use* const> copies, bool in_child) {
  for (auto* const one : copies) {
    if (auto const* const wrong = one(in_child); wrong != nullptr) {
      fail(in_child ? "child" : "parent", wrong);
    }
  }
}

void fork_and_wait(std::span<use* const> copies, bool uses) {
  auto const child = ::fork();
  if (child == 0) {
    ::alarm(longest);
    if (uses) {
      use_all(copies, true);
    }
    std::_Exit(0);
  }
  int status = -1;
  if (child < 0 || ::waitpid(child, &status, 0) != child || status != 0) {
    fail("child", "it did not come to its end");
  }
}

} // namespace

auto main(int count, char** arguments) -> int {
  ::alarm(longest);
  auto const names = std::span{arguments, static_cast<std::size_t>(count)}.subspan(1);
  for (char const* name : names) { // of a library that is gone, no handler is left
    if (auto* const library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL); library != nullptr) {
      ::dlclose(library);
    }
    fork_and_wait({}, false);
  }
  std::vector<void*> libraries;
  for (char const* name : names) {
    libraries.push_back(::dlopen(name, RTLD_NOW | RTLD_LOCAL));
    if (libraries.back() == nullptr) {
      fail(name, ::dlerror());
    }
  }
  auto const copies = find_copies(libraries);
  if (copies.size() != 2) {
    fail("program", "there have to be two copies");
  }
  fork_and_wait(copies, false); // before anything has been used
  use_all(copies, false);
  fork_and_wait(copies, true);
  use_all(copies, false);
  return 0;
}
