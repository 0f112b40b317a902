// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

export module fmmap.lock:lock_set;

import fmmap.core;
import :file_lock;
import :lock_mode;
import :wait_for;

export namespace fmmap {

/// One of several locks that are to be held together.
struct lock_request {
  /// Open for writing where the mode is exclusive.
  file const& of;
  byte_range range = whole;
  lock_mode mode = lock_mode::exclusive;
};

/// Locks that are held together, and released when the set goes.
///
/// Thread safety: exclusive use. Fork, exec, exit: as `file_lock`.
class lock_set {
public:
  lock_set() noexcept = default;

  /// Takes over locks, in the order in which they were taken.
  inline explicit lock_set(std::vector<file_lock> locks) noexcept : locks_{std::move(locks)} {}

  /// The locks, in the order in which they were taken. Requests that overlap or touch in one file may have become one lock.
  [[nodiscard]] inline auto locks() const noexcept -> std::span<file_lock const> { return locks_; }
  [[nodiscard]] inline auto empty() const noexcept -> bool { return locks_.empty(); }

  /// Releases all of them, the last taken first, and is empty then. Errors: the first that `file_lock::close` reports;
  /// others go to the handler of `set_dropped_error_handler`.
  [[nodiscard]] auto release() -> result<void>;

private:
  std::vector<file_lock> locks_;
};

/// Locks all that is asked for, or nothing. Everybody who takes locks this way takes them in one order, by device, inode and
/// offset, so no two wait for each other for ever.
///
/// Where requests overlap in one file, through whichever handles, each byte is locked once, exclusively if one of them says so.
/// `limit` is for all of them together.
///
/// Errors: `errc::lock_timed_out`, naming the file and range that could not be had, and who has it where that can be seen; as
/// `file_lock::create` and `file_lock::acquire`. Nothing is locked then.
[[nodiscard]] auto lock_all(std::span<lock_request const> requests, wait_for limit = forever) -> result<lock_set>;
[[nodiscard]] inline auto lock_all(std::initializer_list<lock_request> requests, wait_for limit = forever)
    -> result<lock_set> {
  return lock_all(std::span{requests.begin(), requests.size()}, limit);
}

} // namespace fmmap
