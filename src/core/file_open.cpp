// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <expected>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

constexpr int most_attempts = 100;

// What openat2 does, for systems without it: every component on its own, no link followed, no step out.
auto open_step_by_step(os::descriptor directory, std::string_view path, os::open_flags flags, unsigned permissions)
    -> os::outcome<os::descriptor> {
  if (path.empty()) {
    return std::unexpected(ENOENT);
  }
  if (path.starts_with('/') && flags.beneath) {
    return std::unexpected(EXDEV);
  }
  if (path.ends_with('/')) { // names a directory
    if (flags.create) {
      return std::unexpected(EISDIR);
    }
    flags.directory = true;
  }
  auto const* const start = path.starts_with('/') ? "/" : ".";
  auto here = os::open(directory, start, {.directory = true, .path_only = true}, 0);
  while (here) {
    unique_descriptor const current{*here};
    path.remove_prefix(std::min(path.find_first_not_of('/'), path.size()));
    std::string const component{path.substr(0, path.find('/'))};
    path.remove_prefix(component.size());
    if (flags.beneath && component == "..") {
      return std::unexpected(EXDEV);
    }
    flags.no_follow = true;
    auto const last = path.find_first_not_of('/') == std::string_view::npos;
    auto const step = last ? flags : os::open_flags{.directory = true, .path_only = true, .no_follow = true};
    here = os::retry(
        [&] { return os::open(current.get(), component.empty() ? "." : component.c_str(), step, permissions); });
    if (!here && here.error() == ENOTDIR) {
      auto const status = os::status_at(current.get(), component.c_str(), false);
      return std::unexpected(status && status->type == os::file_type::symlink ? ELOOP : ENOTDIR);
    }
    if (last) {
      return here;
    }
  }
  return here;
}

auto open_restricted(os::descriptor directory, char const* path, os::open_flags flags, unsigned permissions)
    -> os::outcome<os::descriptor> {
  auto opened = os::retry([&] { return os::open_resolved(directory, path, flags, permissions); });
  // openat2(2): a rename on the way makes it give up and ask to be called again.
  for (int again = 0; !opened && opened.error() == EAGAIN && again < most_attempts; ++again) {
    opened = os::retry([&] { return os::open_resolved(directory, path, flags, permissions); });
  }
  if (!opened && opened.error() == ENOSYS) {
    opened = open_step_by_step(directory, path, flags, permissions);
  }
  return opened;
}

[[gnu::always_inline]] inline auto open_descriptor(os::descriptor directory, char const* path, os::open_flags flags,
                                                   unsigned permissions) -> os::outcome<os::descriptor> {
  if (flags.no_symlinks || flags.beneath) [[unlikely]] {
    return open_restricted(directory, path, flags, permissions);
  }
  return os::retry([&] [[gnu::always_inline]] { return os::open(directory, path, flags, permissions); });
}

struct opened_descriptor {
  unique_descriptor descriptor;
  bool created = false;
  bool through_link = false;
};

// Follows a link in the last component only when it has been seen to be one: `remove` has to know.
auto open_existing(os::descriptor directory, char const* path, os::open_flags flags, symlinks links)
    -> os::outcome<opened_descriptor> {
  flags.no_follow = true;
  auto opened = open_descriptor(directory, path, flags, 0);
  auto const through_link = !opened && opened.error() == ELOOP && links == symlinks::follow;
  if (through_link) [[unlikely]] {
    flags.no_follow = false;
    opened = open_descriptor(directory, path, flags, 0);
  }
  if (!opened && opened.error() == EAGAIN) [[unlikely]] {
    opened = open_waiting(directory, path, flags);
  }
  if (!opened) [[unlikely]] {
    return std::unexpected(opened.error());
  }
  return opened_descriptor{.descriptor = unique_descriptor{*opened}, .through_link = through_link};
}

auto open_or_create(os::descriptor directory, char const* path, os::open_flags flags, open_options const& options,
                    bool exclusive) -> os::outcome<opened_descriptor> {
  auto const create = os::open_flags{
      .write = true, .create = true, .exclusive = true, .no_symlinks = flags.no_symlinks, .beneath = flags.beneath};
  // Never O_CREAT alone: whether this call created the file decides what a failure further on has to undo.
  for (int again = 0; again < most_attempts; ++again) {
    if (!exclusive) {
      auto opened = open_existing(directory, path, flags, options.symlinks);
      if (opened || opened.error() != ENOENT || !options.create) {
        return opened;
      }
    }
    auto const created = open_descriptor(directory, path, create, options.permissions);
    if (created) {
      return opened_descriptor{.descriptor = unique_descriptor{*created}, .created = true};
    }
    if (exclusive || created.error() != EEXIST) {
      return std::unexpected(created.error());
    }
    // A link to nothing is found missing and existing by turns.
    if (auto const status = os::status_at(directory, path, false); status && status->type == os::file_type::symlink) {
      return std::unexpected(ENOENT);
    }
  }
  return std::unexpected(EAGAIN); // somebody creates and removes it all the time
}

