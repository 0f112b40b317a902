// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <csignal>
#include <exception>
#include <functional>
#include <string>
#include <utility>

#include <sys/prctl.h>
#include <unistd.h>

#include "support/process.hpp"

// From now on this process dies with the parent that forked it.
inline void die_with(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) { // it was quicker
    ::_exit(1);
  }
}

// A forked child that outlives neither this process nor this object: whoever is killed, nobody is left who keeps a mount.
class companion {
public:
  explicit companion(std::function<int()> const& body) {
    auto const parent = ::getpid();
    process_ = start_child([&] {
      die_with(parent);
      return body();
    });
  }
  companion(companion const&) = delete;
  auto operator=(companion const&) -> companion& = delete;
  ~companion() {
    if (process_ > 0) {
      ::kill(process_, SIGKILL);
      end_of(process_);
    }
  }

  // Waits for its end, and says how it ended (`end_of`).
  auto end() -> int { return end_of(std::exchange(process_, -1)); }

private:
  pid_t process_ = -1;
};

// What a companion answers; what it throws, or how it was killed, begins with an exclamation mark.
inline auto answer_of(std::function<std::string()> const& body) -> std::string {
  text_pipe answer;
  companion child{[&] {
    try {
      return answer.send(body()) ? 0 : 1;
    } catch (std::exception const& e) {
      return answer.send(std::string{"!"} + e.what()) ? 0 : 1;
    }
  }};
  auto text = answer.receive();
  auto const end = child.end();
  return end == 0 ? text : "!it ended with " + std::to_string(end) + ", and said: " + text;
}
