// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <csignal>
#include <cstdint>
#include <expected>
#include <utility>

// Signals: limits to how long a system call may block, by a timer whose signal interrupts it, and threads without handlers.
export module fmmap.os:interruption;

import :calls;

export namespace fmmap::os {

// Signals that may be asked for: the system's own for its threads are left out.
[[nodiscard]] auto first_realtime_signal() noexcept -> int;
[[nodiscard]] auto last_realtime_signal() noexcept -> int;

// Gives `signal` a handler that does nothing, unless it has it. EBUSY when it is handled or ignored by somebody else.
[[nodiscard]] auto claim_signal(int signal) noexcept -> outcome<void>;

// A thread that is started while it lives runs no handlers of the program's, but for faults of its own.
class no_handlers {
public:
  no_handlers() noexcept;
  no_handlers(no_handlers const&) = delete;
  auto operator=(no_handlers const&) -> no_handlers& = delete;
  ~no_handlers();

private:
  sigset_t before_;
};

// From `deadline` on, the blocking system calls of the calling thread fail with EINTR: the one in which it is then, and each
// that it makes later, within a tenth of a millisecond. It ends with the scope, on the thread that began it: those that come
// after it are interrupted by it no more.
class time_limit {
public:
  // `signal` is one that has been claimed; `deadline` is of the steady clock, in nanoseconds.
  [[nodiscard]] static auto begin(int signal, std::int64_t deadline) noexcept -> outcome<time_limit>;

  inline time_limit(time_limit&& other) noexcept
      : signal_{other.signal_}, timer_{std::exchange(other.timer_, none)}, was_blocked_{other.was_blocked_} {}
  auto operator=(time_limit&& other) -> time_limit& = delete;
  ~time_limit();

  // Makes now the deadline, once it is at its place. May be called on any thread, and more than once, while it lasts.
  void expire() const noexcept;

private:
  static constexpr int none = -1;

  inline time_limit(int signal, int timer) noexcept : signal_{signal}, timer_{timer} {}

  int signal_;
  int timer_;
  bool was_blocked_ = false;
};

} // namespace fmmap::os
