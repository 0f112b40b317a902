// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <concepts>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

// The seam of the build that tests link: every system call passes a table that can count, fail, skip, shorten, delay, kill,
// record, declare a feature absent, or tell an observer. Nothing is done to a call until a test arms the table.
export module fmmap.os:invoke;

import :calls;

export namespace fmmap::os::seam {

// A call that is about to be made, or has been. One that the table fails is told of, one that it skips is not.
struct observation {
  call which;
  subject about;
  bool over = false;
  int error = 0; // the errno it failed with, once it is over
};

} // namespace fmmap::os::seam

namespace fmmap::os::seam {

enum class kill_side : unsigned char { before, after };

// What the table does with one kind of call, whenever it is made.
struct rule {
  int error = 0;                           // fails with this errno
  std::uint64_t spared = 0;                // after that many more that are let through
  std::uint64_t remaining = 0;             // that many more times
  std::size_t longest_transfer = SIZE_MAX; // bytes
  std::chrono::microseconds delay{0};
  std::function<bool(subject const&)> skipped;
};

struct table {
  std::mutex mutex;
  std::array<rule, call_names.size()> rules{};
  std::vector<call> trace;
  std::uint64_t nth = 0; // the ordinal to disturb, from 1
  int nth_error = 0;
  std::uint64_t nth_times = 1;       // how many calls from there on
  std::vector<std::uint64_t> failed; // the ordinals from `nth` on that were made to fail
  std::uint64_t injected = 0;
  std::uint64_t kill_at = 0;
  kill_side side = kill_side::before;
  std::function<void(observation const&)> observer;
};

std::atomic<bool> is_armed{false};

auto the_table() -> table& {
  static table instance;
  return instance;
}

// What is to happen to one call.
struct verdict {
  int error = 0;
  bool skip = false;
  bool kill_after = false;
};

auto enter(call which, subject const& about) -> verdict {
  auto& state = the_table();
  std::unique_lock lock{state.mutex};
  state.trace.push_back(which);
  auto const ordinal = state.trace.size();
  if (ordinal == state.kill_at && state.side == kill_side::before) {
    std::raise(SIGKILL);
  }
  verdict result{.error = 0, .kill_after = ordinal == state.kill_at};
  auto& mine = state.rules[static_cast<std::size_t>(which)];
  if (state.nth != 0 && ordinal >= state.nth && ordinal - state.nth < state.nth_times) {
    result.error = state.nth_error;
    state.failed.push_back(ordinal);
  } else if (mine.remaining > 0 && mine.spared > 0) {
    --mine.spared;
  } else if (mine.remaining > 0) {
    --mine.remaining;
    result.error = mine.error;
  }
  state.injected += result.error != 0 ? 1 : 0;
  result.skip = result.error == 0 && mine.skipped && mine.skipped(about);
  auto const delay = mine.delay;
  lock.unlock();
  if (delay.count() > 0) {
    std::this_thread::sleep_for(delay);
  }
  return result;
}

auto any_subject(subject const& /*about*/) -> bool { return true; }

// With the table unlocked: an observer may use it.
void tell(observation const& what) {
  auto& state = the_table();
  std::unique_lock lock{state.mutex};
  auto const observer = state.observer;
  lock.unlock();
  if (observer) {
    observer(what);
  }
}

template <std::invocable Call>
auto make(Call real) noexcept -> outcome<std::invoke_result_t<Call&>> {
  auto const value = real();
  if (value == -1) {
    return std::unexpected(errno);
  }
  return value;
}

auto longest_transfer(call which) -> std::size_t {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  return state.rules[static_cast<std::size_t>(which)].longest_transfer;
}

} // namespace fmmap::os::seam

