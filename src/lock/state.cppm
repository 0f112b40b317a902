// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>

// What a file_lock is: a lock of the system's, held by an open file description, and the threads of this process that have
// it. Implementation units only.
module fmmap.lock:state;

import fmmap.core;
import fmmap.os;
import :file_lock;
import :lock_mode;
import :wait_for;

namespace fmmap {

using clock = std::chrono::steady_clock;

inline constexpr auto at_once = clock::time_point::min();
inline constexpr auto never = clock::time_point::max();

// When a wait that begins now is over.
[[nodiscard]] inline auto deadline_of(wait_for limit) noexcept -> clock::time_point {
  if (limit == no_wait) {
    return at_once;
  }
  auto const now = clock::now();
  return limit.limit() >= never - now ? never : now + limit.limit();
}

// The rest of a wait that is over at `deadline`.
[[nodiscard]] inline auto time_until(clock::time_point deadline) noexcept -> wait_for {
  return deadline == at_once ? no_wait : deadline == never ? forever : wait_for{deadline - clock::now()};
}

// What ends a wait that has not had what it waits for, whichever comes first.
struct wait_end {
  clock::time_point deadline;
  std::stop_token const* stop = nullptr; // lives for longer than the wait; none where no stop can come

  [[nodiscard]] inline auto is_never() const noexcept -> bool { return deadline == never && stop == nullptr; }
  [[nodiscard]] inline auto is_stopped() const noexcept -> bool { return stop != nullptr && stop->stop_requested(); }
  [[nodiscard]] inline auto is_over() const noexcept -> bool {
    return is_stopped() || deadline == at_once || (deadline != never && clock::now() >= deadline);
  }

  // For what a stop is to call.
  [[nodiscard]] inline auto token() const noexcept -> std::stop_token {
    return stop != nullptr ? *stop : std::stop_token{};
  }
};

// An error of the system, by errno, ready to return.
[[nodiscard, gnu::cold]] inline auto failure(int code, std::string_view operation, std::string_view path,
                                             std::optional<byte_range> range = {}, std::string_view hint = {})
    -> std::unexpected<error> {
  return std::unexpected(error::make({code, std::system_category()}, operation, path, range, hint));
}

// One of fmmap itself.
[[nodiscard, gnu::cold]] inline auto failure(errc code, std::string_view operation, std::string_view path = {},
                                             std::optional<byte_range> range = {}, std::string_view hint = {})
    -> std::unexpected<error> {
  return std::unexpected(error::make(make_error_code(code), operation, path, range, hint));
}

// The bytes of a range, for the system; empty when its numbers cannot be those of a file.
[[nodiscard]] auto system_range(byte_range range) noexcept -> std::optional<os::lock_range>;

// The range for an error, where it is not all of the file.
[[nodiscard]] inline auto part_of_file(byte_range range) noexcept -> std::optional<byte_range> {
  return range == whole ? std::nullopt : std::optional{range};
}

// What to say beside a wait that was too short: who keeps `lock` from being had in this mode, where that can be seen.
[[nodiscard]] auto describe_holders(file const& of, file_lock const& lock, lock_mode mode) -> std::string;

// A number that no other thread of the process has, or has had: the system gives that of one that has ended to another.
[[nodiscard]] auto this_thread() noexcept -> std::uint64_t;

// The signal that ends waits with a limit, with its handler in place; 0 when they are to poll, EBUSY when all are taken.
[[nodiscard]] auto interrupting_signal() noexcept -> os::outcome<int>;

class lock_state {
public:
  [[nodiscard]] static auto open(file const& of, byte_range range, lock_kind kind)
      -> result<std::unique_ptr<lock_state>>;

  lock_state(lock_state const&) = delete;
  auto operator=(lock_state const&) -> lock_state& = delete;
  ~lock_state();

