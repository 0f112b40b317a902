// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <chrono>
#include <concepts>
#include <expected>
#include <memory>
#include <optional>
#include <ratio>
#include <stop_token>
#include <string_view>
#include <utility>

export module fmmap.lock:file_lock;

import fmmap.core;
import :lock_mode;
import :wait_for;

namespace fmmap {

class lock_state; // defined in src/lock/state.cppm

struct lock_state_deleter {
  void operator()(lock_state* state) const noexcept;
};

} // namespace fmmap

export namespace fmmap {

/// A lock of a file, or of a range of its bytes, between processes, between objects of one process, and between threads that
/// share an object: `std::shared_timed_mutex` for files. A standard SharedTimedLockable, so `std::unique_lock`,
/// `std::shared_lock` and `std::scoped_lock` take it; and the same with errors as values.
///
/// Advisory: it keeps out who asks for a lock, and nobody else. It has an open file description of its own, so that nothing
/// that happens to other descriptors or mappings of the file lets go of it. It is of the file, not of its name: a file that
/// was renamed or removed stays locked; `open_locked` is for names.
///
/// Who waits is woken in the system's order, but a thread that asks at the right moment may come before (barging). Of threads
/// that share one object, those that want it exclusively come before those that want it shared. Exclusive ownership is of
/// the thread that has acquired it: acquiring again there, other than without waiting, is
/// `std::errc::resource_deadlock_would_occur`. Two objects of one thread, and two processes, can wait for each other for
/// ever: `lock_all` takes several in one order. A thread that has a share and asks for more than it, other than by an upgrade,
/// waits for itself, unnoticed.
///
/// Only contention is false. What else keeps a lock from being had is an error: `std::errc::no_lock_available`,
/// `std::errc::function_not_supported` and what fcntl(2) and flock(2) report; `errc::closed`, `errc::forked`; and
/// `errc::read_only` for an exclusive lock through a file that is open for reading only.
///
/// Thread safety: all but moves, destruction and `close` may be called from several threads at once. Fork: the child's object
/// is `errc::forked`, holds nothing, and may be destroyed; the parent's lock ends with the parent, whatever its children do.
/// Not so after a clone(2) or vfork(2) of one's own, which run no handlers of pthread_atfork(3): until it executes, that child
/// keeps a lock of a parent that has ended. Exec and exit: released, as when the process is killed. Cancellation: a wait is no
/// cancellation point. More in docs/locks.md.
class file_lock {
public:
  /// Makes a lock of `range` of the file, which nobody holds yet. The range may reach past the end, and an empty one is
  /// always free. The file may be closed afterwards.
  ///
  /// Errors: `errc::closed`; `errc::out_of_range` for a range past 2^63; `errc::invalid_options` for `flock` of a part of a file
  /// and for `lock_kind::process`; what open(2) reports of opening the file once more, which takes the same permissions.
  [[nodiscard]] static auto create(file const& of, byte_range range = whole,
                                   lock_kind kind = lock_kind::open_file_description) -> result<file_lock>;
  /// The same of the file of a mapped file.
  template <class Mapped>
    requires requires(Mapped const& of) {
      { of.as_file() } -> std::same_as<file const&>;
    }
  [[nodiscard]] static auto create(Mapped const& of, byte_range range = whole,
                                   lock_kind kind = lock_kind::open_file_description) -> result<file_lock> {
    return create(of.as_file(), range, kind);
  }

  /// A handle to nothing, as is one that was moved from or closed: what is called on it is `errc::closed`.
  file_lock() noexcept = default;
  file_lock(file_lock&& other) noexcept = default;
  auto operator=(file_lock&& other) noexcept -> file_lock& = default;

  /// Releases what is held.
  ~file_lock() = default;

  /// Waits until the lock is held. Errors: as above.
  [[nodiscard]] auto acquire(lock_mode mode) -> result<void>;

  /// Whether the lock could be had at once. False also while another thread waits in the system for the same object.
  [[nodiscard]] auto try_acquire(lock_mode mode) -> result<bool>;

  /// Waits for at most `limit`. Never false before that, in the time of the steady clock.
  [[nodiscard]] auto acquire_for(lock_mode mode, wait_for limit) -> result<bool>;

  /// The same, for as long as no stop is requested; `forever` for no other limit. True when the lock was had, a stop that
  /// came later or in the same moment notwithstanding, and false when the limit passed without one.
  ///
  /// A stop ends the wait at once where it is made in the system or for other threads of this object, and within about a
  /// millisecond where it polls (see `method`). Whoever requests it does not wait: it costs them a system call for each
  /// wait that it ends. The thread's later system calls are not interrupted. A wait without a limit takes the signal here, too
  /// (see `set_lock_signal`); with a token that no stop can come by, it is that of the function above.
  ///
  /// Errors: `std::errc::operation_canceled` when a stop was requested before the lock was had: nothing is held. Where it was
  /// requested before the call, nothing is asked of the system, not even for a lock that is free. Otherwise as above.
  /// Thread safety: stops may be requested on any thread, at any time, also while this ends. In a forked child, a stop of a
  /// wait of its parent's does nothing. Source: timer_settime(2).
  [[nodiscard]] auto acquire_for(lock_mode mode, wait_for limit, std::stop_token stop) -> result<bool>;

