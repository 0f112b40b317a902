// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cerrno>
#include <expected>
#include <string>
#include <string_view>

module fmmap.lock;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

constexpr int not_chosen = -1;
constexpr int none = 0;

// No mutex around it: one that another thread has when the process is forked would never be unlocked in the child.
std::atomic<int> the_signal{not_chosen};

// Real-time signals are for programs to use as they please; from the top, where they begin at the bottom.
auto choose_signal() noexcept -> os::outcome<int> {
  for (int signal = os::last_realtime_signal(); signal >= os::first_realtime_signal(); --signal) {
    auto const claimed = os::claim_signal(signal);
    if (claimed) {
      return signal;
    }
    if (claimed.error() != EBUSY) {
      return std::unexpected(claimed.error());
    }
  }
  return std::unexpected(EBUSY);
}

} // namespace

auto set_lock_signal(int signal) -> result<void> {
  auto const refuse = [&](int code, std::string_view hint) -> result<void> {
    return failure(code, "use signal " + std::to_string(signal) + " for locks", {}, {}, hint);
  };
  if (signal != none) {
    if (signal < os::first_realtime_signal() || signal > os::last_realtime_signal()) {
      return refuse(EINVAL, "it is no real-time signal");
    }
    if (auto const claimed = os::claim_signal(signal); !claimed) {
      return refuse(claimed.error(), claimed.error() == EBUSY ? "it has a handler, or is ignored" : "");
    }
  }
  the_signal = signal;
  return {};
}

auto lock_signal() noexcept -> int {
  auto const signal = the_signal.load();
  return signal == not_chosen ? none : signal;
}

auto interrupting_signal() noexcept -> os::outcome<int> {
  auto signal = the_signal.load();
  while (true) {
    // Somebody may have set a handler since, after which a system call might go on where it was to end.
    if (signal == none || (signal != not_chosen && os::claim_signal(signal))) {
      return signal;
    }
    auto const chosen = choose_signal();
    if (!chosen || the_signal.compare_exchange_strong(signal, *chosen)) {
      return chosen;
    }
  }
}

} // namespace fmmap
