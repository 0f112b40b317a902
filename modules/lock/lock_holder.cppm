// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <expected>
#include <optional>
#include <vector>

export module fmmap.lock:lock_holder;

import fmmap.core;
import :lock_mode;

export namespace fmmap {

/// A lock that somebody holds.
struct lock_holder {
  lock_mode mode = lock_mode::shared;
  byte_range range = whole;
  lock_kind kind = lock_kind::open_file_description;
  /// Who holds it, by number; empty where that cannot be seen: the process is another user's or in another namespace, or has
  /// given the descriptor to a child and ended.
  std::optional<int> process = std::nullopt;

  auto operator==(lock_holder const&) const -> bool = default;
};

/// All locks of the file at this moment, this process's included, of every kind, ordered by offset. For people and logs: when
/// it returns, it may be otherwise.
///
/// Takes the time to look at every descriptor of every process that may be looked at. Without /proc it knows of one lock
/// of all that conflict with each other, and of none of flock(2).
///
/// Errors: `errc::closed`, or what open(2) and fcntl(2) report. Source: proc_locks(5), proc_pid_fdinfo(5).
[[nodiscard]] auto who_holds(file const& of) -> result<std::vector<lock_holder>>;

} // namespace fmmap
