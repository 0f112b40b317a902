// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

constexpr int most_links = 40; // as many as path_resolution(7) follows
constexpr int most_names = 100;
constexpr int name_attempts = 50; // under one of them
constexpr std::chrono::milliseconds name_pause{1};
constexpr std::size_t longest_name = 255; // NAME_MAX

// Of the file that is to be called `name`; as long as a name can be, whatever `name` is.
auto temporary_name_of(std::string_view name, int number) -> std::string {
  auto const suffix = number == 0 ? std::string{".fmmap-new"} : ".fmmap-new-" + std::to_string(number);
  if (name.size() + suffix.size() < longest_name) {
    return "." + std::string{name}.append(suffix);
  }
  std::uint64_t hash = 0xcbf2'9ce4'8422'2325; // FNV-1a: the same in every process
  for (char const c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100'0000'01b3;
  }
  return "." + std::string{name.substr(0, longest_name / 2)} + "." + std::to_string(hash).append(suffix);
}

auto is_named(os::descriptor file, os::descriptor directory, std::string const& name) -> os::outcome<bool> {
  auto const mine = os::status(file);
  if (!mine) {
    return std::unexpected(mine.error());
  }
  auto const there = os::status_at(directory, name.c_str(), false);
  if (!there) {
    return there.error() == ENOENT ? os::outcome<bool>{false} : std::unexpected(there.error());
  }
  return mine->device == there->device && mine->inode == there->inode;
}

enum class name_state : unsigned char { free, in_use, unusable };

// Whether opening what has a temporary name failed because of what that is, and not for want of something.
auto is_not_ours(int code) noexcept -> bool {
  switch (code) {
  case EACCES:
  case EPERM:
  case ELOOP: // a symbolic link
  case EISDIR:
  case ENXIO: // a socket
  case ENODEV:
  case EAGAIN: // a lease
    return true;
  default:
    return false;
  }
}

// Removes what a crash has left under a temporary name: a regular file that nobody has locked. What else there is, or what
// cannot be told from a file that is in use, stays.
auto clear_leftover(os::descriptor directory, std::string const& name) -> os::outcome<name_state> {
  auto const opened = os::retry([&] { return os::open(directory, name.c_str(), {.no_follow = true}, 0); });
  if (!opened && opened.error() == ENOENT) {
    return name_state::free;
  }
  if (!opened) {
    return is_not_ours(opened.error()) ? os::outcome<name_state>{name_state::unusable}
                                       : std::unexpected(opened.error());
  }
  unique_descriptor const leftover{*opened};
  auto const status = os::status(leftover.get());
  if (!status) {
    return std::unexpected(status.error());
  }
  if (status->type != os::file_type::regular) {
    return name_state::unusable;
  }
  if (auto const locked = os::lock_file(leftover.get(), os::locking::exclusive, false); !locked) {
    return locked.error() == EWOULDBLOCK ? name_state::in_use : name_state::unusable;
  }
  auto const stale = is_named(leftover.get(), directory, name);
  if (!stale) {
    return std::unexpected(stale.error());
  }
  if (*stale) {
    if (auto const done = os::unlink(directory, name.c_str()); !done) {
      return is_not_ours(done.error()) ? os::outcome<name_state>{name_state::unusable} : std::unexpected(done.error());
    }
  }
  return name_state::free; // if it was not stale, its owner finished meanwhile
}

} // namespace

// A name cannot be taken over in one step from a file without one, so a replacement has a temporary name for the time
// between two system calls, or from the beginning where the file system knows no files without a name. It is the same for
// every replacement of a file: whoever comes next finds what a crash in that moment left, and a lock on it tells whether its
// owner is still at work. If it is for long, or what has the name cannot be removed, the name gets a number.
staged_file::staged_file(unique_descriptor descriptor, os::descriptor directory, std::string_view name, bool named)
    : descriptor_{std::move(descriptor)}, directory_{directory}, name_{name}, named_{std::make_unique<bool>(named)} {}

staged_file::~staged_file() {
  if (named_ && *named_) {
    if (auto const done = os::unlink(directory_, temporary_name_.c_str()); !done) {
      report_dropped_error(error::make({done.error(), std::system_category()}, "remove", temporary_name_));
    }
  }
}