auto describe_open_failure(int code, std::string_view path, open_options const& options) -> std::unexpected<error> {
  if (code == ELOOP && options.symlinks != symlinks::follow) {
    return failure(errc::symbolic_link, "open", path);
  }
  if (code == ELOOP && options.beneath) {
    return failure(code, "open", path, {}, "a system without openat2 follows no link beneath a directory");
  }
  if (code == ENOENT && options.create) {
    return failure(code, "open", path, {},
                   "there is no such directory, or the path is a link to a file that is missing");
  }
  if (code == EXDEV && options.beneath) {
    return failure(code, "open", path, {}, "the path leaves the directory it starts from");
  }
  return failure(code, "open", path);
}

auto sync_parent(os::descriptor directory, std::string_view path, os::descriptor file) -> os::outcome<void> {
  auto const parent = open_parent(directory, path, true);
  if (!parent) {
    return std::unexpected(parent.error());
  }
  return sync_directory(parent->descriptor.get(), file);
}

} // namespace

auto open_path(os::descriptor directory, std::string const& path, open_options const& options, bool exclusive)
    -> result<opened_file> {
  if (has_nul(path)) [[unlikely]] {
    return refuse_nul("open", path);
  }
  auto const writes = options.access == access::read_write || exclusive;
  if (options.create && !writes) [[unlikely]] {
    return failure(errc::invalid_options, "open", path, {}, "creating a file needs access::read_write");
  }
  auto const flags = os::open_flags{
      .write = writes, .no_symlinks = options.symlinks == symlinks::refuse_all, .beneath = options.beneath};
  auto state = open_file::make(path);
  auto opened = open_or_create(directory, path.c_str(), flags, options, exclusive);
  if (!opened) [[unlikely]] {
    return describe_open_failure(opened.error(), path, options);
  }
  rollback undo{[&] {
    if (opened->created) {
      drop_failure(os::unlink(directory, path.c_str()), "remove the new", path);
    }
  }};
  auto const status = os::status(opened->descriptor.get());
  if (!status) [[unlikely]] {
    return failure(status.error(), "open", path);
  }
  if (status->type != os::file_type::regular) [[unlikely]] {
    if (!options.any_type) {
      return failure(errc::not_a_regular_file, "open", path);
    }
    if (auto const blocking = os::set_blocking(opened->descriptor.get()); !blocking) {
      return failure(blocking.error(), "open", path);
    }
  }
  if (opened->created && options.sync_directory) {
    if (auto const synced = sync_parent(directory, path, opened->descriptor.get()); !synced) {
      return failure(synced.error(), "make durable the name of", path);
    }
  }
  state->attach(std::move(opened->descriptor), *status, {.read = true, .write = writes});
  state->through_link = opened->through_link;
  state->nonblocking = status->type == os::file_type::regular;
  undo.keep();
  return opened_file{.state = std::move(state), .size = status->size, .created = opened->created};
}

auto open_waiting(os::descriptor directory, char const* path, os::open_flags flags) -> os::outcome<os::descriptor> {
  auto const wanted = os::open_flags{.write = flags.write, .wait = true};
  flags.write = false;
  flags.path_only = true; // opens nothing, and so waits for nobody
  auto const found = open_descriptor(directory, path, flags, 0);
  if (!found) {
    return found;
  }
  unique_descriptor const there{*found};
  auto const status = os::status(there.get());
  if (!status) {
    return std::unexpected(status.error());
  }
  if (status->type != os::file_type::regular) {
    return std::unexpected(EAGAIN);
  }
  auto const opened = os::retry([&] { return os::reopen(there.get(), wanted); });
  return !opened && opened.error() == ENOENT ? std::unexpected(EAGAIN) : opened; // no /proc to reopen by
}

auto open_parent(os::descriptor directory, std::string_view path, bool to_sync) -> os::outcome<parent_directory> {
  auto const slash = path.rfind('/');
  auto const name = slash == std::string_view::npos ? path : path.substr(slash + 1);
  std::string const parent{slash == std::string_view::npos ? "." : path.substr(0, slash + 1)};
  auto const open = [&](bool path_only) {
    return os::retry(
        [&] { return os::open(directory, parent.c_str(), {.directory = true, .path_only = path_only}, 0); });
  };
  auto opened = open(!to_sync);
  if (!opened && opened.error() == EACCES && to_sync) {
    opened = open(true);
  }
  if (!opened) {
    return std::unexpected(opened.error());
  }
  return parent_directory{.descriptor = unique_descriptor{*opened}, .name = std::string{name}};
}

