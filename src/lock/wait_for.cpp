// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cerrno>
#include <expected>
#include <mutex>
#include <string>

module fmmap.lock;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

constexpr int not_chosen = -1;
constexpr int none = 0;

std::atomic<int> the_signal{not_chosen};
constinit std::mutex choosing;

// Real-time signals are for programs to use as they please; from the top, where they begin at the bottom.
auto choose_signal() noexcept -> int {
  for (int signal = os::last_realtime_signal(); signal >= os::first_realtime_signal(); --signal) {
    if (os::claim_signal(signal)) {
      return signal;
    }
  }
  return none;
}

} // namespace

auto set_lock_signal(int signal) -> result<void> {
  std::scoped_lock const guard{choosing};
  if (signal != none) {
    if (auto const claimed = signal < 0 ? os::outcome<void>{std::unexpected(EINVAL)} : os::claim_signal(signal);
        !claimed) {
      return failure(claimed.error(), "use signal " + std::to_string(signal) + " for locks", {}, {},
                     claimed.error() == EBUSY ? "it has a handler, or is ignored"
                                              : "it is no signal that can be handled");
    }
  }
  the_signal = signal;
  return {};
}

auto lock_signal() noexcept -> int {
  auto const signal = the_signal.load();
  return signal == not_chosen ? none : signal;
}

auto interrupting_signal() noexcept -> int {
  std::scoped_lock const guard{choosing};
  auto signal = the_signal.load();
  // Somebody may have set a handler since, after which a system call might go on where it was to end.
  if (signal == not_chosen || (signal != none && !os::claim_signal(signal))) {
    signal = choose_signal();
    the_signal = signal;
  }
  return signal;
}

} // namespace fmmap
