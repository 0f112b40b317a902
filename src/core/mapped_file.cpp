// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <expected>
#include <filesystem>
#include <utility>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

auto mapped_file::open(std::filesystem::path const& path, read_options options) -> result<mapped_file> {
  auto opened = open_path(os::working_directory, path.native(), {.symlinks = options.symlinks}, false);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  auto mapped =
      handle_access::map(opened->state, opened->size,
                         {.range = options.range, .populate = options.populate, .page_size = options.page_size});
  if (!mapped) {
    return std::unexpected(std::move(mapped).error());
  }
  return mapped_file{handle_access::wrap(std::move(opened->state)), std::move(*mapped)};
}

auto mapped_file::close() -> result<void> {
  auto unmapped = mapping_.close();
  return first_error(std::move(unmapped), file_.close());
}

} // namespace fmmap
