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

export module fmmap.core:mapped_file;

import :error;
import :file;
import :mapping;
import :range;

export namespace fmmap {

struct read_options {
  /// Of the file; the offsets of every call are relative to its start.
  byte_range range = whole;
  /// Brings the pages in before the call returns.
  bool populate = false;
  fmmap::page_size page_size = fmmap::page_size::system;
  fmmap::symlinks symlinks = fmmap::symlinks::follow;
};

/// A file, mapped for reading.
///
/// Spans of its bytes are valid as those of `mapping` are: until it is closed, destroyed or assigned to.
///
/// Thread safety, fork, exec, exit: as `mapping`.
class mapped_file {
public:
  /// Opens and maps the file at `path`. An empty file is an empty span.
  ///
  /// Errors: as `file::open` and `mapping::map`.
  [[nodiscard]] static auto open(std::filesystem::path const& path, read_options options = {}) -> result<mapped_file>;

  /// The bytes of the range that was opened.
  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return mapping_.bytes(); }

  /// `length` bytes at `offset`. Errors: `errc::out_of_range`.
  [[nodiscard]] inline auto bytes(std::uint64_t offset, std::size_t length) const
      -> result<std::span<std::byte const>> {
    return mapping_.bytes(byte_range{.offset = offset, .length = length});
  }

  [[nodiscard]] inline auto size() const noexcept -> std::size_t { return mapping_.size(); }

  /// Copies bytes from `offset` on. Returns how many: fewer than asked only at the end.
  inline auto read_at(std::uint64_t offset, std::span<std::byte> out) const noexcept -> std::size_t {
    auto const all = bytes();
    if (offset >= all.size()) {
      return 0;
    }
    auto const count = std::min(out.size(), all.size() - static_cast<std::size_t>(offset));
    if (count > 0) {
      std::memcpy(out.data(), all.data() + offset, count);
    }
    return count;
  }

  [[nodiscard]] inline auto path() const noexcept -> std::string_view { return file_.path(); }
  [[nodiscard]] inline auto identity() const noexcept -> file_identity { return file_.identity(); }
  [[nodiscard]] inline auto metadata() const -> result<file_metadata> { return file_.metadata(); }

  /// The two layers below, for what has no shorter way.
  [[nodiscard]] inline auto as_file() const noexcept -> file const& { return file_; }
  [[nodiscard]] inline auto as_mapping() const noexcept -> mapping const& { return mapping_; }

  /// Unmaps and closes, and reports what goes wrong. Invalidates: every span.
  [[nodiscard]] auto close() -> result<void>;

private:
  inline mapped_file(file opened, mapping mapped) noexcept : file_{std::move(opened)}, mapping_{std::move(mapped)} {}

  file file_;
  mapping mapping_;
};

} // namespace fmmap
