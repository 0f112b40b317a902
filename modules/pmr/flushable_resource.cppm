// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>
#include <memory_resource>
#include <span>

export module fmmap.pmr:flushable_resource;

import fmmap.core;

export namespace fmmap {

/// What a resource has in use, in bytes. With several threads at work, the numbers are of moments close to each other.
struct resource_stats {
  /// Of the storage: the pages that hold objects or are kept for the next ones of their size.
  std::size_t used_bytes = 0;
  /// Of the storage: the other pages. What is allocated comes from them before the storage grows.
  std::size_t free_bytes = 0;
  /// The longest run of free pages.
  std::size_t largest_free = 0;
  /// Address space: how large the storage can become.
  std::size_t reserved_bytes = 0;
  /// The most that `used_bytes` has ever been.
  std::size_t peak_bytes = 0;
};

/// A memory resource whose memory is a mapping, with explicit points at which its bytes are made durable.
///
/// Nothing is synced but by `flush` and what `stage_flush` prepares. What a flush brings to the disk are bytes: whether they
/// mean anything to the next process is for the derived class to say.
///
/// Where it cannot allocate it throws `allocation_error`.
class flushable_resource : public std::pmr::memory_resource {
public:
  flushable_resource(flushable_resource const&) = delete;
  auto operator=(flushable_resource const&) -> flushable_resource& = delete;
  ~flushable_resource() override = default;

  /// Brings all bytes to at least `level`, the strongest unless told, and returns the level reached. Blocks until done.
  ///
  /// Errors: `errc::not_durable` without a file; or as `mapping::flush`, sticky likewise.
  /// Thread safety: may be called while other threads allocate and write; what they write meanwhile may or may not be in it.
  [[nodiscard]] virtual auto flush(durability level = durability::all) -> result<durability> = 0;

  /// Brings the `size` bytes at `pointer` to at least `level` and returns the level reached. Blocks until done.
  ///
  /// Errors: as the other `flush`; `errc::out_of_range` when they are not bytes of the storage. No bytes are of any.
  /// Thread safety: as the other `flush`.
  [[nodiscard]] virtual auto flush(void const* pointer, std::size_t size, durability level = durability::data)
      -> result<durability> = 0;

  /// Prepares a flush of all bytes that runs later, on any thread, whatever becomes of the resource meanwhile. Errors: as
  /// `flush`, before anything is written.
  [[nodiscard]] virtual auto stage_flush(durability level = durability::all) -> result<flush_job> = 0;

  /// The memory that allocations lie in. It may grow, at the same address, with any allocation.
  [[nodiscard]] virtual auto storage() const noexcept -> std::span<std::byte const> = 0;

  /// Thread safety: may be called from any thread.
  [[nodiscard]] virtual auto stats() const -> resource_stats = 0;

protected:
  flushable_resource() noexcept = default;
};

} // namespace fmmap
