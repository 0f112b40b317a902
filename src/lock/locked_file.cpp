// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <expected>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.lock;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

struct file_under_lock {
  file_lock lock;
  file opened;
  bool created;
};

struct opened_file {
  file opened;
  bool created;
};

// Removes a file that this call has created, when it fails before the lock is held: under a lock by the file's own descriptor,
// so that nobody else is using it, and only as long as nobody has.
void remove_unlocked(file& created, lock_kind kind) {
  auto const locked = kind == lock_kind::flock
                          ? os::lock_file(created.native_handle(), os::locking::exclusive, false)
                          : os::lock_bytes(created.native_handle(), os::locking::exclusive, {}, false);
  if (!locked || created.size().value_or(1) != 0) {
    return;
  }
  if (auto const removed = created.remove(); !removed) {
    report_dropped_error(removed.error());
  }
}

auto status_of(std::filesystem::path const& path, bool follow) -> os::outcome<os::file_status> {
  return os::retry([&] { return os::status_at(os::working_directory, path.c_str(), follow); });
}

// Opens the file, and tells whether this call has created it.
auto open_or_create(std::filesystem::path const& path, open_options options) -> result<opened_file> {
  auto const may_create = std::exchange(options.create, false);
  while (true) {
    auto existing = file::open(path, options);
    if (existing) {
      return opened_file{.opened = std::move(*existing), .created = false};
    }
    if (!may_create || existing.error() != std::errc::no_such_file_or_directory) {
      return std::unexpected(std::move(existing).error());
    }
    auto made = file::create_new(path, options);
    if (made) {
      return opened_file{.opened = std::move(*made), .created = true};
    }
    if (made.error() != std::errc::file_exists) {
      return std::unexpected(std::move(made).error());
    }
    // Somebody else has created it meanwhile, unless it is a link that leads nowhere.
    if (auto const there = status_of(path, false); there && there->type == os::file_type::symlink) {
      return failure(EEXIST, "open", path.native(), {}, "it is a symbolic link that leads nowhere");
    }
  }
}

auto lock_opened(file const& opened, lock_mode mode, lock_kind kind, clock::time_point deadline) -> result<file_lock> {
  auto lock = file_lock::create(opened, whole, kind);
  if (!lock) {
    return lock;
  }
  auto const acquired = lock->acquire_for(mode, time_until(deadline));
  if (!acquired) {
    return std::unexpected(acquired.error());
  }
  if (!*acquired) {
    return failure(errc::lock_timed_out, "lock", opened.path(), {}, describe_holders(opened, *lock, mode));
  }
  return lock;
}

// Opens and locks the file that has the name while it is locked.
auto open_under_lock(std::filesystem::path const& path, open_options const& options, lock_mode mode, lock_kind kind,
                     clock::time_point deadline) -> result<file_under_lock> {
  if (kind == lock_kind::process) { // before a file is created
    return failure(errc::invalid_options, "open", path.native(), {}, "fmmap makes no locks of processes");
  }
  while (true) {
    auto found = open_or_create(path, options);
    if (!found) {
      return std::unexpected(std::move(found).error());
    }
    auto lock = lock_opened(found->opened, mode, kind, deadline);
    if (!lock) {
      if (found->created) {
        remove_unlocked(found->opened, kind);
      }
      return std::unexpected(std::move(lock).error());
    }
    auto const now = status_of(path, true);
    if (now && file_identity{.device = now->device, .inode = now->inode} == found->opened.identity()) {
      // Somebody else may have had a file that this call has created before it was locked. It is theirs once they have
      // written to it.
      auto const created = found->created && now->size == 0;
      return file_under_lock{.lock = std::move(*lock), .opened = std::move(found->opened), .created = created};
    }
    if (!now && now.error() != ENOENT) {
      return failure(now.error(), "lock", path.native());
    }
  }
}

// Maps what has been opened, and cuts it or gives it its size, now that nobody else may be using it.
auto map_locked(file_under_lock held, locked_options const& options, lock_mode mode) -> result<locked_file> {
  auto const remove_created = [&](auto& what) {
    if (held.created && mode == lock_mode::exclusive) {
      if (auto const removed = what.remove(); !removed) {
        report_dropped_error(removed.error());
      }
    }
  };
  auto mapping = options.mapping;
  auto const size = options.truncate ? std::exchange(mapping.size, 0) : 0;
  auto file = mutable_mapped_file::adopt(std::move(held.opened), mapping);
  if (!file) {
    remove_created(held.opened);
    return std::unexpected(std::move(file).error());
  }
  if (options.truncate) {
    auto sized = file->resize(0);
    if (sized && size > 0) {
      sized = file->resize(size);
    }
    if (!sized) {
      remove_created(*file);
      return std::unexpected(std::move(sized).error());
    }
  }
  return locked_file{std::move(held.lock), std::move(*file)};
}

} // namespace

auto open_locked(std::filesystem::path const& path, locked_options options, lock_mode mode, wait_for limit)
    -> result<locked_file> {
  if (options.truncate && mode != lock_mode::exclusive) {
    return failure(errc::invalid_options, "open", path.native(), {}, "cutting the file needs an exclusive lock");
  }
  auto const& mapping = options.mapping;
  auto held = open_under_lock(path,
                              {.access = access::read_write,
                               .create = options.create,
                               .permissions = mapping.permissions,
                               .symlinks = mapping.symlinks,
                               .sync_directory = mapping.sync_directory},
                              mode, options.kind, deadline_of(limit));
  if (!held) {
    return std::unexpected(std::move(held).error());
  }
  return map_locked(std::move(*held), options, mode);
}

auto open_locked_for_reading(std::filesystem::path const& path, read_options options, wait_for limit, lock_kind kind)
    -> result<locked_reader> {
  auto held = open_under_lock(path, {.symlinks = options.symlinks}, lock_mode::shared, kind, deadline_of(limit));
  if (!held) {
    return std::unexpected(std::move(held).error());
  }
  auto file = mapped_file::adopt(std::move(held->opened), options);
  if (!file) {
    return std::unexpected(std::move(file).error());
  }
  return locked_reader{std::move(held->lock), std::move(*file)};
}

} // namespace fmmap
