// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

export module fmmap.core:mutable_mapped_file;

import :cursor;
import :durability;
import :error;
import :file;
import :flush_job;
import :mapped_file;
import :mapping;
import :number;
import :range;
import :readable;

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
/// What writes bytes writes over those that are there: only `append` and `resize` make a file longer. What is stored into a hole
/// of a sparse file is SIGBUS when the disk is full; `fill`, `append`, `resize` and `guarded_copy_in` make that an error.
///
/// One object at a time may change a file's size: another process that does so meanwhile is not noticed. A forked child's copy
/// is another object.
///
/// Spans of its bytes stay valid, at the same address, until one of these happens: `close`, destruction or assignment;
/// a `resize` or `append` past the reservation, or `reserve`, which may move the mapping; a `resize` that cuts them off.
///
/// Thread safety, exec: as `mapping`. Fork: as `mapping`; what the parent has allocated ahead stays when the child destroys or
/// closes its copy. Exit without destruction: the file has the bytes and what was allocated ahead, and stays where it was to be
/// removed.
class mutable_mapped_file : public readable {
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

  /// Creates a file of `size` bytes in memory, for what needs the interface and no disk. `name` shows up in /proc only.
  ///
  /// It grows as any other; what would make it durable is `errc::not_durable`, and it has no name to `remove`. Its pages are
  /// taken from the system as they are touched.
  ///
  /// Errors: as `file::in_memory` and `mapping::map`.
  [[nodiscard]] static auto in_memory(std::string_view name, std::uint64_t size, write_options options = {})
      -> result<mutable_mapped_file>;

  /// Creates a file of `options.size` bytes without a name on the file system of `directory`; it is gone when it is closed.
  /// What is about names and permissions has no meaning here.
  ///
  /// Errors: as `file::temporary` and `create`.
  [[nodiscard]] static auto temporary(std::filesystem::path const& directory, write_options options = {})
      -> result<mutable_mapped_file>;

  /// Maps an open file and takes it over: for reading and writing, or copy-on-write when it was opened for reading only. Of
  /// `options`, what is about opening has no meaning here.
  ///
  /// Errors: as `open_existing` and `open_copy_on_write`. The file is then still the caller's, and as it was.
  [[nodiscard]] static auto adopt(file&& opened, write_options options = {}) -> result<mutable_mapped_file>;

  /// A handle to nothing, as is one that was moved from or closed: what is called on it is `errc::closed`.
  mutable_mapped_file() noexcept = default;
  inline mutable_mapped_file(mutable_mapped_file&& other) noexcept
      : file_{std::move(other.file_)},
        mapping_{std::move(other.mapping_)},
        allocated_{std::exchange(other.allocated_, 0)},
        allocator_{other.allocator_},
        may_move_{other.may_move_},
        remove_on_close_{std::exchange(other.remove_on_close_, false)} {}
  auto operator=(mutable_mapped_file&& other) noexcept -> mutable_mapped_file&;
  ~mutable_mapped_file();

