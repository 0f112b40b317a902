// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

export module fmmap.core:mutable_mapped_file;

import :durability;
import :error;
import :file;
import :flush_job;
import :mapping;
import :range;

export namespace fmmap {

struct write_options {
  /// Bytes a file that is created or empty is given; an existing file with content keeps its size.
  std::uint64_t size = 0;
  /// Bytes of address space to hold, so that the file can grow that far without moving.
  std::size_t reserve = 0;
  /// Whether growing past the reserve may move the mapping; else it is `errc::reservation_exceeded`.
  bool may_move = true;
  unsigned permissions = 0600;
  bool populate = false;
  fmmap::page_size page_size = fmmap::page_size::system;
  fmmap::symlinks symlinks = fmmap::symlinks::follow;
  /// Makes the name of a created file durable.
  bool sync_directory = false;
};

/// A file, mapped for reading and writing, that can grow.
///
/// One object at a time may change a file's size: another process that does so meanwhile is not noticed.
///
/// Spans of its bytes stay valid, at the same address, until one of these happens: `close`, destruction or assignment;
/// a `resize` or `append` past the reservation, or `reserve`, which may move the mapping; a `resize` that cuts them off.
///
/// Thread safety, fork, exec, exit: as `mapping`.
class mutable_mapped_file {
public:
  /// Creates a file that must not exist yet.
  ///
  /// Errors: `std::errc::file_exists`, `std::errc::no_space_on_device`, or as `file::create_new` and `mapping::map`. A
  /// failed call leaves no file.
  [[nodiscard]] static auto create(std::filesystem::path const& path, write_options options = {})
      -> result<mutable_mapped_file>;

  /// Opens the file, creating it when it is missing. Errors: as `create`, except that the file may exist.
  [[nodiscard]] static auto open(std::filesystem::path const& path, write_options options = {})
      -> result<mutable_mapped_file>;

  /// Opens a file that must exist. Errors: `std::errc::no_such_file_or_directory`, or as `open`.
  [[nodiscard]] static auto open_existing(std::filesystem::path const& path, write_options options = {})
      -> result<mutable_mapped_file>;

  /// Opens a file whose bytes can be changed in memory only. It needs to be readable, not writable.
  ///
  /// Errors: as `mapped_file::open`; `errc::invalid_options` for `options.size`, which would reach the file.
  [[nodiscard]] static auto open_copy_on_write(std::filesystem::path const& path, write_options options = {})
      -> result<mutable_mapped_file>;

  mutable_mapped_file(mutable_mapped_file&& other) noexcept = default;
  auto operator=(mutable_mapped_file&& other) noexcept -> mutable_mapped_file&;
  ~mutable_mapped_file();

  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return mapping_.bytes(); }
  [[nodiscard]] inline auto writable_bytes() noexcept -> std::span<std::byte> { return mapping_.writable_bytes(); }

  /// `length` bytes at `offset`. Errors: `errc::out_of_range`.
  [[nodiscard]] inline auto bytes(std::uint64_t offset, std::size_t length) const
      -> result<std::span<std::byte const>> {
    return mapping_.bytes(byte_range{.offset = offset, .length = length});
  }

  [[nodiscard]] inline auto size() const noexcept -> std::uint64_t { return mapping_.size(); }

  /// How large the file can become without moving, in bytes.
  [[nodiscard]] inline auto capacity() const noexcept -> std::size_t { return mapping_.capacity(); }

  /// Copies bytes to `offset` on. Returns how many: fewer than given only at the end, which stays where it is.
  inline auto write_at(std::uint64_t offset, std::span<std::byte const> in) noexcept -> std::size_t {
    auto const all = writable_bytes();
    if (offset >= all.size()) {
      return 0;
    }
    auto const count = std::min(in.size(), all.size() - static_cast<std::size_t>(offset));
    if (count > 0) {
      std::memcpy(all.data() + offset, in.data(), count);
    }
    return count;
  }

