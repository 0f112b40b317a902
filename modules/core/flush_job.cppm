// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <expected>
#include <memory>

export module fmmap.core:flush_job;

import :durability;
import :error;

export namespace fmmap {

/// The work of a staged flush: what `flush_job` runs. Implement it to give another type a `stage_flush`.
class flush_work {
public:
  flush_work() = default;
  flush_work(flush_work const&) = delete;
  auto operator=(flush_work const&) -> flush_work& = delete;
  virtual ~flush_work() = default;

  /// Called once at most, on any thread; may block.
  [[nodiscard]] virtual auto run() -> result<durability> = 0;
};

/// A flush that has been staged and not run.
///
/// It owns what it needs: the object it came from may be used, resized, closed or destroyed meanwhile. Dropped unrun, it
/// is as if it had never been staged.
///
/// Thread safety: one thread at a time; it may be moved to another.
/// Fork: parent and child may each run theirs, once. Exec, exit: dropped unrun.
class [[nodiscard]] flush_job {
public:
  explicit flush_job(std::unique_ptr<flush_work> work) noexcept;
  flush_job(flush_job&& other) noexcept;
  auto operator=(flush_job&& other) noexcept -> flush_job&;
  ~flush_job();

  /// Flushes, blocking until done, and returns the level reached. Errors: as the `flush` it stands for; `errc::already_run`.
  [[nodiscard]] auto run() -> result<durability>;

private:
  std::unique_ptr<flush_work> work_;
};

} // namespace fmmap