  [[nodiscard]] inline auto is_open() const noexcept -> bool { return file_.is_open(); }

  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return mapping_.bytes(); }
  using readable::bytes;

  /// Empty while `protect` keeps the bytes from being written.
  [[nodiscard]] inline auto writable_bytes() noexcept -> std::span<std::byte> { return mapping_.writable_bytes(); }

  /// `length` bytes at `offset`. Errors: `errc::out_of_range`; `errc::read_only` while `protect` keeps them from being written.
  [[nodiscard]] inline auto writable_bytes(std::uint64_t offset, std::size_t length) -> result<std::span<std::byte>> {
    return writable_exactly("view", exactly(offset, length));
  }

  /// `count` objects from `offset` on, where they lie. Errors: as `view` and `writable_bytes`.
  template <plain_data T>
  [[nodiscard]] auto writable_view(std::uint64_t offset, std::size_t count) -> result<std::span<T>> {
    return writable_objects<T>(exactly(offset, bytes_of_objects<T>(count)));
  }

  /// All objects from `offset` to the end, where they lie; the last has to be whole. Errors: as with a count.
  template <plain_data T>
  [[nodiscard]] auto writable_view(std::uint64_t offset = 0) -> result<std::span<T>> {
    return writable_objects<T>({.offset = offset, .length = bytes_to_end<T>(mapping_.size(), offset)});
  }

  [[nodiscard]] inline auto size() const noexcept -> std::uint64_t { return mapping_.size(); }
  [[nodiscard]] inline auto empty() const noexcept -> bool { return mapping_.empty(); }

  /// How large the file can become without moving, in bytes.
  [[nodiscard]] inline auto capacity() const noexcept -> std::size_t { return mapping_.capacity(); }

  /// Copies bytes to `offset` on, which may be the file's own. Returns how many: fewer than given only at the end, which stays
  /// where it is.
  inline auto write_at(std::uint64_t offset, std::span<std::byte const> in) noexcept -> std::size_t {
    auto const all = writable_bytes();
    auto const count = available(offset, in.size(), all.size());
    if (count > 0) {
      std::memmove(all.data() + offset, in.data(), count);
    }
    return count;
  }

  /// Copies bytes to `offset` on, all of them. Errors: as `writable_bytes`; nothing is written then.
  [[nodiscard]] inline auto write_exactly(std::uint64_t offset, std::span<std::byte const> in) -> result<void> {
    auto const to = writable_exactly("write", exactly(offset, in.size()));
    if (!to) [[unlikely]] {
      return std::unexpected(to.error());
    }
    if (!in.empty()) {
      std::memmove(to->data(), in.data(), in.size());
    }
    return {};
  }

  /// Writes the bytes of `value`, as they are in memory, to `offset`. Errors: as `writable_bytes`.
  template <plain_data T>
  [[nodiscard]] auto write(std::uint64_t offset, std::type_identity_t<T> const& value) -> result<void> {
    auto const all = writable_bytes();
    if (!fits_within(all.size(), offset, sizeof(T))) [[unlikely]] {
      return unwritable("write", {.offset = offset, .length = sizeof(T)});
    }
    store<T>(all.data() + offset, value);
    return {};
  }

  /// Writes a number to `offset`, its least significant byte first. Errors: as `writable_bytes`.
  template <number T>
  [[nodiscard]] auto write_le(std::uint64_t offset, std::type_identity_t<T> value) -> result<void> {
    return write<T>(offset, in_order(value, std::endian::little));
  }

  /// Writes a number to `offset`, its most significant byte first. Errors: as `writable_bytes`.
  template <number T>
  [[nodiscard]] auto write_be(std::uint64_t offset, std::type_identity_t<T> value) -> result<void> {
    return write<T>(offset, in_order(value, std::endian::big));
  }

  /// Sets the bytes of `range` to `value`.
  ///
  /// Holes get blocks first, so that a full disk is an error here and not SIGBUS: nothing is written then. Where blocks are no
  /// guarantee (btrfs), the error's range is what has not been written.
  ///
  /// Errors: as `writable_bytes`; `std::errc::no_space_on_device`, and what else fallocate(2) and madvise(2) report.
  [[nodiscard]] auto fill(byte_range range, std::byte value) -> result<void>;

  /// Sets the bytes of `range` to zero, as `fill` does. `discard` gives the memory and blocks of whole pages back instead.
  ///
  /// Errors: as `fill`.
  [[nodiscard]] inline auto zero(byte_range range) -> result<void> { return fill(range, std::byte{0}); }

  /// Writes over the bytes of `range` one after the other. Positions are counted from the start of the range.
  ///
  /// Errors: as `writable_bytes`.
  [[nodiscard]] inline auto writer(byte_range range = whole) -> result<byte_writer> {
    auto const to = writable_part("write", range);
    if (!to) [[unlikely]] {
      return std::unexpected(to.error());
    }
    return byte_writer{*to, path(), range.offset};
  }

  /// Makes the file longer by `bytes` and returns where they begin.
  ///
  /// Space is allocated ahead, the more the longer the file, without making the file longer than what is in it: who is
  /// killed leaves no tail, and of the append under way all, nothing, or what comes before a border of pages. `close`
  /// gives back what is not used.
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

  /// Gives back the space allocated ahead by `append`, in a forked child its parent's too. Errors: what ftruncate(2) reports.
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

  /// As `mapping::advise`.
  [[nodiscard]] inline auto advise(advice what, byte_range range = whole) const -> result<void> {
    return mapping_.advise(what, range);
  }

  /// A part that keeps the memory mapped on its own. Errors: `errc::out_of_range`.
  [[nodiscard]] inline auto share(byte_range range = whole) const -> result<shared_bytes> {
    return mapping_.share(range);
  }

  /// Gives the right to write up: the same file, mapped where it was, for reading. What `append` has allocated ahead is
  /// given back, and whether the file is removed on close goes with it. Nothing is synced.
  ///
  /// Errors: as `shrink_to_fit` and `protect`; the object is then as it was. Spans stay valid; writing through them does not.
  [[nodiscard]] auto freeze() && -> result<mapped_file>;

  /// The same, and its bytes can be executed, where they are: the file is mapped once more, by a descriptor that cannot
  /// write, so that the system refuses to make them writable again. What is copy-on-write or locked in memory, or cannot be
  /// opened again, as without /proc, keeps its mapping, which the system would make writable. The file itself can be written
  /// still, by the descriptor too that stays open.
  ///
  /// Errors: as `freeze`; `std::errc::operation_not_permitted` on a file system mounted noexec;
  /// `std::errc::permission_denied` for what is copy-on-write or locked where PR_SET_MDWE holds.
  [[nodiscard]] auto freeze_executable() && -> result<mapped_file>;

  /// As `file::remove`; the bytes stay mapped.
  [[nodiscard]] inline auto remove() -> result<void> { return file_.remove(); }

  /// Whether `close`, destruction or assignment removes the file, as `remove` does. Goes with the object when it moves or
  /// freezes.
  ///
  /// Fork: the first of parent and child to destroy or close its copy removes the file; set it to false in the child, or leave
  /// that by _exit.
  inline void set_remove_on_close(bool remove) noexcept { remove_on_close_ = remove; }
  [[nodiscard]] inline auto removes_on_close() const noexcept -> bool { return remove_on_close_; }

  [[nodiscard]] inline auto path() const noexcept -> std::string_view { return file_.path(); }
  [[nodiscard]] inline auto identity() const noexcept -> file_identity { return file_.identity(); }
  [[nodiscard]] inline auto metadata() const -> result<file_metadata> { return file_.metadata(); }

  /// The two layers below, for what has no shorter way and changes neither.
  [[nodiscard]] inline auto as_file() const noexcept -> file const& { return file_; }
  [[nodiscard]] inline auto as_mapping() const noexcept -> mapping const& { return mapping_; }

  /// Gives back what is allocated ahead, unmaps and closes, removing the file where that was asked for, and reports what
  /// goes wrong. Nothing is synced. A file that cannot be removed is closed all the same: call `remove` first to be able to
  /// try again.
  ///
  /// Invalidates: every span.
  [[nodiscard]] auto close() -> result<void>;

