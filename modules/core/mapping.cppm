// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

export module fmmap.core:mapping;

import :counted;
import :durability;
import :error;
import :file;
import :flush_job;
import :range;

namespace fmmap {
struct flush_request; // defined in src/core/state.cppm
} // namespace fmmap

export namespace fmmap {

/// Which pages a mapping is made of.
enum class page_size : unsigned char {
  system,
  /// Huge pages where the system will; never an error.
  prefer_huge,
  /// Reserved huge pages (hugetlb), or an error.
  require_huge,
};

struct map_options {
  fmmap::access access = fmmap::access::read_only;
  /// The bytes can be executed; not together with an access that writes.
  bool executable = false;
  /// Of the file. Must lie within it.
  byte_range range = whole;
  /// Bytes of address space to hold from the start of the range on, so that the mapping can grow without moving.
  std::size_t reserve = 0;
  /// Brings the pages in before the call returns.
  bool populate = false;
  fmmap::page_size page_size = fmmap::page_size::system;
  /// Does not count copy-on-write pages against the system's memory limit in advance.
  bool no_reserve = false;
  /// Where the first byte is to be, exactly; page-aligned as the range's start is. Never over another mapping.
  std::byte* address = nullptr;
};

struct anonymous_options {
  /// Shared with processes forked later. What one of them adds by growing after that is its own.
  bool shared = false;
  /// For a thread's stack: the system puts no huge page there.
  bool stack = false;
  std::size_t reserve = 0;
  bool populate = false;
  fmmap::page_size page_size = fmmap::page_size::system;
  bool no_reserve = false;
  std::byte* address = nullptr;
};

/// What a program tells the system about how it will use memory. None of it changes a byte.
enum class advice : unsigned char {
  normal,
  sequential,
  random,
  will_need,      ///< starts reading ahead
  dont_need,      ///< shared file mappings only: the pages may go, the file keeps the bytes
  cold,           ///< first to go when memory is short
  page_out,       ///< go now
  populate_read,  ///< brings pages in for reading before the call returns
  populate_write, ///< brings pages in for writing; no space for them is an error instead of SIGBUS later
  huge_page,
  no_huge_page,
  collapse,     ///< into huge pages, now
  dont_fork,    ///< children have not the memory: they may close or destroy the mapping, and nothing else
  do_fork,      ///< ends dont_fork
  wipe_on_fork, ///< reads as zero in children; private anonymous memory only
  keep_on_fork, ///< ends wipe_on_fork
  dont_dump,
  do_dump,
  mergeable,
  unmergeable,
};

[[nodiscard]] auto to_string(advice a) noexcept -> std::string_view;

/// Memory that is in use, of a range of a mapping, in bytes.
struct residency_info {
  /// In memory.
  std::uint64_t resident_bytes = 0;
  /// In the file's page cache and not yet written to the file; 0 without a file.
  std::uint64_t dirty_bytes = 0;
  /// Being written to the file at this moment.
  std::uint64_t writeback_bytes = 0;
  /// Whether the system can tell the latter two (Linux 6.5).
  bool dirty_known = false;
};

struct lock_options {
  /// Locks pages when they are first touched, instead of bringing all of them in.
  bool on_fault = false;
};

/// Keeps a range of a mapping in memory until it goes. Overlapping locks may be released in any order.
///
/// Fork: holds nothing in the child, which may lock anew. Exec, exit: holds nothing any more. Source: mlock(2).
class [[nodiscard]] memory_lock {
public:
  inline memory_lock(memory_lock&& other) noexcept
      : region_{std::move(other.region_)},
        begin_{std::exchange(other.begin_, nullptr)},
        length_{std::exchange(other.length_, 0)} {}
  auto operator=(memory_lock&& other) noexcept -> memory_lock&;
  ~memory_lock();

  /// The bytes of the pages held.
  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return {begin_, length_}; }

private:
  friend class mapping;
  inline memory_lock(counted<region> memory, std::byte* begin, std::size_t length) noexcept
      : region_{std::move(memory)}, begin_{begin}, length_{length} {}
  void unlock() noexcept;

  counted<region> region_;
  std::byte* begin_;
  std::size_t length_;
};

