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
constexpr int name_attempts = 2000;
constexpr std::chrono::milliseconds name_pause{1};
constexpr std::size_t longest_name = 255; // NAME_MAX

// Of the file that is to be called `name`; as long as a name can be, whatever `name` is.
auto temporary_name_of(std::string_view name) -> std::string {
  constexpr std::string_view suffix = ".fmmap-new";
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

} // namespace

// A name cannot be taken over in one step from a file without one, so a replacement has a temporary name for the time
// between two system calls. It is the same for every replacement of a file: whoever comes next finds what a crash in
// that moment left, and a lock on it tells whether its owner is still at work.
staged_file::staged_file(unique_descriptor descriptor, os::descriptor directory, std::string_view name, bool named)
    : descriptor_{std::move(descriptor)},
      directory_{directory},
      name_{name},
      temporary_name_{temporary_name_of(name)},
      named_{std::make_unique<bool>(named)} {}

staged_file::~staged_file() {
  if (named_ && *named_) {
    if (auto const done = os::unlink(directory_, temporary_name_.c_str()); !done) {
      drop(error::make({done.error(), std::system_category()}, "remove", temporary_name_));
    }
  }
}

auto staged_file::create(os::descriptor directory, std::string_view name, unsigned permissions)
    -> os::outcome<staged_file> {
  auto const unnamed = retry([&] { return os::open(directory, ".", {.write = true, .unnamed = true}, permissions); });
  if (unnamed) {
    staged_file made{unique_descriptor{*unnamed}, directory, name, false};
    (void)os::try_lock_file(made.descriptor()); // nobody else can hold it
    return made;
  }
  if (unnamed.error() != EOPNOTSUPP && unnamed.error() != EISDIR && unnamed.error() != EINVAL) {
    return std::unexpected(unnamed.error());
  }
  staged_file made{unique_descriptor{}, directory, name, false};
  for (int attempt = 0; attempt < name_attempts; ++attempt) {
    auto const named = retry([&] {
      return os::open(directory, made.temporary_name_.c_str(), {.write = true, .create = true, .exclusive = true},
                      permissions);
    });
    if (named) {
      made.descriptor_ = unique_descriptor{*named};
      auto const locked = os::try_lock_file(made.descriptor());
      if (!locked && locked.error() == EWOULDBLOCK) {
        continue; // taken for a leftover in the moment before the lock
      }
      *made.named_ = true;
      if (!locked) {
        return std::unexpected(locked.error());
      }
      auto const kept = is_named(made.descriptor(), directory, made.temporary_name_);
      if (!kept) {
        return std::unexpected(kept.error());
      }
      if (*kept) {
        return made;
      }
      *made.named_ = false; // taken for a leftover in the moment before the lock
      continue;
    }
    if (named.error() != EEXIST) {
      return std::unexpected(named.error());
    }
    if (auto const cleared = made.clear_leftover(); !cleared) {
      return std::unexpected(cleared.error());
    }
  }
  return std::unexpected(EBUSY);
}

auto staged_file::clear_leftover() const -> os::outcome<void> {
  auto const opened = retry([&] { return os::open(directory_, temporary_name_.c_str(), {.no_follow = true}, 0); });
  if (!opened) {
    return opened.error() == ENOENT ? os::outcome<void>{} : std::unexpected(opened.error());
  }
  unique_descriptor const leftover{*opened};
  if (auto const locked = os::try_lock_file(leftover.get()); !locked) {
    if (locked.error() != EWOULDBLOCK) {
      return std::unexpected(locked.error());
    }
    std::this_thread::sleep_for(name_pause); // its owner is between two system calls
    return {};
  }
  auto const stale = is_named(leftover.get(), directory_, temporary_name_);
  if (!stale) {
    return std::unexpected(stale.error());
  }
  if (!*stale) {
    return {}; // its owner finished meanwhile
  }
  return os::unlink(directory_, temporary_name_.c_str());
}

auto staged_file::publish() -> os::outcome<void> {
  return os::link_descriptor(descriptor(), directory_, name_.c_str()); // a temporary name goes with the destructor
}

auto staged_file::take_temporary_name() -> os::outcome<void> {
  for (int attempt = 0; attempt < name_attempts; ++attempt) {
    auto const linked = os::link_descriptor(descriptor(), directory_, temporary_name_.c_str());
    if (linked) {
      *named_ = true;
      return {};
    }
    if (linked.error() != EEXIST) {
      return std::unexpected(linked.error());
    }
    if (auto const cleared = clear_leftover(); !cleared) {
      return std::unexpected(cleared.error());
    }
  }
  return std::unexpected(EBUSY);
}

auto staged_file::replace() -> os::outcome<void> {
  if (!*named_) {
    if (auto const taken = take_temporary_name(); !taken) {
      return std::unexpected(taken.error());
    }
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
  if (path.native().find('\0') != std::string::npos) {
    return fail(EINVAL, "the path holds a NUL character");
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
  if (auto const synced = retry([&] { return os::sync(fresh->descriptor()); }); !synced) {
    return fail(synced.error());
  }
  if (auto const done = fresh->replace(); !done) {
    return fail(done.error());
  }
  if (to_sync) {
    if (auto const synced = sync_directory(directory, fresh->descriptor()); !synced) {
      return fail(synced.error(), "the new content is in place, but a crash may bring the old back");
    }
  }
  return {};
}

} // namespace fmmap