  /// Waits until `when` at most, by its clock, which may be set meanwhile.
  template <class Clock, class Duration>
  [[nodiscard]] auto acquire_until(lock_mode mode, std::chrono::time_point<Clock, Duration> const& when)
      -> result<bool> {
    return until<Clock>(when, [&](wait_for limit) { return acquire_for(mode, limit); });
  }

  /// Makes a shared lock exclusive, if nobody else holds it, in one step. When false, or an error, it is still shared.
  ///
  /// Errors: `errc::lock_not_held`; `std::errc::operation_not_supported` for `flock`, which would let go of the lock first.
  [[nodiscard]] auto try_upgrade() -> result<bool>;

  /// The same, waiting for others to go. Of two threads that upgrade one object, the second is told false at once, for they
  /// would wait for each other; of two processes that do, each waits until its limit.
  [[nodiscard]] auto upgrade_for(wait_for limit) -> result<bool>;

  /// Makes an exclusive lock shared in one step. Errors: `errc::lock_not_held`, and what the system reports; the lock is then
  /// as it was. That of flock(2) is lost where the system says that somebody else has it: Linux never does on a disk of its own.
  [[nodiscard]] auto downgrade() -> result<void>;

  /// Releases the exclusive lock, or one share of a shared one. May be called on another thread than the one that acquired it.
  ///
  /// Errors: `errc::lock_not_held`, and what the system reports; it is then still held.
  [[nodiscard]] auto release() -> result<void>;

  /// Makes an exclusive lock one of no thread's: whoever asks for it waits, also on the thread that has acquired it. For a lock
  /// that is handed on, as between coroutines.
  void disown() noexcept;

  /// The mode in which the process holds the lock through this object.
  [[nodiscard]] auto held() const noexcept -> std::optional<lock_mode>;

  [[nodiscard]] inline auto is_open() const noexcept -> bool { return static_cast<bool>(state_); }
  [[nodiscard]] auto kind() const noexcept -> lock_kind;
  [[nodiscard]] auto range() const noexcept -> byte_range;

  /// The file as its handle called it; empty for one without a name.
  [[nodiscard]] auto path() const noexcept -> std::string_view;

  /// How the latest wait with a limit or a stop was made in the system's stead; see `set_lock_signal`. Why one had to poll goes to the
  /// handler of `set_dropped_error_handler`.
  [[nodiscard]] auto method() const noexcept -> wait_method;

  /// Releases what is held, and closes, in a forked child too. Errors: what close(2) reports; it is closed all the same.
  [[nodiscard]] auto close() -> result<void>;

  /// What the standard's wrappers call. These throw `system_error` for errors.
  inline void lock() { or_throw(acquire(lock_mode::exclusive)); }
  inline void lock_shared() { or_throw(acquire(lock_mode::shared)); }
  [[nodiscard]] inline auto try_lock() -> bool { return or_throw(try_acquire(lock_mode::exclusive)); }
  [[nodiscard]] inline auto try_lock_shared() -> bool { return or_throw(try_acquire(lock_mode::shared)); }
  [[nodiscard]] inline auto try_lock_for(wait_for limit) -> bool {
    return or_throw(acquire_for(lock_mode::exclusive, limit));
  }
  [[nodiscard]] inline auto try_lock_shared_for(wait_for limit) -> bool {
    return or_throw(acquire_for(lock_mode::shared, limit));
  }
  template <class Clock, class Duration>
  [[nodiscard]] auto try_lock_until(std::chrono::time_point<Clock, Duration> const& when) -> bool {
    return or_throw(acquire_until(lock_mode::exclusive, when));
  }
  template <class Clock, class Duration>
  [[nodiscard]] auto try_lock_shared_until(std::chrono::time_point<Clock, Duration> const& when) -> bool {
    return or_throw(acquire_until(lock_mode::shared, when));
  }

  /// As `release`, for what cannot report: what goes wrong goes to the handler of `set_dropped_error_handler`. In a forked
  /// child nothing is held, and nothing is wrong.
  void unlock() noexcept;
  inline void unlock_shared() noexcept { unlock(); }

private:
  using owned_state = std::unique_ptr<lock_state, lock_state_deleter>;

  inline explicit file_lock(owned_state state) noexcept : state_{std::move(state)} {}

  // A clock may be set back while a wait goes on, and the wait then has to go on too. The integers of time points overflow
  // where they are far apart.
  template <class Clock, class Duration, class Wait>
  static auto until(std::chrono::time_point<Clock, Duration> const& when, Wait wait) -> result<bool> {
    using exact = std::chrono::duration<long double, std::nano>;
    for (bool waited = false;; waited = true) {
      auto const left = exact{when.time_since_epoch()} - exact{Clock::now().time_since_epoch()};
      if (!(left > exact::zero())) { // not a number, too
        return waited ? result<bool>{false} : wait(no_wait);
      }
      auto got = wait(wait_for{left});
      if (!got || *got) {
        return got;
      }
    }
  }

  owned_state state_;
};

} // namespace fmmap