/// A part of a mapping that keeps the memory mapped, also when the mapping itself is gone. Copies share it.
///
/// Fork: the child has the bytes as it has the mapping's, and its copies keep the memory in the child only. Exec: gone.
class shared_bytes {
public:
  shared_bytes() noexcept = default;
  shared_bytes(shared_bytes const& other) noexcept = default;
  inline shared_bytes(shared_bytes&& other) noexcept
      : region_{std::move(other.region_)}, bytes_{std::exchange(other.bytes_, {})} {}
  inline auto operator=(shared_bytes other) noexcept -> shared_bytes& {
    std::swap(region_, other.region_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~shared_bytes() = default;

  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return bytes_; }

private:
  friend class mapping;
  inline shared_bytes(counted<region> memory, std::span<std::byte const> bytes) noexcept
      : region_{std::move(memory)}, bytes_{bytes} {}

  counted<region> region_;
  std::span<std::byte const> bytes_;
};

/// A range of a file, or memory without a file, in the address space.
///
/// Spans of its bytes stay valid, at the same address, until one of these happens: the mapping is closed, destroyed or
/// assigned to (and no `shared_bytes` keeps it); `resize` cuts them off; `reserve` moves it. Nothing else moves
/// or ends them; moving the `mapping` object does not.
///
/// Reading or writing bytes that another process has cut off the file raises SIGBUS.
///
/// Thread safety: const members may be called from several threads at once; others need exclusive use of the object.
/// Concurrent access to the bytes is the program's to order, as with any memory.
/// Fork: the child has the mapping: the same bytes of a file, or of memory made `shared`; a copy of changed pages of a
/// copy-on-write mapping, and of other memory; what `advice::dont_fork` and `wipe_on_fork` say. Size, protection and advice are
/// each one's own from then on. Exec: gone. Exit: nothing is synced; what was written to a shared file mapping is in the file's
/// page cache. All of it is in docs/processes.md.
class mapping {
public:
  /// Maps `options.range` of `from`. An empty range or file gives an empty mapping.
  ///
  /// The mapping keeps the open file description: `from` may be closed afterwards.
  ///
  /// Errors: `errc::not_a_regular_file`, unless it is a device; `errc::out_of_range` when the range is not within it;
  /// `errc::read_only` for `access::read_write` of a file opened for reading; `errc::writable_and_executable`;
  /// `errc::invalid_options`; `errc::address_in_use`; or what mmap(2) reports.
  [[nodiscard]] static auto map(file const& from, map_options options = {}) -> result<mapping>;

  /// Maps `size` zero bytes that belong to no file.
  ///
  /// Errors: `errc::invalid_options`, `errc::address_in_use`, or what mmap(2) reports.
  [[nodiscard]] static auto anonymous(std::size_t size, anonymous_options options = {}) -> result<mapping>;

  /// An empty mapping of nothing, as is one that was moved from or closed.
  mapping() noexcept = default;
  inline mapping(mapping&& other) noexcept
      : region_{std::move(other.region_)},
        file_{std::move(other.file_)},
        data_{std::exchange(other.data_, nullptr)},
        size_{std::exchange(other.size_, 0)},
        capacity_{std::exchange(other.capacity_, 0)},
        offset_{other.offset_},
        access_{other.access_},
        pages_{other.pages_},
        executable_{other.executable_},
        private_{other.private_},
        open_{std::exchange(other.open_, false)} {}
  auto operator=(mapping&& other) noexcept -> mapping&;
  ~mapping() = default;

  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return {data_, size_}; }

  /// Empty unless the access is one that writes.
  [[nodiscard]] inline auto writable_bytes() noexcept -> std::span<std::byte> {
    return access_ == fmmap::access::read_only ? std::span<std::byte>{} : std::span{data_, size_};
  }

  [[nodiscard]] inline auto size() const noexcept -> std::size_t { return size_; }
  [[nodiscard]] inline auto empty() const noexcept -> bool { return size_ == 0; }

  /// How large the mapping can become without moving, in bytes.
  [[nodiscard]] inline auto capacity() const noexcept -> std::size_t { return capacity_; }

  /// Where the first byte lies in the file.
  [[nodiscard]] inline auto file_offset() const noexcept -> std::uint64_t { return offset_; }

  [[nodiscard]] inline auto access() const noexcept -> fmmap::access { return access_; }
  [[nodiscard]] inline auto is_executable() const noexcept -> bool { return executable_; }

  /// Whether it is of memory without a file.
  [[nodiscard]] inline auto is_anonymous() const noexcept -> bool { return open_ && !file_; }

  /// Whether what is stored stays in this process: copy-on-write, or memory that was not to be `shared`.
  [[nodiscard]] inline auto is_private() const noexcept -> bool { return open_ && private_; }

  /// Whether there is memory or a file behind the object: false when closed or moved from.
  [[nodiscard]] inline auto is_open() const noexcept -> bool { return open_; }

  /// Makes the mapping `size` bytes long without moving it. To become longer, the file must already reach that far.
  ///
  /// Errors: `errc::reservation_exceeded` past `capacity`; `errc::out_of_range` past the file's end; of memory without a
  /// file `errc::read_only`, and `errc::in_use` when a `shared_bytes` or `memory_lock` would be cut off; nothing has
  /// changed.
  /// Invalidates: spans that reach past `size`.
  [[nodiscard]] auto resize(std::size_t size) -> result<void>;

