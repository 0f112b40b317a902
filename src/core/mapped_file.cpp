// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <expected>
#include <filesystem>
#include <new>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

[[gnu::always_inline]] inline auto mapped_file::open_mapped(std::filesystem::path const& path,
                                                            read_options const& options, bool executable)
    -> result<mapped_file> {
  result<mapped_file> made; // filled in place and returned from everywhere, so that it never moves
  auto opened = open_path(os::working_directory, path.native(), {.symlinks = options.symlinks}, false);
  if (!opened) [[unlikely]] {
    made = std::unexpected(std::move(opened).error());
    return made;
  }
  auto mapped = handle_access::map_into(
      made->mapping_, opened->state, opened->size,
      {.executable = executable, .range = options.range, .populate = options.populate, .page_size = options.page_size});
  if (!mapped) [[unlikely]] {
    made = std::unexpected(std::move(mapped).error());
    return made;
  }
  made->file_ = handle_access::wrap(std::move(opened->state));
  return made;
}

auto mapped_file::open(std::filesystem::path const& path, read_options options) -> result<mapped_file> {
  return open_mapped(path, options, false);
}

auto mapped_file::open_executable(std::filesystem::path const& path, read_options options) -> result<mapped_file> {
  return open_mapped(path, options, true);
}

auto mapped_file::adopt(file&& opened, read_options options) -> result<mapped_file> {
  auto mapped =
      mapping::map(opened, {.range = options.range, .populate = options.populate, .page_size = options.page_size});
  if (!mapped) {
    return std::unexpected(std::move(mapped).error());
  }
  return mapped_file{std::move(opened), std::move(*mapped)};
}

auto mapped_file::operator=(mapped_file&& other) noexcept -> mapped_file& {
  if (this != &other) {
    if (remove_on_close_) {
      finish();
    }
    mapping_ = std::move(other.mapping_);
    file_ = std::move(other.file_);
    remove_on_close_ = std::exchange(other.remove_on_close_, false);
  }
  return *this;
}

auto remove_if_named(file& target) noexcept -> result<void> {
  result<void> removed;
  try {
    removed = target.remove();
  } catch (std::bad_alloc const&) {
    removed = failure(ENOMEM, "remove", target.path());
  }
  if (!removed && removed.error() == std::errc::no_such_file_or_directory) {
    return {};
  }
  return removed;
}

void mapped_file::finish() noexcept {
  if (!file_.is_open()) {
    return;
  }
  if (auto const removed = remove_if_named(file_); !removed) {
    report_dropped_error(removed.error());
  }
}

auto mapped_file::close() -> result<void> {
  if (!file_.is_open()) {
    return closed_handle("close");
  }
  auto removed = remove_on_close_ ? remove_if_named(file_) : result<void>{};
  remove_on_close_ = false;
  auto unmapped = mapping_.close();
  return first_error(first_error(std::move(removed), std::move(unmapped)), file_.close());
}

} // namespace fmmap
