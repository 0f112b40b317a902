// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

// The name the file has now, which the kernel keeps across renames and which does not depend on the working directory.
// Without /proc, the path it was opened by.
auto present_name(open_file const& target) -> os::outcome<std::string> {
  std::array<char, 32> link{};
  std::snprintf(link.data(), link.size(), "/proc/self/fd/%d", target.descriptor());
  std::string name(4096, '\0');
  while (true) {
    auto const length = os::read_link(os::working_directory, link.data(), name);
    if (!length) {
      return length.error() == ENOENT ? os::outcome<std::string>{std::string{target.path}}
                                      : std::unexpected(length.error());
    }
    if (*length < name.size()) {
      name.resize(*length);
      return name;
    }
    name.resize(name.size() * 2);
  }
}

auto is_same_file(open_file const& target, os::file_status const& status) -> bool {
  return target.identity == file_identity{.device = status.device, .inode = status.inode};
}

// There is no file under the name it had last: either another one has that name, or nobody.
auto nameless(open_file const& target, std::string name) -> std::unexpected<error> {
  constexpr std::string_view mark = " (deleted)"; // proc_pid_fd(5)
  if (name.ends_with(mark)) {
    name.resize(name.size() - mark.size());
  }
  auto const other = os::status_at(os::working_directory, name.c_str(), false);
  if (other) {
    return target.fail(errc::path_reused, "remove");
  }
  if (other.error() != ENOENT && other.error() != ENOTDIR) {
    return target.fail(other.error(), "remove");
  }
  return target.fail(ENOENT, "remove", {}, "the file no longer has a name");
}

auto sync_removal(open_file& target) -> result<void> {
  if (auto const synced = sync_directory(target.unsynced_parent.get(), target.descriptor()); !synced) {
    return target.fail(synced.error(), "make durable the removal of", {}, "the name is gone; call remove again");
  }
  target.unsynced_parent = unique_descriptor{};
  return {};
}

} // namespace

auto file::remove() -> result<void> {
  if (!state_) {
    return failure(errc::closed, "remove");
  }
  auto& target = *state_;
  if (target.unsynced_parent.get() != os::no_descriptor) {
    return sync_removal(target);
  }
  if (target.type == os::file_type::block_device || target.type == os::file_type::character_device) {
    return target.fail(errc::not_a_regular_file, "remove", {}, "a device is not removed");
  }
  if (target.in_memory) {
    return target.fail(ENOENT, "remove", {}, "a file in memory has no name");
  }
  if (target.through_link) {
    return target.fail(errc::symbolic_link, "remove", {}, "open the file by its own name to remove it");
  }
  auto const name = present_name(target);
  if (!name) {
    return target.fail(name.error(), "remove");
  }
  auto parent = open_parent(os::working_directory, *name, true);
  if (!parent) {
    return parent.error() == ENOENT ? nameless(target, *name) : target.fail(parent.error(), "remove");
  }
  // One system call lies between this look and the unlink; nothing can close that gap on Linux.
  auto const status = os::status_at(parent->descriptor.get(), parent->name.c_str(), false);
  if (!status) {
    return status.error() == ENOENT ? nameless(target, *name) : target.fail(status.error(), "remove");
  }
  if (!is_same_file(target, *status)) {
    return target.fail(errc::path_reused, "remove");
  }
  if (auto const done = os::unlink(parent->descriptor.get(), parent->name.c_str()); !done) {
    return target.fail(done.error(), "remove");
  }
  target.unsynced_parent = std::move(parent->descriptor);
  return sync_removal(target);
}

} // namespace fmmap
