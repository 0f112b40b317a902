// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <expected>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.pmr;

import fmmap.core;
import fmmap.os;
import :heap_store;
import :new_heap_file;

namespace fmmap {

namespace {

auto folder_of(std::filesystem::path const& path) -> std::filesystem::path {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path{"."};
}

auto fail(int code, std::string_view operation, std::filesystem::path const& path) -> std::unexpected<error> {
  return std::unexpected(error::make({code, std::system_category()}, operation, path.native()));
}

void drop_failure(os::outcome<void> const& done, std::string_view operation, std::filesystem::path const& path) {
  if (!done) {
    report_dropped_error(fail(done.error(), operation, path).error());
  }
}

} // namespace

auto make_name_durable(std::filesystem::path const& path, os::descriptor of) -> result<void> {
  auto const folder =
      os::retry([&] { return os::open(os::working_directory, folder_of(path).c_str(), {.directory = true}, 0); });
  auto const synced = os::retry([&] { return folder ? os::sync(*folder) : os::sync_file_system(of); });
  if (folder) {
    drop_failure(os::close(*folder), "close the directory of", path);
  }
  return synced ? result<void>{} : fail(synced.error(), "make durable the name of", path);
}

new_heap_file::new_heap_file(file made, std::filesystem::path path, bool is_named)
    : made_{std::move(made)}, path_{std::move(path)}, is_named_{is_named} {}

auto new_heap_file::wrap(result<file> made, std::filesystem::path const& path, bool is_named) -> result<new_heap_file> {
  return made ? result<new_heap_file>{new_heap_file{std::move(*made), path, is_named}}
              : std::unexpected(std::move(made).error());
}

auto new_heap_file::create(std::filesystem::path const& path, unsigned permissions) -> result<new_heap_file> {
  auto const is_taken = os::status_at(os::working_directory, path.c_str(), false).has_value();
  if (!is_taken && !path.native().contains('\0')) {
    auto const unnamed = os::retry([&] {
      return os::open(os::working_directory, folder_of(path).c_str(), {.write = true, .unnamed = true}, permissions);
    });
    if (unnamed) {
      return wrap(adopt_or_close(*unnamed, path.native()), path, false);
    }
    if (unnamed.error() != EOPNOTSUPP && unnamed.error() != EISDIR && unnamed.error() != EINVAL) {
      return fail(unnamed.error(), "create", path);
    }
  }
  return wrap(file::create_new(path, {.permissions = permissions, .sync_directory = true}), path, true);
}

auto new_heap_file::give_name(os::descriptor complete) -> result<void> {
  if (is_named_) {
    return {};
  }
  if (auto const linked = os::link_descriptor(complete, os::working_directory, path_.c_str()); !linked) {
    return fail(linked.error(), "give a name to", path_);
  }
  is_named_ = true;
  return make_name_durable(path_, complete);
}

void new_heap_file::remove() {
  if (is_named_) {
    drop_failure(os::unlink(os::working_directory, path_.c_str()), "remove the new", path_);
  }
}

} // namespace fmmap