  // Whether it was acquired by the end of the wait. What happens nearly always is here: no more than the system call lies between a
  // caller and its lock.
  [[nodiscard]] inline auto acquire(lock_mode mode, wait_end end) -> result<bool> {
    auto const alone = mode == lock_mode::exclusive;
    std::uint32_t free = 0;
    if (!allows(mode) || !word_.compare_exchange_strong(free, changing, std::memory_order_acquire)) [[unlikely]] {
      return acquire_slowly(mode, end);
    }
    auto const owner = alone ? this_thread() : nobody;
    auto const made = make_lock(mode, false);
    if (!made) [[unlikely]] {
      return ask_system(mode, end, 0, made.error());
    }
    (void)order_->load(std::memory_order_acquire);
    owner_.store(owner, std::memory_order_relaxed);
    word_.store(alone ? exclusive : 1, std::memory_order_release); // nobody else changes the word of a moment
    return true;
  }

  // What an acquisition returns that has ended without the lock: false, or the error of one that was stopped.
  [[nodiscard, gnu::cold]] auto given_up(wait_end end) const -> result<bool>;

  [[nodiscard]] auto upgrade(wait_end end) -> result<bool>;
  [[nodiscard]] auto downgrade() -> result<void>;

  // `for_sure` lets the threads of this process have the lock also where the system does not let go of it.
  [[nodiscard]] inline auto release(bool for_sure) -> result<void> {
    auto seen = word_.load(std::memory_order_relaxed);
    if ((seen != exclusive && seen != 1) || is_forked() ||
        !word_.compare_exchange_strong(seen, changing, std::memory_order_acq_rel)) [[unlikely]] {
      return release_slowly(for_sure);
    }
    if (auto const unlocked = unlock_in_system(); !unlocked) [[unlikely]] {
      return after_release(seen, for_sure, unlocked);
    }
    owner_.store(nobody, std::memory_order_relaxed);
    word_.store(0, std::memory_order_release);
    return {};
  }

  inline void disown() noexcept { owner_.store(nobody, std::memory_order_relaxed); }

  [[nodiscard]] auto held() const noexcept -> std::optional<lock_mode>;
  [[nodiscard]] auto close() noexcept -> os::outcome<void>;
  [[nodiscard]] inline auto is_forked() const noexcept -> bool {
    return descriptor_.load(std::memory_order_relaxed) == forked;
  }

  // Whether a thread waits for another here, or did in the process that this one was forked from. What the word says of it
  // is over when threads are woken, but they have yet to go.
  [[nodiscard]] inline auto is_waited_for() const noexcept -> bool { return waiters_ != 0; }

  [[nodiscard]] inline auto kind() const noexcept -> lock_kind { return kind_; }
  [[nodiscard]] inline auto range() const noexcept -> byte_range { return range_; }
  [[nodiscard]] inline auto path() const noexcept -> std::string_view { return path_; }
  [[nodiscard]] inline auto method() const noexcept -> wait_method { return method_; }

private:
  friend class open_locks;

  // The threads that have the lock, in one word. What is set by those who wait is forgotten at a change, and set again by
  // those who have to go on waiting.
  static constexpr std::uint32_t sharers = (1U << 24) - 1;
  static constexpr std::uint32_t exclusive = 1U << 24; // one has it exclusively
  static constexpr std::uint32_t changing = 1U << 25;  // one is asking the system for a change
  static constexpr std::uint32_t waiting = 1U << 26;   // and waits there for others to let go
  static constexpr std::uint32_t parked = 1U << 27;    // some wait for the word to change
  static constexpr std::uint32_t wanted = 1U << 28;    // some of those want it exclusively: nobody is to share it anew
  static constexpr std::uint32_t upgrading = 1U << 29; // one of the sharers waits to be the last: likewise

  static constexpr os::descriptor forked = -2;

  lock_state(file const& of, byte_range range, os::lock_range bytes, lock_kind kind);

