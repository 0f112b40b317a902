// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>
#include <filesystem>
#include <memory>
#include <memory_resource>
#include <span>
#include <string_view>

export module fmmap.pmr:mapped_resource;

import fmmap.core;
import :flushable_resource;

namespace fmmap {
class resource_state; // defined in src/pmr/state.cppm
} // namespace fmmap

export namespace fmmap {

struct resource_options {
  /// Bytes of address space to hold: the storage grows to that and no further, and never moves.
  /// A process has 128 TiB: some 2000 resources of the size here.
  std::size_t reserve = std::size_t{64} << 30;
  /// With `page_size::require_huge`, the first allocation fails where none are reserved, unless `size` asks for some at once.
  fmmap::page_size page_size = fmmap::page_size::system;
  /// Bytes of the storage at the start; it grows by itself.
  std::size_t size = 0;
  /// An object of at least so many bytes gives its memory and blocks back to the system when it is deallocated; smaller ones
  /// keep them for the next, until `trim`.
  std::size_t discard_from = std::size_t{32} << 20;
  /// Of a file that is created.
  unsigned permissions = 0600;
  /// Looks at every deallocation, and ends the program with a message when it is of an object that this resource has not
  /// allocated, has deallocated already, or has allocated with another size or alignment. A debug build of fmmap always does.
  bool checked = false;
};

/// A general memory resource over a mapping: for containers larger than memory, in a file that is paged in and out, or in
/// anonymous memory of which one wants to know where it lies.
///
/// Its contents are volatile: the books of what is allocated are in ordinary memory and end with the object. A file that is
/// opened again has bytes of no meaning.
///
/// Objects of up to 32 KiB come from slabs of their size class, by magazines that each thread has, larger ones are runs of
/// pages of 4 KiB. The storage grows by itself, in a file with blocks behind it: a full disk is an `allocation_error`, and not
/// SIGBUS later, on file systems that write in place (docs/durability.md). Any alignment that is a power of two will do.
///
/// Thread safety: `allocate` and `deallocate` may be called from any threads, of objects allocated by any other, until the
/// resource is destroyed, which it may be while threads still have magazines of it. All members may, except `release`, `close`
/// and destruction, which need exclusive use.
/// Fork: a child of a resource whose memory is its own (anonymous, copy-on-write) may go on as the parent does, with what it
/// had at the fork, unless the mapping keeps its pages from children (`advice::dont_fork`). One whose memory is the parent's too may read and write the objects; `allocate` throws `errc::forked`,
/// `deallocate` does nothing, as the parent keeps the books. Exec: gone. Exit without destruction: the file stays.
class mapped_resource final : public flushable_resource {
public:
  /// Over a file without a name on the file system of `directory`, which is gone when the resource is.
  ///
  /// Errors: as `file::temporary` and `mapping::map`; `errc::invalid_options`.
  [[nodiscard]] static auto temporary(std::filesystem::path const& directory, resource_options options = {})
      -> result<std::unique_ptr<mapped_resource>>;

  /// Over a file that must not exist yet, and that stays.
  ///
  /// Errors: as `file::create_new` and `mapping::map`; `errc::invalid_options`. A failed call leaves no file.
  [[nodiscard]] static auto create(std::filesystem::path const& path, resource_options options = {})
      -> result<std::unique_ptr<mapped_resource>>;

  /// Over a file that exists, whose bytes are storage from now on. It keeps its size, in whole pages of 4 KiB, when that is
  /// more than `options.size`. One resource at a time: two over one file hand out the same bytes, which a `file_lock` of
  /// fmmap.lock keeps from happening.
  ///
  /// Errors: as `file::open` and `mapping::map`; `errc::invalid_options`, also when it is larger than `options.reserve`.
  [[nodiscard]] static auto open(std::filesystem::path const& path, resource_options options = {})
      -> result<std::unique_ptr<mapped_resource>>;

  /// Over memory without a file. It is taken from the system as it is touched.
  ///
  /// Errors: as `mapping::anonymous`; `errc::invalid_options`.
  [[nodiscard]] static auto anonymous(resource_options options = {}) -> result<std::unique_ptr<mapped_resource>>;

  /// Over a mapping that can be written. One without a file grows within its capacity; one of a file keeps its size, and holes
  /// of it get blocks as they are allocated (from Linux 5.14 on; before, a full disk is SIGBUS there). Of `options`, only `discard_from` and `checked` have a meaning here.
  ///
  /// Errors: `errc::read_only` for a mapping that cannot be written, `errc::closed`; `errc::invalid_options` where not one page
  /// of 4 KiB lies in it. The mapping is then gone.
  [[nodiscard]] static auto over(mapping memory, resource_options options = {})
      -> result<std::unique_ptr<mapped_resource>>;

  /// Unmaps, without a sync, whatever is still allocated.
  ~mapped_resource() override;

  [[nodiscard]] auto flush(durability level = durability::all) -> result<durability> override;
  [[nodiscard]] auto flush(void const* pointer, std::size_t size, durability level = durability::data)
      -> result<durability> override;
  [[nodiscard]] auto stage_flush(durability level = durability::all) -> result<flush_job> override;
  [[nodiscard]] auto storage() const noexcept -> std::span<std::byte const> override;
  [[nodiscard]] auto stats() const -> resource_stats override;

  /// Gives the memory and blocks of free pages back to the system, the magazine of the calling thread included, and returns how
  /// many bytes that were. The storage keeps its size, and the file becomes sparse: memory and blocks come back with the next
  /// allocations.
  ///
  /// Errors: as `mapping::discard`; what was given back until then stays so. `errc::forked` and `errc::closed` as for
  /// allocating.
  [[nodiscard]] auto trim() -> result<std::size_t>;

  /// Deallocates everything at once, and keeps the storage. No destructor runs.
  ///
  /// Thread safety: needs exclusive use. Invalidates: all that has been allocated.
  void release() noexcept;

  /// As `file::rewrite`, which ends what a failed sync began: nobody may store to the storage meanwhile. Errors:
  /// `errc::not_durable` without a file.
  [[nodiscard]] auto rewrite() -> result<durability>;

  /// As it was named when opened; empty without a name.
  [[nodiscard]] auto path() const noexcept -> std::string_view;

  /// Unmaps and closes, and reports what goes wrong. Nothing is synced. What is called afterwards is `errc::closed`, and
  /// `deallocate` does nothing.
  ///
  /// Thread safety: needs exclusive use. Invalidates: all that has been allocated.
  [[nodiscard]] auto close() -> result<void>;

private:
  friend resource_state;

  explicit mapped_resource(std::unique_ptr<resource_state> state) noexcept;

  [[nodiscard]] auto do_allocate(std::size_t size, std::size_t alignment) -> void* override;
  void do_deallocate(void* pointer, std::size_t size, std::size_t alignment) override;
  [[nodiscard]] auto do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool override;

  std::unique_ptr<resource_state> state_;
};

} // namespace fmmap
