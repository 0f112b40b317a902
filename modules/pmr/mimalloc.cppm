// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>
#include <filesystem>
#include <memory>
#include <memory_resource>
#include <span>

export module fmmap.pmr.mimalloc;

import fmmap.core;
import fmmap.pmr;

namespace fmmap {
class mimalloc_arena; // defined in src/pmr/mimalloc.cpp
} // namespace fmmap

export namespace fmmap {

struct mimalloc_options {
  /// Takes neither disk blocks nor memory in advance. A full disk is then SIGBUS where a page is first written to, and a
  /// machine without memory ends a process.
  bool no_reserve = false;
};

/// A memory resource whose allocator is mimalloc, and whose memory is a mapping that belongs to it alone.
///
/// For one process and as long as the resource lives: mimalloc's own books lie in and beside the memory, and nobody can go
/// on from them. A flush brings the bytes of the objects to the file.
///
/// Linking it replaces malloc and operator new of the whole program by mimalloc's where mimalloc is built that way, as
/// Debian's is. All limits below are in docs/mimalloc.md.
///
/// Thread safety: any thread may do anything but destroy the resource while others use it. With mimalloc 2, whose heaps are
/// for one thread, each resource has a lock, and a thread of its own that sleeps and is kept for the next resource.
/// Fork: memory without a file is a copy, with which the child goes on. That of a file is the parent's: allocating is
/// `errc::forked` in the child, and deallocating and destroying leave it alone. With mimalloc 3 the child's is a copy too, and
/// fork(2) harms the parent where other threads have used it (docs/mimalloc.md). Exec: gone. Exit without destruction: nothing
/// is synced; the file has the bytes.
class mimalloc_resource final : public flushable_resource {
public:
  /// Over `size` bytes of memory that belong to no file, rounded up to whole 64 MiB.
  ///
  /// Errors: `std::errc::invalid_argument` below 64 MiB, or above 16 GiB with mimalloc 3;
  /// `std::errc::resource_unavailable_try_again` when all arenas of the process are in use, 64 of them with mimalloc 2 and 160
  /// with 3, or when there can be no more threads; `std::errc::not_enough_memory`, or what mmap(2) reports.
  [[nodiscard]] static auto anonymous(std::size_t size, mimalloc_options options = {})
      -> result<std::unique_ptr<mimalloc_resource>>;

  /// Over a file without a name on the file system of `directory`, gone with the resource.
  ///
  /// Errors: as `over`, and as `file::temporary`.
  [[nodiscard]] static auto temporary(std::filesystem::path const& directory, std::size_t size,
                                      mimalloc_options options = {}) -> result<std::unique_ptr<mimalloc_resource>>;

  /// Over `storage`, an empty file open for writing, which becomes `size` bytes long, rounded up to whole 64 MiB.
  ///
  /// Errors: as `anonymous`; `std::errc::invalid_argument` when the file is not empty; `errc::closed`, `errc::read_only`;
  /// `std::errc::no_space_on_device` and what else `file::allocate` reports. The file is then empty as before.
  [[nodiscard]] static auto over(file storage, std::size_t size, mimalloc_options options = {})
      -> result<std::unique_ptr<mimalloc_resource>>;

  /// Ends the objects' memory without destroying the objects. Blocks need not have been deallocated.
  ~mimalloc_resource() override;

  [[nodiscard]] auto flush(durability level = durability::all) -> result<durability> override;
  [[nodiscard]] auto flush(void const* pointer, std::size_t size, durability level = durability::data)
      -> result<durability> override;
  [[nodiscard]] auto stage_flush(durability level = durability::all) -> result<flush_job> override;

  /// All of the memory, which does not grow.
  [[nodiscard]] auto storage() const noexcept -> std::span<std::byte const> override;

  /// What mimalloc tells nobody is left out: `used_bytes` and `peak_bytes` are of the objects as they were asked for, without
  /// what lies between them, `free_bytes` is the rest, and `largest_free` is 0.
  [[nodiscard]] auto stats() const -> resource_stats override;

private:
  explicit mimalloc_resource(std::unique_ptr<mimalloc_arena> arena) noexcept;

  [[nodiscard]] static auto make(file storage, std::size_t size, mimalloc_options options)
      -> result<std::unique_ptr<mimalloc_resource>>;

  /// Throws `allocation_error`: `errc::reservation_exceeded` when the arena has no room, an object that none could have or an
  /// alignment above 16 MiB included; `errc::forked`.
  [[nodiscard]] auto do_allocate(std::size_t bytes, std::size_t alignment) -> void* override;
  void do_deallocate(void* pointer, std::size_t bytes, std::size_t alignment) override;
  [[nodiscard]] auto do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool override;

  std::unique_ptr<mimalloc_arena> arena_;
};

/// mimalloc as `std::pmr::new_delete_resource` is operator new: its ordinary heap, by any thread, for as long as the process
/// lives. To be put under the pools and monotonic buffers of std::pmr, or to be the default resource.
///
/// Where it cannot allocate it throws `allocation_error` with `std::errc::not_enough_memory`.
/// Thread safety: may be used from any thread. Fork: as malloc.
[[nodiscard]] auto mimalloc_upstream_resource() noexcept -> std::pmr::memory_resource*;

} // namespace fmmap
