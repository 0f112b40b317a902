// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

// Whether this is a build with the address or thread sanitizer, which reserve most of the address space.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized = true;
#elif defined(__has_feature)
inline constexpr bool sanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
inline constexpr bool sanitized = false;
#endif

// Says why a test, or the rest of it, does not apply here.
inline void skip(std::string_view reason) {
  std::printf("SKIP: %.*s\n", static_cast<int>(reason.size()), reason.data());
}

// The wait status of a child process that runs `body` and exits with 0 when it returns true.
template <class Body>
auto run_in_child(Body body) -> int {
  std::fflush(nullptr);
  auto const child = ::fork();
  if (child == 0) {
    rlimit const no_core{.rlim_cur = 0, .rlim_max = 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    bool good = false;
    try {
      good = body();
    } catch (std::exception const& e) {
      std::fprintf(stderr, "in the child: %s\n", e.what());
    }
    std::fflush(nullptr);
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) == -1) {
  }
  return status;
}

template <class Body>
auto passes_in_child(Body body) -> bool {
  auto const status = run_in_child(body);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Whether `body` ends in this signal, whose handlers (a sanitizer's, the test framework's) are taken off first.
template <class Body>
auto dies_of(int signal, Body body) -> bool {
  auto const status = run_in_child([&] {
    ::signal(signal, SIG_DFL);
    body();
    return true;
  });
  return WIFSIGNALED(status) && WTERMSIG(status) == signal;
}

// Gives up root for good, where the process has it.
inline auto become_ordinary() -> bool {
  constexpr unsigned nobody = 65534;
  return ::geteuid() != 0 || (::setresgid(nobody, nobody, nobody) == 0 && ::setresuid(nobody, nobody, nobody) == 0);
}

// The number after a label in /proc/self/status.
inline auto status_field(std::string_view label) -> std::size_t {
  std::ifstream status{"/proc/self/status"};
  for (std::string word; status >> word;) {
    if (word == label) {
      std::size_t value = 0;
      status >> value;
      return value;
    }
  }
  return 0;
}

inline auto maps_count() -> std::size_t {
  std::ifstream maps{"/proc/self/maps"};
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    ++count;
  }
  return count;
}

inline auto descriptor_count() -> std::size_t {
  std::size_t count = 0;
  for ([[maybe_unused]] auto const& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) {
    ++count;
  }
  return count;
}
