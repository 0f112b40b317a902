// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <stop_token>

export module fmmap.async:write_behind;

import fmmap.core;
import :io_engine;
import :operation;

namespace fmmap {
class dirty_watch; // defined in src/async/write_behind.cpp
} // namespace fmmap

export namespace fmmap {

struct write_behind_options {
  /// Bytes of the file that may wait to be written.
  std::size_t dirty_budget = std::size_t{64} << 20;
  /// How often it looks how many there are.
  std::chrono::milliseconds interval{20};
};

struct write_behind_stats {
  std::uint64_t looks = 0;
  /// Bytes that were waiting to be written, or being written, at the last look.
  std::uint64_t dirty_bytes = 0;
  /// Bytes of which writing was begun; those that were stored to meanwhile, and seen again, count again.
  std::uint64_t begun_bytes = 0;
  /// Whether the system counts them (Linux 6.5). Where not, writing of all is begun at every look.
  bool dirty_known = false;
};

/// Has a file written in the background while it is changed, so that memory is not full of what waits to be written, and a flush
/// finds little left to do. It makes nothing durable: a flush does that.
///
/// Writing begins when half of the budget is dirty. Who changes much in a short time awaits `room` now and then, which bounds it. The
/// mapped file may be used, resized and closed meanwhile: what is watched is the file, until this object is destroyed.
///
/// Thread safety: all but destruction may be called from any thread. Fork: a child's watches nothing.
class write_behind {
public:
  /// What fails is told by `check`: a file that cannot be opened a second time (by /proc), an engine that is closed, a budget of 0, an
  /// interval that is not positive.
  write_behind(io_engine const& engine, mutable_mapped_file const& file, write_behind_options options = {});
  write_behind(write_behind&&) = delete;
  auto operator=(write_behind&&) -> write_behind& = delete;
  /// What has begun goes on.
  ~write_behind();

  /// Is over once no more is dirty than the budget, which it writes for.
  ///
  /// Errors: of writing; as those of all operations; `errc::closed` where nothing is watched, for the reason that `check` tells.
  [[nodiscard]] auto room(std::stop_token stop = {}) const -> operation<void>;

  /// The first error since the last call of this, one that `room` gave included; that the engine was closed meanwhile is none. A failed
  /// write is known at the next look, and the next flush of the file reports it as well. Where there is no memory for a look, that is
  /// told here, and none is made any more.
  [[nodiscard]] auto check() -> result<void>;

  [[nodiscard]] auto stats() const -> write_behind_stats;

private:
  std::shared_ptr<dirty_watch> watch_;
};

} // namespace fmmap
