// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <string_view>

export module fmmap.core:durability;

export namespace fmmap {

/// How far a flush has brought bytes, weakest first. A flush reaches at least the level asked for, or fails.
///
/// Source: sync_file_range(2), fdatasync(2), fsync(2), msync(2); the table is in docs/durability.md.
enum class durability : unsigned char {
  /// Nothing is asked for: the bytes are in memory, and survive the process where memory is a file's.
  none,
  /// Writing back has begun. Nothing is promised about its end.
  started,
  /// The bytes have been handed to the device. Its cache may still lose them, and so may missing metadata.
  written,
  /// The bytes, and the metadata needed to read them, survive a power failure.
  data,
  /// So do all other metadata of the file.
  all,
};

/// The enumerator's name.
[[nodiscard]] auto to_string(durability level) noexcept -> std::string_view;

} // namespace fmmap
