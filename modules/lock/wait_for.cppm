// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <chrono>
#include <expected>

export module fmmap.lock:wait_for;

import fmmap.core;

export namespace fmmap {

/// How long an acquisition may wait: any duration, rounded up to nanoseconds. One that is not above zero does not wait, and
/// 292 years and more wait for ever.
class wait_for {
public:
  template <class Rep, class Period>
  constexpr wait_for(std::chrono::duration<Rep, Period> limit) noexcept : limit_{saturated(limit)} {}

  /// At least 0; the largest number there is for ever.
  [[nodiscard]] constexpr auto limit() const noexcept -> std::chrono::nanoseconds { return limit_; }

  auto operator==(wait_for const&) const -> bool = default;

private:
  template <class Rep, class Period>
  static constexpr auto saturated(std::chrono::duration<Rep, Period> limit) noexcept -> std::chrono::nanoseconds {
    using exact = std::chrono::duration<long double, std::nano>; // the integers of the common type may overflow
    if (!(exact{limit} > exact::zero())) {                       // not a number, too
      return std::chrono::nanoseconds::zero();
    }
    return exact{limit} >= exact{std::chrono::nanoseconds::max()} ? std::chrono::nanoseconds::max()
                                                                  : std::chrono::ceil<std::chrono::nanoseconds>(limit);
  }

  std::chrono::nanoseconds limit_;
};

inline constexpr wait_for no_wait{std::chrono::nanoseconds::zero()};
inline constexpr wait_for forever{std::chrono::nanoseconds::max()};

/// How a wait with a limit, or one that can be stopped, is made.
enum class wait_method : unsigned char {
  /// In the system, which wakes waiters in their order; a timer's signal ends the wait at its limit, or at a stop.
  kernel,
  /// By asking again and again, every millisecond in the end. It comes after everybody who waits in the system, and may
  /// starve.
  polling,
};

/// Sets the signal that ends waits with a limit, and those that are stopped, from now on. 0 for none: they poll then.
///
/// Unless one is set, the first such wait that meets contention takes the highest real-time signal (signal(7)) that is left to
/// the system's default. fmmap gives the signal a handler that does nothing, sends it only to threads that wait in one of
/// its functions, and unblocks it there for as long. A program that needs real-time signals of its own sets this first.
///
/// Errors: `std::errc::device_or_resource_busy` when the signal has a handler or is ignored; `std::errc::invalid_argument`
/// for what is no real-time signal. The setting is then as before.
/// Thread safety: may be called from any thread. Fork: the child's too. Exec: forgotten. Source: timer_create(2).
[[nodiscard]] auto set_lock_signal(int signal) -> result<void>;

/// The signal in use; 0 when waits poll, or none has been needed yet.
[[nodiscard]] auto lock_signal() noexcept -> int;

} // namespace fmmap