private:
  inline mutable_mapped_file(file opened, mapping mapped, bool may_move) noexcept
      : file_{std::move(opened)}, mapping_{std::move(mapped)}, allocated_{mapping_.size()}, may_move_{may_move} {}

  [[nodiscard]] static auto open_mapped(std::filesystem::path const& path, write_options const& options, bool create,
                                        bool exclusive) -> result<mutable_mapped_file>;
  [[nodiscard]] auto freeze(bool executable) -> result<mapped_file>;
  [[nodiscard]] auto grow_view(std::uint64_t size) -> result<void>;
  [[nodiscard]] auto allocate_ahead(std::uint64_t size) -> int;
  void undo_growth(std::uint64_t own_end) noexcept;
  [[nodiscard]] auto trim_own() -> result<void>;
  void finish() noexcept;

  [[nodiscard, gnu::cold]] auto unwritable(std::string_view operation, byte_range range) const
      -> std::unexpected<error>;

  // The bytes that `range` names. Not even none of them can be written while they are protected.
  [[nodiscard]] inline auto writable_part(std::string_view operation, byte_range range)
      -> result<std::span<std::byte>> {
    return writable_exactly(operation, counted_out(range, mapping_.size()));
  }

  // The same of a range whose length has been counted out: `to_end` is more than there can be.
  [[nodiscard]] inline auto writable_exactly(std::string_view operation, byte_range range)
      -> result<std::span<std::byte>> {
    auto const all = writable_bytes();
    auto const writable = mapping_.access() != fmmap::access::read_only;
    if (!writable || !fits_within(all.size(), range.offset, range.length) || !is_open()) [[unlikely]] {
      return unwritable(operation, range);
    }
    return all.subspan(static_cast<std::size_t>(range.offset), range.length);
  }

  template <plain_data T>
  [[nodiscard]] auto writable_objects(byte_range range) -> result<std::span<T>> {
    auto const part = writable_exactly("view", range);
    if (!part) [[unlikely]] {
      return std::unexpected(part.error());
    }
    if (part->empty()) {
      return std::span<T>{};
    }
    if (!is_aligned_for<T>(part->data())) [[unlikely]] {
      return misaligned(path(), range, alignof(T));
    }
    return std::span{reinterpret_cast<T*>(part->data()), range.length / sizeof(T)};
  }

  file file_;
  mapping mapping_;
  std::uint64_t allocated_ = 0; // bytes with blocks behind them, counted from the start; at least the size
  int allocator_ = 0;           // the process that has put those past the size there
  bool may_move_ = true;
  bool remove_on_close_ = false;
};

} // namespace fmmap