auto staged_file::create(os::descriptor directory, std::string_view name, unsigned permissions)
    -> os::outcome<staged_file> {
  auto const unnamed =
      os::retry([&] { return os::open(directory, ".", {.write = true, .unnamed = true}, permissions); });
  if (unnamed) {
    staged_file made{unique_descriptor{*unnamed}, directory, name, false};
    (void)os::lock_file(made.descriptor(), os::locking::exclusive, false); // nobody else can hold it
    return made;
  }
  if (unnamed.error() != EOPNOTSUPP && unnamed.error() != EISDIR && unnamed.error() != EINVAL) {
    return std::unexpected(unnamed.error());
  }
  staged_file made{unique_descriptor{}, directory, name, false};
  auto const taken = made.take_temporary_name([&] { return made.create_named(permissions); });
  if (!taken) {
    return std::unexpected(taken.error());
  }
  return made;
}

// Makes `attempt` under one temporary name after the other, as long as that is EEXIST.
template <class Attempt>
auto staged_file::take_temporary_name(Attempt attempt) -> os::outcome<void> {
  for (int number = 0; number < most_names; ++number) {
    temporary_name_ = temporary_name_of(name_, number);
    for (int again = 0; again < name_attempts; ++again) {
      auto const done = attempt();
      if (done || done.error() != EEXIST) {
        return done;
      }
      auto const state = clear_leftover(directory_, temporary_name_);
      if (!state) {
        return std::unexpected(state.error());
      }
      if (*state == name_state::unusable) {
        break;
      }
      if (*state == name_state::in_use) {
        std::this_thread::sleep_for(name_pause); // its owner may be between two system calls
      }
    }
  }
  return std::unexpected(EBUSY);
}

auto staged_file::create_named(unsigned permissions) -> os::outcome<void> {
  auto const created = os::retry([&] {
    return os::open(directory_, temporary_name_.c_str(), {.write = true, .create = true, .exclusive = true},
                    permissions);
  });
  if (!created) {
    return std::unexpected(created.error());
  }
  descriptor_ = unique_descriptor{*created};
  auto const locked = os::lock_file(descriptor(), os::locking::exclusive, false);
  if (!locked && locked.error() == EWOULDBLOCK) {
    return std::unexpected(EEXIST); // taken for a leftover in the moment before the lock
  }
  *named_ = true;
  if (!locked) {
    return locked;
  }
  auto const kept = is_named(descriptor(), directory_, temporary_name_);
  if (!kept) {
    return std::unexpected(kept.error());
  }
  *named_ = *kept; // if not, it was taken for a leftover in the moment before the lock
  return *kept ? os::outcome<void>{} : std::unexpected(EEXIST);
}

auto staged_file::publish() -> os::outcome<void> {
  auto const linked = os::link_descriptor(descriptor(), directory_, name_.c_str());
  auto const without_links = !linked && (linked.error() == EPERM || linked.error() == EOPNOTSUPP);
  if (!without_links || !*named_) {
    return linked; // a temporary name goes with the destructor
  }
  auto const renamed = os::rename_to_free(directory_, temporary_name_.c_str(), name_.c_str());
  *named_ = !renamed;
  auto const missing = !renamed && (renamed.error() == EINVAL || renamed.error() == ENOSYS);
  return missing ? linked : renamed;
}

auto naming_hint(int code) noexcept -> std::string_view {
  switch (code) {
  case ENOENT:
    return "the directory is gone, or /proc, by which a file without a name gets one, is not mounted";
  case EPERM:
    return "the file system may have no hard links, by which a file without a name gets one";
  default:
    return {};
  }
}

auto staged_file::replace() -> os::outcome<void> {
  if (!*named_) {
    auto const taken =
        take_temporary_name([&] { return os::link_descriptor(descriptor(), directory_, temporary_name_.c_str()); });
    if (!taken) {
      return taken;
    }
    *named_ = true;
  }
  auto const done = os::rename(directory_, temporary_name_.c_str(), name_.c_str());
  if (done) {
    *named_ = false;
  }
  return done;
}