  /// Holds address space for `capacity` bytes, moving the mapping where it must. Its bytes stay as they are, and what
  /// was said of them by `advise` goes on.
  ///
  /// Errors: `errc::copy_on_write` when private pages of a file would have to move; `errc::in_use` while a `memory_lock`
  /// holds them, or a `shared_bytes` memory without a file; what mmap(2) reports; nothing has changed.
  /// Invalidates: every span, when `bytes().data()` changes.
  [[nodiscard]] auto reserve(std::size_t capacity) -> result<void>;

  /// Changes what may be done with the bytes; never to both writing and executing.
  ///
  /// Errors: `errc::read_only`, `errc::copy_on_write` (a private mapping cannot become one that reaches the file),
  /// `errc::invalid_options`, `errc::writable_and_executable`, or what mprotect(2) reports; the access is then as before.
  [[nodiscard]] auto protect(fmmap::access access, bool executable = false) -> result<void>;

  /// Tells the system how the bytes of `range` will be used, in whole pages around it.
  ///
  /// Errors: `errc::out_of_range`; `errc::destructive_advice`; what madvise(2) reports, advice it does not know included.
  [[nodiscard]] auto advise(advice what, byte_range range = whole) const -> result<void>;

  /// Throws the content of the whole pages inside `range` away and gives their memory and blocks back.
  ///
  /// They read as zero afterwards, in the file too; those of a copy-on-write mapping read as the file does. `protect`, which
  /// is against stray stores, does not keep it from that.
  ///
  /// Errors: `errc::out_of_range`; `errc::read_only` when the file was opened for reading; what the system reports, as it does
  /// of shared memory without a file that is protected.
  [[nodiscard]] auto discard(byte_range range) -> result<void>;

  /// Keeps the pages around `range` in memory as long as the returned object lives.
  ///
  /// Errors: `errc::out_of_range`; what mlock(2) reports, naming RLIMIT_MEMLOCK and its value. No page is then locked.
  [[nodiscard]] auto lock_memory(byte_range range = whole, lock_options options = {}) const -> result<memory_lock>;

  /// Counts the memory in use by the pages around `range`.
  [[nodiscard]] auto residency(byte_range range = whole) const -> result<residency_info>;

  /// Brings the bytes of `range` to at least `level` and returns the level reached. Blocks until done.
  ///
  /// Errors: as `file::sync`, sticky likewise; `errc::out_of_range`; `errc::copy_on_write`; `errc::not_durable` without a file.
  [[nodiscard]] auto flush(byte_range range = whole, durability level = durability::data) const -> result<durability>;

  /// Prepares a flush that runs later, on any thread, whatever becomes of this object meanwhile. Errors: as `flush`, before
  /// anything is written.
  [[nodiscard]] auto stage_flush(byte_range range = whole, durability level = durability::data) const
      -> result<flush_job>;

  /// Writes the pages around `range` again and syncs them, and with that ends what a failed sync began, as far as they go.
  ///
  /// Bytes keep their values, and other threads may go on writing them. Holes get blocks.
  ///
  /// Errors: as `flush`; `errc::read_only`; `std::errc::io_error` where memory alone has the bytes all the same, and only
  /// `file::rewrite` helps (docs/durability.md).
  [[nodiscard]] auto rewrite(byte_range range = whole) -> result<durability>;

  /// A part that keeps the memory mapped on its own. Errors: `errc::out_of_range`.
  [[nodiscard]] auto share(byte_range range = whole) const -> result<shared_bytes>;

  /// The bytes of `range`. Errors: `errc::out_of_range`.
  [[nodiscard]] auto bytes(byte_range range) const -> result<std::span<std::byte const>>;

  /// Unmaps, and reports what munmap(2) and close(2) do. Nothing is synced.
  [[nodiscard]] auto close() -> result<void>;

private:
  friend handle_access;

  [[nodiscard]] auto resize_anonymous(std::size_t size) -> result<void>;
  [[nodiscard]] auto reserve_anonymous(std::size_t capacity) -> result<void>;
  [[nodiscard]] auto prepare_flush(byte_range range, durability level) const -> result<flush_request>;

  counted<region> region_;
  counted<open_file> file_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  std::uint64_t offset_ = 0;
  fmmap::access access_ = fmmap::access::read_only;
  fmmap::page_size pages_ = fmmap::page_size::system;
  bool executable_ = false;
  bool private_ = false;
  bool open_ = false;
};

} // namespace fmmap
