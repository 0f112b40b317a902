// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
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
import :readable;

export namespace fmmap {

class mutable_mapped_file;

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
/// Thread safety, fork, exec: as `mapping`. Exit without destruction: the file stays, also where it was to be removed.
class mapped_file : public readable {
public:
  /// Opens and maps the file at `path`. An empty file is an empty span.
  ///
  /// Errors: as `file::open` and `mapping::map`.
  [[nodiscard]] static auto open(std::filesystem::path const& path, read_options options = {}) -> result<mapped_file>;

  /// The same, and its bytes can be executed. Whoever can write the file decides what is: a mapping does not copy it.
  ///
  /// Errors: as `open`; `std::errc::operation_not_permitted` on a file system mounted noexec.
  [[nodiscard]] static auto open_executable(std::filesystem::path const& path, read_options options = {})
      -> result<mapped_file>;

  /// Maps an open file and takes it over. `options.symlinks` has no meaning here.
  ///
  /// Errors: as `mapping::map`. The file is then still the caller's.
  [[nodiscard]] static auto adopt(file&& opened, read_options options = {}) -> result<mapped_file>;

  /// A handle to nothing, as is one that was moved from or closed: what is called on it is `errc::closed`.
  mapped_file() noexcept = default;
  inline mapped_file(mapped_file&& other) noexcept
      : file_{std::move(other.file_)},
        mapping_{std::move(other.mapping_)},
        remove_on_close_{std::exchange(other.remove_on_close_, false)} {}
  auto operator=(mapped_file&& other) noexcept -> mapped_file&;
  inline ~mapped_file() {
    if (remove_on_close_) [[unlikely]] {
      finish();
    }
  }

  [[nodiscard]] inline auto is_open() const noexcept -> bool { return file_.is_open(); }

  /// The bytes of the range that was opened.
  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return mapping_.bytes(); }
  using readable::bytes;

  [[nodiscard]] inline auto size() const noexcept -> std::size_t { return mapping_.size(); }
  [[nodiscard]] inline auto empty() const noexcept -> bool { return mapping_.empty(); }
  [[nodiscard]] inline auto is_executable() const noexcept -> bool { return mapping_.is_executable(); }

  /// A part that keeps the memory mapped on its own. Errors: `errc::out_of_range`.
  [[nodiscard]] inline auto share(byte_range range = whole) const -> result<shared_bytes> {
    return mapping_.share(range);
  }

  /// As `mapping::advise`.
  [[nodiscard]] inline auto advise(advice what, byte_range range = whole) const -> result<void> {
    return mapping_.advise(what, range);
  }

  /// As `file::remove`; the bytes stay mapped.
  [[nodiscard]] inline auto remove() -> result<void> { return file_.remove(); }

  /// Whether `close`, destruction or assignment removes the file, as `remove` does. Goes with the object when it moves.
  ///
  /// Fork: the first of parent and child to destroy or close its copy removes the file; set it to false in the child, or leave
  /// that by _exit.
  inline void set_remove_on_close(bool remove) noexcept { remove_on_close_ = remove; }
  [[nodiscard]] inline auto removes_on_close() const noexcept -> bool { return remove_on_close_; }

  [[nodiscard]] inline auto path() const noexcept -> std::string_view { return file_.path(); }
  [[nodiscard]] inline auto identity() const noexcept -> file_identity { return file_.identity(); }
  [[nodiscard]] inline auto metadata() const -> result<file_metadata> { return file_.metadata(); }

  /// The two layers below, for what has no shorter way.
  [[nodiscard]] inline auto as_file() const noexcept -> file const& { return file_; }
  [[nodiscard]] inline auto as_mapping() const noexcept -> mapping const& { return mapping_; }

  /// Unmaps and closes, removing the file where that was asked for, and reports what goes wrong. A file that cannot be
  /// removed is closed all the same: call `remove` first to be able to try again.
  ///
  /// Invalidates: every span.
  [[nodiscard]] auto close() -> result<void>;

private:
  friend mutable_mapped_file;
  inline mapped_file(file&& opened, mapping&& mapped, bool remove_on_close = false) noexcept
      : file_{std::move(opened)}, mapping_{std::move(mapped)}, remove_on_close_{remove_on_close} {}

  [[nodiscard]] static auto open_mapped(std::filesystem::path const& path, read_options const& options, bool executable)
      -> result<mapped_file>;
  void finish() noexcept;

  file file_;
  mapping mapping_;
  bool remove_on_close_ = false;
};

} // namespace fmmap