auto sync_directory(os::descriptor directory, os::descriptor file) -> os::outcome<void> {
  auto const synced = os::retry([&] { return os::sync(directory); });
  if (!synced && synced.error() == EBADF) { // open(2): O_PATH
    return os::retry([&] { return os::sync_file_system(file); });
  }
  return synced;
}

auto file::open(std::filesystem::path const& path, open_options options) -> result<file> {
  auto opened = open_path(os::working_directory, path.native(), options, false);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  return handle_access::wrap(std::move(opened->state));
}

auto file::open_at(file const& directory, std::filesystem::path const& path, open_options options) -> result<file> {
  if (!directory.is_open()) {
    return closed_handle("open");
  }
  auto opened = open_path(directory.native_handle(), path.native(), options, false);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  return handle_access::wrap(std::move(opened->state));
}

auto file::create_new(std::filesystem::path const& path, open_options options) -> result<file> {
  auto opened = open_path(os::working_directory, path.native(), options, true);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  return handle_access::wrap(std::move(opened->state));
}

auto file::temporary(std::filesystem::path const& directory) -> result<file> {
  if (has_nul(directory.native())) {
    return refuse_nul("create a temporary file in", directory.native());
  }
  auto state = open_file::make({});
  auto const opened = os::retry(
      [&] { return os::open(os::working_directory, directory.c_str(), {.write = true, .unnamed = true}, 0600); });
  if (!opened) {
    return failure(opened.error(), "create a temporary file in", directory.native());
  }
  unique_descriptor descriptor{*opened};
  auto const status = os::status(descriptor.get());
  if (!status) {
    return failure(status.error(), "create a temporary file in", directory.native());
  }
  state->attach(std::move(descriptor), *status, {.read = true, .write = true});
  state->nonblocking = true;
  return handle_access::wrap(std::move(state));
}

auto file::in_memory(std::string_view name, memory_options options) -> result<file> {
  std::string label{name};
  if (has_nul(label)) {
    return failure(EINVAL, "create in memory", label, {}, "the name holds a NUL character");
  }
  auto state = open_file::make(label);
  auto const created = os::retry([&] { return os::memory_file(label.c_str(), options.sealable); });
  if (!created) {
    return failure(created.error(), "create in memory", label);
  }
  unique_descriptor descriptor{*created};
  auto const status = os::status(descriptor.get());
  if (!status) {
    return failure(status.error(), "create in memory", label);
  }
  if (!options.sealable) {
    // memfd_create(2): what protects the file from being executed also allows sealing.
    auto const seals = os::seals(descriptor.get());
    if (!seals) {
      return failure(seals.error(), "create in memory", label);
    }
    if ((*seals & os::seal_seal) == 0) {
      if (auto const done = os::add_seals(descriptor.get(), os::seal_seal); !done) {
        return failure(done.error(), "create in memory", label);
      }
    }
  }
  state->attach(std::move(descriptor), *status, {.read = true, .write = true});
  state->in_memory = true;
  return handle_access::wrap(std::move(state));
}

namespace {

// A file that takes seals and has no name may also be a new one of tmpfs, which can still get a name: memfd_create(2) tells how
// the others are called.
auto is_memory_file(os::descriptor descriptor) -> bool {
  constexpr std::string_view called = "/memfd:";
  std::array<char, called.size()> target{};
  auto const length = os::read_name(descriptor, target);
  return !length || std::string_view{target.data(), *length} == called; // without /proc no file gets a name
}

} // namespace

auto file::adopt(int descriptor, std::string_view path, bool any_type) -> result<file> {
  auto const access = os::access_of(descriptor);
  if (!access) {
    return failure(access.error(), "adopt", path);
  }
  if (access->append) {
    return failure(errc::invalid_options, "adopt", path, {}, "in append mode, writes would not go where they are told");
  }
  auto const status = os::status(descriptor);
  if (!status) {
    return failure(status.error(), "adopt", path);
  }
  if (status->type != os::file_type::regular && !any_type) {
    return failure(errc::not_a_regular_file, "adopt", path);
  }
  auto state = open_file::make(path);
  if (auto const done = os::set_close_on_exec(descriptor); !done) {
    return failure(done.error(), "adopt", path);
  }
  state->in_memory = status->links == 0 && os::seals(descriptor).has_value() && is_memory_file(descriptor);
  state->attach(unique_descriptor{descriptor}, *status, *access);
  return handle_access::wrap(std::move(state));
}

} // namespace fmmap
