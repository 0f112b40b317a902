// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <utility>

export module fmmap.core:flush_job;

import :durability;
import :error;

export namespace fmmap {

/// A system call that a flush comes down to.
struct sync_call {
  /// Which: sync_file_range(2) that begins for `started`, and that waits for `written`; fdatasync(2) for `data`, fsync(2) for
  /// `all`, both of a part, as no system call but io_uring's lets one ask.
  durability level = durability::none;
  int descriptor = -1;
  std::uint64_t offset = 0;
  /// Bytes; 0 for all there is from `offset` on.
  std::uint64_t length = 0;
};

/// The work of a staged flush: what `flush_job` runs. Implement it to give another type a `stage_flush`.
class flush_work {
public:
  flush_work() = default;
  flush_work(flush_work const&) = delete;
  auto operator=(flush_work const&) -> flush_work& = delete;
  virtual ~flush_work() = default;

  /// Called once at most, on any thread; may block.
  [[nodiscard]] virtual auto run() -> result<durability> = 0;

  // For those who run many of them; a type of your own needs nothing of this. One thread at a time.

  /// What is flushed: flushes of one and the same are better merged, or run one after the other, than at a time. Null where
  /// that is not so.
  [[nodiscard]] virtual auto target() const noexcept -> void const*;
  /// Takes upon itself what `other` is to flush, where that costs little more; its `run` does for both then, and the other is not
  /// run. Returns whether it has. Neither has begun.
  [[nodiscard]] virtual auto absorb(flush_work const& other) noexcept -> bool;

  /// What system call is to be made next by who runs this, in its own way, such as io_uring: `call_made` is told its errno, or 0, and
  /// then this is asked again. Empty where `run` has to do the rest. Who asks need not make the call, and calls `run` instead: an
  /// engine does that by threads, and for more than 2 GiB. What these throw is thrown where the flush is awaited. Does not block.
  [[nodiscard]] virtual auto next_call() -> std::optional<sync_call>;
  virtual void call_made(int code);
  /// Whether `run` would not block any more, but say what came of it.
  [[nodiscard]] virtual auto is_over() const -> bool;
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

  /// What it is to run, for who runs it in another way; it is empty then, as after `run`. Null where it was.
  [[nodiscard]] auto take_work() noexcept -> std::unique_ptr<flush_work> { return std::move(work_); }

private:
  std::unique_ptr<flush_work> work_;
};

} // namespace fmmap