  // Whether the lock may be asked for in this mode.
  [[nodiscard]] inline auto allows(lock_mode mode) const noexcept -> bool {
    return !is_forked() && (mode == lock_mode::shared || writable_ || kind_ == lock_kind::flock);
  }

  [[nodiscard]] inline auto is_of_this_thread(std::uint32_t seen) const noexcept -> bool {
    return (seen & exclusive) != 0 && owner_.load(std::memory_order_relaxed) == this_thread();
  }

  [[nodiscard]] auto acquire_slowly(lock_mode mode, wait_end end) -> result<bool>;
  [[nodiscard]] auto ask_system(lock_mode mode, wait_end end, std::uint32_t otherwise, int refusal = 0) -> result<bool>;
  [[nodiscard]] auto wait_in_system(lock_mode mode, wait_end end) -> os::outcome<bool>;
  [[nodiscard]] auto poll_system(lock_mode mode, wait_end end) -> os::outcome<bool>;
  [[nodiscard]] auto release_slowly(bool for_sure) -> result<void>;
  [[nodiscard]] auto after_release(std::uint32_t held, bool for_sure, os::outcome<void> const& unlocked)
      -> result<void>;

  // No bytes are always free; the system would take them for all from the offset on.
  [[nodiscard]] inline auto make_lock(lock_mode mode, bool wait) const noexcept -> os::outcome<void> {
    if (range_.length == 0) [[unlikely]] {
      return {};
    }
    auto const descriptor = descriptor_.load(std::memory_order_relaxed);
    auto const wanted_mode = mode == lock_mode::exclusive ? os::locking::exclusive : os::locking::shared;
    return kind_ == lock_kind::flock ? os::lock_file(descriptor, wanted_mode, wait)
                                     : os::lock_bytes(descriptor, wanted_mode, bytes_, wait);
  }
  [[nodiscard]] inline auto unlock_in_system() const noexcept -> os::outcome<void> {
    if (range_.length == 0) [[unlikely]] {
      return {};
    }
    order_->fetch_add(1, std::memory_order_release);
    auto const descriptor = descriptor_.load(std::memory_order_relaxed);
    return os::retry(
        [&] { return kind_ == lock_kind::flock ? os::unlock_file(descriptor) : os::unlock_bytes(descriptor, bytes_); });
  }

  [[nodiscard]] auto is_contention(int code) const noexcept -> bool;

  enum class change : unsigned char { seen, too_late };
  [[nodiscard]] auto wait_for_change(std::uint32_t seen, std::uint32_t wish, wait_end end) -> change;
  void settle(std::uint32_t now) noexcept;
  void settle_free() noexcept;
  void withdraw(std::uint32_t wish) noexcept;
  void announce_wait() noexcept;
  void wake() noexcept;

  [[nodiscard, gnu::cold]] auto fail(int code, std::string_view operation, std::string_view hint = {}) const
      -> std::unexpected<error>;
  [[nodiscard, gnu::cold]] auto fail(errc code, std::string_view operation, std::string_view hint = {}) const
      -> std::unexpected<error>;

  std::atomic<std::uint32_t> word_{0};
  static constexpr std::uint64_t nobody = 0;
  std::atomic<std::uint64_t> owner_{nobody}; // the thread that has it exclusively
  std::atomic<os::descriptor> descriptor_{os::no_descriptor};
  lock_kind kind_;
  bool writable_;
  std::atomic<wait_method> method_{wait_method::kernel};
  byte_range range_;
  os::lock_range bytes_;
  std::atomic<std::uint64_t>* order_; // what is ordered by this lock, and by others of the same file
  std::string path_;

  std::mutex mutex_; // of the three below
  std::condition_variable changed_;
  std::uint64_t changes_ = 0;
  std::atomic<std::uint32_t> waiters_{0}; // and read without it when all is over

  lock_state* next_ = nullptr; // of all open locks
  lock_state** link_ = nullptr;
};

} // namespace fmmap