namespace {

// The directory and name that `path` leads to once links in its last component are followed.
auto find_target(std::string const& path, bool to_sync) -> os::outcome<parent_directory> {
  auto here = open_parent(os::working_directory, path, to_sync);
  for (int links = 0; here; ++links) {
    auto const status = os::status_at(here->descriptor.get(), here->name.c_str(), false);
    if (!status && status.error() != ENOENT) {
      return std::unexpected(status.error());
    }
    if (!status || status->type != os::file_type::symlink) {
      return here;
    }
    if (links == most_links) {
      return std::unexpected(ELOOP);
    }
    std::string target(4096, '\0');
    auto const length = os::read_link(here->descriptor.get(), here->name.c_str(), target);
    if (!length) {
      return std::unexpected(length.error());
    }
    target.resize(*length);
    auto const from = std::move(here->descriptor);
    here = open_parent(from.get(), target, to_sync);
  }
  return here;
}

// Gives the new file the permissions and owner of the one it replaces.
auto keep_attributes(os::descriptor target, os::file_status const& old) -> os::outcome<void> {
  auto const mine = os::status(target);
  if (!mine) {
    return std::unexpected(mine.error());
  }
  if (mine->owner != old.owner || mine->group != old.group) {
    if (auto const owned = os::set_owner(target, old.owner, old.group); !owned) {
      return owned;
    }
  }
  return os::set_permissions(target, old.permissions); // after the owner: chown clears the set-id bits
}

auto fill_content(staged_file const& target, std::size_t size, std::function<void(std::span<std::byte>)> const& fill)
    -> os::outcome<void> {
  if (size == 0) {
    fill({});
    return {};
  }
  auto const status = os::status(target.descriptor());
  if (!status) {
    return std::unexpected(status.error());
  }
  auto shared = open_file::make({});
  shared->attach(unique_descriptor{target.descriptor()}, *status, {.read = true, .write = true});
  struct lender { // the descriptor stays the staged file's
    open_file& borrowed;
    ~lender() { (void)borrowed.release(); }
  } const lent{*shared};
  if (auto const code = allocate_blocks(*shared, {.begin = 0, .end = size}, 0); code != 0) {
    return std::unexpected(code);
  }
  auto content = handle_access::map(shared, size, {.access = access::read_write});
  if (!content) {
    return std::unexpected(content.error().code().value());
  }
  fill(content->writable_bytes());
  return {};
}

} // namespace

auto replace_file(std::filesystem::path const& path, std::size_t size,
                  std::function<void(std::span<std::byte>)> const& fill, replace_options options) -> result<void> {
  auto const fail = [&](int code, std::string_view hint = {}) {
    return failure(code, "replace", path.native(), {}, hint);
  };
  if (has_nul(path.native())) {
    return refuse_nul("replace", path.native());
  }
  auto const to_sync = options.level >= durability::data;
  auto const target = find_target(path.native(), to_sync);
  if (!target) {
    return fail(target.error());
  }
  auto const directory = target->descriptor.get();
  auto const old = os::status_at(directory, target->name.c_str(), false);
  if (!old && old.error() != ENOENT) {
    return fail(old.error());
  }
  if (old && old->type != os::file_type::regular) {
    return failure(errc::not_a_regular_file, "replace", path.native());
  }
  auto fresh = staged_file::create(directory, target->name, options.permissions);
  if (!fresh) {
    return fail(fresh.error());
  }
  if (auto const filled = fill_content(*fresh, size, fill); !filled) {
    return fail(filled.error());
  }
  if (old) {
    if (auto const kept = keep_attributes(fresh->descriptor(), *old); !kept) {
      return fail(kept.error(), "its owner or permissions cannot be kept");
    }
  }
  // Before the name, whatever the level: a name must never lead to content that a crash can take away.
  if (auto const synced = os::retry([&] { return os::sync(fresh->descriptor()); }); !synced) {
    return fail(synced.error());
  }
  if (auto const done = fresh->replace(); !done) {
    return fail(done.error(), naming_hint(done.error()));
  }
  if (to_sync) {
    if (auto const synced = sync_directory(directory, fresh->descriptor()); !synced) {
      return fail(synced.error(), "the new content is in place, but a crash may bring the old back");
    }
  }
  return {};
}

} // namespace fmmap