  /// Makes the file longer by `bytes` and returns where they begin.
  ///
  /// Space is allocated ahead, the more the longer the file, without making the file longer than what is in it: who is
  /// killed leaves no tail. `close` gives back what is not used.
  ///
  /// Errors: as `resize`; file and mapping are then as before.
  /// Invalidates: every span when the reservation is exceeded.
  [[nodiscard]] auto append(std::span<std::byte const> bytes) -> result<std::uint64_t>;

  /// Makes the file `size` bytes long, and the mapping with it.
  ///
  /// Growing inside the reservation keeps `bytes().data()`; new bytes read as zero and have blocks behind them.
  /// Shrinking discards the bytes past `size`. With a `level`, the new size is made durable to that level.
  ///
  /// Invalidates: spans that reach past `size`; every span when the reservation is exceeded.
  /// Errors: `errc::copy_on_write`, `errc::read_only` while `protect` keeps the bytes from being written,
  ///         `errc::reservation_exceeded`, `std::errc::no_space_on_device`, or what the system reports; file and mapping are then as before the call, unless only the flush failed, which the error says.
  [[nodiscard]] auto resize(std::uint64_t size, durability level = durability::none) -> result<void>;

  /// Holds address space for `capacity` bytes. Errors and Invalidates: as `mapping::reserve`.
  [[nodiscard]] inline auto reserve(std::size_t capacity) -> result<void> { return mapping_.reserve(capacity); }

  /// Gives back the space allocated ahead by `append`. Errors: what ftruncate(2) reports.
  [[nodiscard]] auto shrink_to_fit() -> result<void>;

  /// As `mapping::flush`.
  [[nodiscard]] inline auto flush(byte_range range = whole, durability level = durability::data) const
      -> result<durability> {
    return mapping_.flush(range, level);
  }

  /// As `mapping::stage_flush`.
  [[nodiscard]] inline auto stage_flush(byte_range range = whole, durability level = durability::data) const
      -> result<flush_job> {
    return mapping_.stage_flush(range, level);
  }

  /// As `file::rewrite`: nobody may store to the bytes meanwhile. Errors: `errc::copy_on_write` too.
  [[nodiscard]] auto rewrite(byte_range range = whole) -> result<durability>;

  /// As `mapping::discard`.
  [[nodiscard]] inline auto discard(byte_range range) -> result<void> { return mapping_.discard(range); }

  /// As `mapping::protect`. While the bytes cannot be written, the file cannot change its size: `errc::read_only`.
  [[nodiscard]] inline auto protect(fmmap::access access, bool executable = false) -> result<void> {
    return mapping_.protect(access, executable);
  }

  /// As `file::remove`; the bytes stay mapped.
  [[nodiscard]] inline auto remove() -> result<void> { return file_.remove(); }

  [[nodiscard]] inline auto path() const noexcept -> std::string_view { return file_.path(); }
  [[nodiscard]] inline auto identity() const noexcept -> file_identity { return file_.identity(); }
  [[nodiscard]] inline auto metadata() const -> result<file_metadata> { return file_.metadata(); }

  /// The two layers below, for what has no shorter way and changes neither.
  [[nodiscard]] inline auto as_file() const noexcept -> file const& { return file_; }
  [[nodiscard]] inline auto as_mapping() const noexcept -> mapping const& { return mapping_; }

  /// Gives back what is allocated ahead, unmaps and closes, and reports what goes wrong. Nothing is synced.
  ///
  /// Invalidates: every span.
  [[nodiscard]] auto close() -> result<void>;

private:
  inline mutable_mapped_file(file opened, mapping mapped, bool may_move) noexcept
      : file_{std::move(opened)}, mapping_{std::move(mapped)}, allocated_{mapping_.size()}, may_move_{may_move} {}

  [[nodiscard]] static auto open_mapped(std::filesystem::path const& path, write_options const& options, bool create,
                                        bool exclusive) -> result<mutable_mapped_file>;
  [[nodiscard]] auto grow_view(std::uint64_t size) -> result<void>;
  [[nodiscard]] auto allocate_ahead(std::uint64_t size) -> int;
  void undo_growth() noexcept;
  void finish() noexcept;

  file file_;
  mapping mapping_;
  std::uint64_t allocated_ = 0; // bytes with blocks behind them, counted from the start; at least the size
  bool may_move_ = true;
};

} // namespace fmmap
