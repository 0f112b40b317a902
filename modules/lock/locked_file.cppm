// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <expected>
#include <filesystem>
#include <utility>

export module fmmap.lock:locked_file;

import fmmap.core;
import :file_lock;
import :lock_mode;
import :wait_for;

export namespace fmmap {

struct locked_options {
  /// Whether the file is created when it is missing.
  bool create = true;
  /// Cuts the content off, once the file is locked; needs `lock_mode::exclusive`. `mapping.size` is of the file after that.
  bool truncate = false;
  lock_kind kind = lock_kind::open_file_description;
  write_options mapping = {};
};

/// A file, mapped, and the lock of all of it, which ends after the file when the object goes or is assigned to.
template <class File>
struct locked {
  file_lock lock;
  File file;

  locked() noexcept = default;
  inline locked(file_lock held, File opened) noexcept : lock{std::move(held)}, file{std::move(opened)} {}
  locked(locked&& other) noexcept = default;
  inline auto operator=(locked&& other) noexcept -> locked& {
    file = std::move(other.file); // closing it may still cut what it has allocated ahead, or remove it
    lock = std::move(other.lock);
    return *this;
  }
  ~locked() = default;
};

/// For writing.
using locked_file = locked<mutable_mapped_file>;

/// For reading.
using locked_reader = locked<mapped_file>;

/// Opens the file that has the name once the lock is held, and maps it. A file that was replaced or removed while it was waited
/// for is let go, and the one in its place is waited for. Only then is it cut, given a size, or mapped: until then, whoever
/// holds the lock has it as it was.
///
/// Errors: `errc::lock_timed_out` after `limit` and the time it takes to find out who has the lock, who is named where that can
/// be seen; `errc::invalid_options` for `truncate` under a shared lock; as `mutable_mapped_file::open` and `file_lock`. A file
/// that the call has created is removed again when the call fails, unless somebody else has locked it or written to it
/// meanwhile, or the lock is shared. One that was cut is left empty when its new size cannot be had.
[[nodiscard]] auto open_locked(std::filesystem::path const& path, locked_options options = {},
                               lock_mode mode = lock_mode::exclusive, wait_for limit = forever) -> result<locked_file>;

/// Opens a file for reading, under a shared lock, in the same way. Errors: as `mapped_file::open` and `open_locked`.
[[nodiscard]] auto open_locked_for_reading(std::filesystem::path const& path, read_options options = {},
                                           wait_for limit = forever, lock_kind kind = lock_kind::open_file_description)
    -> result<locked_reader>;

} // namespace fmmap
