// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <grp.h>
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

// Whether it is the thread sanitizer, which wants no fork of a process with threads.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool thread_sanitized = true;
#elif defined(__has_feature)
inline constexpr bool thread_sanitized = __has_feature(thread_sanitizer);
#else
inline constexpr bool thread_sanitized = false;
#endif

// What a part of a test in a process of its own has found wrong; it comes back to the test as one text.
class findings {
public:
  void expect(bool holds, std::string_view what) {
    if (!holds) {
      text_.append(what).append("\n");
    }
  }

  // What this process cannot show, and why.
  void skip(std::string_view reason) { text_.append("SKIP: ").append(reason).append("\n"); }

  [[nodiscard]] auto text() const -> std::string const& { return text_; }

private:
  std::string text_;
};

// Waits for a child and says how it ended: 0, its exit status, or minus the signal that killed it.
inline auto end_of(pid_t child) -> int {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) {
      throw std::runtime_error(std::strerror(errno));
    }
  }
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

// Brings a text from a child that is forked while it is there.
class text_pipe {
public:
  text_pipe() {
    if (::pipe2(ends_, O_CLOEXEC) != 0) {
      throw std::runtime_error("pipe");
    }
  }
  text_pipe(text_pipe const&) = delete;
  auto operator=(text_pipe const&) -> text_pipe& = delete;
  ~text_pipe() {
    for (auto const end : ends_) {
      if (end >= 0) {
        ::close(end);
      }
    }
  }

  [[nodiscard]] auto input() const -> int { return ends_[1]; }
  // Whether all of it was taken.
  [[nodiscard]] auto send(std::string_view text) const -> bool {
    return ::write(input(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  }
  // Once, in the parent: all that is sent until the children have ended.
  [[nodiscard]] auto receive() -> std::string {
    ::close(std::exchange(ends_[1], -1));
    std::string text;
    char buffer[4096];
    for (ssize_t got = 0; (got = ::read(ends_[0], buffer, sizeof buffer)) > 0 || (got < 0 && errno == EINTR);) {
      text.append(buffer, static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    }
    return text;
  }

private:
  int ends_[2];
};

// Runs `body` in a forked child that ends with the value it returns.
inline auto start_child(std::function<int()> const& body) -> pid_t {
  auto const child = ::fork();
  if (child == 0) {
    try {
      ::_exit(body());
    } catch (std::exception const& e) {
      std::cerr << "in a child: " << e.what() << std::endl;
      ::_exit(113);
    }
  }
  if (child < 0) { // -1 is also what kill(2) takes for every process there is
    throw std::runtime_error(std::string{"fork: "} + std::strerror(errno));
  }
  return child;
}

// Runs a program without arguments in a folder, and says how it ended.
inline auto end_of_program(char const* program, std::filesystem::path const& folder) -> int {
  return end_of(start_child([&] {
    std::filesystem::current_path(folder);
    ::execl(program, program, nullptr);
    return 127;
  }));
}

// Runs `body` in a forked child and returns what it found wrong, how it was killed included; nothing when all holds. What
// it had to skip is printed.
inline auto found_in_child(std::function<void(findings&)> const& body) -> std::string {
  text_pipe answer;
  auto const child = start_child([&] {
    findings found;
    try {
      body(found);
    } catch (std::exception const& e) {
      found.expect(false, std::string{"thrown: "} + e.what());
    }
    return answer.send(found.text()) ? 0 : 1;
  });
  auto text = answer.receive();
  if (auto const end = end_of(child); end != 0) {
    text += "the child ended with " + std::to_string(end) + '\n';
  }
  std::string wrong;
  for (std::string_view rest{text}; !rest.empty();) {
    auto const line = rest.substr(0, rest.find('\n') + 1);
    rest.remove_prefix(line.size());
    if (line.starts_with("SKIP: ")) {
      std::cout << line << std::flush;
    } else {
      wrong += line;
    }
  }
  return wrong;
}

// Whether `body` ends in this signal, whose handlers (a sanitizer's, the test framework's) are taken off first.
inline auto dies_of(int signal, std::function<void()> const& body) -> bool {
  auto const child = start_child([&] {
    rlimit const no_core{.rlim_cur = 0, .rlim_max = 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    ::signal(signal, SIG_DFL);
    body();
    return 0;
  });
  return end_of(child) == -signal;
}

inline auto is_root() -> bool { return ::geteuid() == 0; }

inline void skip(std::string_view reason) { std::cout << "SKIP: " << reason << std::endl; }

// For good, in a child: from root to the user nobody.
inline auto become_ordinary_user() -> bool {
  constexpr uid_t nobody = 65534;
  return ::setgroups(0, nullptr) == 0 && ::setresgid(nobody, nobody, nobody) == 0 &&
         ::setresuid(nobody, nobody, nobody) == 0;
}

inline void limit(int what, rlim_t value) {
  rlimit now{};
  ::getrlimit(static_cast<__rlimit_resource>(what), &now);
  now.rlim_cur = value; // the hard limit stays
  if (::setrlimit(static_cast<__rlimit_resource>(what), &now) != 0) {
    throw std::runtime_error("setrlimit");
  }
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

// Of open descriptors, with the one that the question takes.
inline auto descriptor_count() -> std::ptrdiff_t {
  return std::distance(std::filesystem::directory_iterator{"/proc/self/fd"}, std::filesystem::directory_iterator{});
}

inline auto maps_count() -> std::size_t {
  std::ifstream maps{"/proc/self/maps"};
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    ++count;
  }
  return count;
}
