// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

export module fmmap.core:file_view;

import :error;
import :file;
import :mapping;
import :readable;

export namespace fmmap {

struct view_options {
  /// Files up to this many bytes are read, larger ones mapped.
  std::size_t map_above = std::size_t{128} << 10;
  fmmap::symlinks symlinks = fmmap::symlinks::follow;
};

/// The bytes of a file, for reading, the fastest way: a small file is read into memory, a larger one mapped. What cannot
/// be mapped, such as a pipe, a file of /proc or one on a file system without mmap, is read to its end.
///
/// Spans end with the object; moving it keeps them.
///
/// Bytes that are read lie where any ordinary type may; mapped ones begin at a page.
///
/// Thread safety: const members may be called from several threads at once. Fork: the child has the bytes, as a copy where the
/// file was read. Exec: gone. Exit without destruction: nothing is left to do.
class file_view : public readable {
public:
  /// Reads or maps the file at `path`. Reading a pipe waits for a writer and blocks until the last one has gone.
  ///
  /// Errors: `std::errc::is_a_directory`; `errc::symbolic_link`;
  /// `std::errc::not_enough_memory` where neither a mapping nor a copy of the file fits into the process; or what open(2),
  /// mmap(2) and read(2) report.
  [[nodiscard]] static auto open(std::filesystem::path const& path, view_options options = {}) -> result<file_view>;

  /// A view of nothing, as is one that was moved from.
  file_view() noexcept = default;

  [[nodiscard]] inline auto is_open() const noexcept -> bool { return copy_ || mapping_.is_open(); }

  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return bytes_; }
  using readable::bytes;

  [[nodiscard]] inline auto size() const noexcept -> std::size_t { return bytes_.size(); }
  [[nodiscard]] inline auto empty() const noexcept -> bool { return bytes_.empty(); }

  /// As it was opened. Lives as long as the bytes do.
  [[nodiscard]] auto path() const noexcept -> std::string_view;

  /// Whether the bytes are the file's own pages, and not a copy made at the open.
  [[nodiscard]] inline auto is_mapped() const noexcept -> bool { return mapping_.is_open(); }

  inline file_view(file_view&& other) noexcept
      : mapping_{std::move(other.mapping_)},
        copy_{std::move(other.copy_)},
        bytes_{std::exchange(other.bytes_, {})},
        path_{std::exchange(other.path_, {})} {}

  inline auto operator=(file_view&& other) noexcept -> file_view& {
    mapping_ = std::move(other.mapping_);
    copy_ = std::move(other.copy_);
    bytes_ = std::exchange(other.bytes_, {});
    path_ = std::exchange(other.path_, {});
    return *this;
  }

  ~file_view() = default;

private:
  inline explicit file_view(mapping mapped) noexcept : mapping_{std::move(mapped)}, bytes_{mapping_.bytes()} {}
  inline file_view(std::unique_ptr<std::byte[]> copy, std::size_t size, std::string_view path) noexcept
      : copy_{std::move(copy)}, bytes_{copy_.get(), size}, path_{path} {}

  mapping mapping_;
  std::unique_ptr<std::byte[]> copy_;
  std::span<std::byte const> bytes_;
  std::string_view path_; // of a copy; it lies behind its bytes
};

} // namespace fmmap