export namespace fmmap::os {

template <std::invocable Call>
auto invoke(call which, Call real, subject about = {}) noexcept -> outcome<std::invoke_result_t<Call&>> {
  if (!seam::is_armed.load(std::memory_order_relaxed)) [[likely]] {
    return seam::make(real);
  }
  auto const planned = seam::enter(which, about);
  outcome<std::invoke_result_t<Call&>> result;
  if (!planned.skip) {
    seam::tell({.which = which, .about = about});
    // A close that fails has closed all the same on Linux, so the table lets it happen before it reports the failure. And a
    // timer that is left would go on for ever.
    if (planned.error == 0 || which == call::close || which == call::timer_delete) {
      result = seam::make(real);
    }
    if (planned.error != 0) {
      result = std::unexpected(planned.error);
    }
  }
  if (planned.kill_after) {
    std::raise(SIGKILL);
  }
  if (!planned.skip) {
    seam::tell({.which = which, .about = about, .over = true, .error = result ? 0 : result.error()});
  }
  return result;
}

template <std::invocable<std::size_t> Call>
auto invoke_transfer(call which, std::size_t length, Call real, subject about = {}) noexcept -> outcome<std::size_t> {
  auto allowed = length;
  if (seam::is_armed.load(std::memory_order_relaxed)) [[unlikely]] {
    allowed = std::min(length, seam::longest_transfer(which));
  }
  about.length = allowed;
  return invoke(which, [&] { return real(allowed); }, about);
}

} // namespace fmmap::os

// What a test says to the table. Ordinals count the calls made since `arm`, from 1, over all threads.
export namespace fmmap::os::seam {

inline constexpr std::uint64_t every_time = UINT64_MAX;

// Forgets all plans and records, and starts counting.
void arm() {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  state.rules.fill({});
  state.trace.clear();
  state.failed.clear();
  state.nth = state.kill_at = state.injected = 0;
  state.observer = {};
  is_armed = true;
}

// Lets every call through again; what was recorded stays readable until the next `arm`.
void disarm() { is_armed = false; }

// The `nth` call, and with `times` that many from there on, fails with `error` and is not made.
void fail_nth(std::uint64_t nth, int error, std::uint64_t times = 1) {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  state.nth = nth;
  state.nth_error = error;
  state.nth_times = times;
}

// The next `times` calls of one kind fail with `error`, once `spared` of them have been let through.
void fail(call which, int error, std::uint64_t times = every_time, std::uint64_t spared = 0) {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  auto& mine = state.rules[static_cast<std::size_t>(which)];
  mine.error = error;
  mine.spared = spared;
  mine.remaining = times;
}

// The system looks like one that does not have this call.
void pretend_absent(call which) { fail(which, ENOSYS); }

// Calls of one kind, where they are about what `chosen` says, are not made and reported as done: a barrier taken away. One
// that is to fail fails all the same.
void skip(call which, std::function<bool(subject const&)> chosen = any_subject) {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  state.rules[static_cast<std::size_t>(which)].skipped = std::move(chosen);
}

// Tells `observer` of every call, on the thread that makes it, before the call and after it.
void observe(std::function<void(observation const&)> observer) {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  state.observer = std::move(observer);
}

// Each call of one kind transfers at most `longest` bytes.
void shorten(call which, std::size_t longest) {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  state.rules[static_cast<std::size_t>(which)].longest_transfer = longest;
}

// Each call of one kind is preceded by a pause.
void delay(call which, std::chrono::microseconds pause) {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  state.rules[static_cast<std::size_t>(which)].delay = pause;
}

// The process kills itself before or after the `nth` call.
void kill_at(std::uint64_t nth, bool after = false) {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  state.kill_at = nth;
  state.side = after ? kill_side::after : kill_side::before;
}

// The calls made since `arm`, in order.
auto calls() -> std::vector<call> {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  return state.trace;
}

// The ordinals of the calls that `fail_nth` has made fail.
auto failed_ordinals() -> std::vector<std::uint64_t> {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  return state.failed;
}

// How many calls the table has failed since `arm`.
auto injected() -> std::uint64_t {
  auto& state = the_table();
  std::scoped_lock const lock{state.mutex};
  return state.injected;
}

// Arms the table for a scope.
class armed {
public:
  armed() { arm(); }
  armed(armed const&) = delete;
  auto operator=(armed const&) -> armed& = delete;
  ~armed() { disarm(); }
};

} // namespace fmmap::os::seam
