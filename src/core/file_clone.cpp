// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

// Returns where the part ended: before its end where the file turned out to be shorter.
auto copy_part(os::descriptor from, os::descriptor to, os::interval part) -> os::outcome<std::uint64_t> {
  auto const size = part.end;
  auto done = part.begin;
  while (done < size) {
    auto const length = static_cast<std::size_t>(std::min<std::uint64_t>(size - done, std::uint64_t{1} << 30));
    auto const copied = os::retry([&] { return os::copy_range(from, done, to, done, length); });
    if (!copied || *copied == 0) {
      break; // not between these file systems, or not to this end: through memory
    }
    done += *copied;
  }
  auto const buffer = std::make_unique_for_overwrite<std::byte[]>(done < size ? transfer_size : 0);
  while (done < size) {
    auto const length = static_cast<std::size_t>(std::min<std::uint64_t>(size - done, transfer_size));
    std::span const piece{buffer.get(), length};
    auto const got = read_fully(from, done, piece);
    if (!got) {
      return std::unexpected(got.error());
    }
    auto const put = write_fully(to, done, piece.first(*got));
    if (put.error != 0) {
      return std::unexpected(put.error);
    }
    done += *got;
    if (*got < length) {
      break; // it was made shorter meanwhile, or never was as long as it said
    }
  }
  return done;
}

// Files of /proc say they are empty: only reading tells.
auto copy_to_end(os::descriptor from, os::descriptor to) -> os::outcome<void> {
  auto const buffer = std::make_unique_for_overwrite<std::byte[]>(transfer_size);
  for (std::uint64_t done = 0;;) {
    auto const got = read_fully(from, done, {buffer.get(), transfer_size});
    if (!got || *got == 0) {
      return got ? os::outcome<void>{} : std::unexpected(got.error());
    }
    if (auto const put = write_fully(to, done, {buffer.get(), *got}); put.error != 0) {
      return std::unexpected(put.error);
    }
    done += *got;
  }
}

// Copies the data and leaves the holes. The copy is as long as what could be read: a file may be made shorter meanwhile,
// and one of sysfs says it is a page long. Returns 0 or an errno.
auto copy_bytes(open_file const& from, os::descriptor to, std::uint64_t size) -> int {
  if (size == 0) {
    auto const copied = copy_to_end(from.descriptor(), to);
    return copied ? 0 : copied.error();
  }
  if (auto const sized = os::retry([&] { return os::set_size(to, size); }); !sized) {
    return sized.error();
  }
  auto length = size;
  for (std::uint64_t at = 0; at < length;) {
    auto const data = next_data(from.descriptor(), at, length);
    if (!data) {
      return data.error();
    }
    if (data->empty()) { // a hole up to the end, wherever that is now
      auto const now = os::status(from.descriptor());
      if (!now) {
        return now.error();
      }
      length = std::clamp(now->size, at, length);
      break;
    }
    auto const copied = copy_part(from.descriptor(), to, *data);
    if (!copied) {
      return copied.error();
    }
    length = *copied < data->end ? *copied : length;
    at = data->end;
  }
  if (length < size) {
    if (auto const cut = os::retry([&] { return os::set_size(to, length); }); !cut) {
      return cut.error();
    }
  }
  return 0;
}

// Creates a file at `path`, which must not exist, that has its name once `write` has filled it: or leaves none. `write` is
// given the descriptor and returns 0 or an errno; `fail` makes the error of one.
template <class Write, class Fail>
auto create_filled(std::filesystem::path const& path, clone_options const& options, Write write, Fail fail)
    -> result<void> {
  if (has_nul(path.native())) {
    return fail(EINVAL, std::string_view{});
  }
  auto const to_sync = options.level >= durability::data;
  auto const parent = open_parent(os::working_directory, path.native(), to_sync);
  if (!parent) {
    return fail(parent.error(), std::string_view{});
  }
  if (os::status_at(parent->descriptor.get(), parent->name.c_str(), false)) {
    return fail(EEXIST, std::string_view{});
  }
  auto target = staged_file::create(parent->descriptor.get(), parent->name, options.permissions);
  if (!target) {
    return fail(target.error(), std::string_view{});
  }
  if (int const code = write(target->descriptor()); code != 0) {
    return fail(code, code == EFAULT ? "a part cannot be read: the file has become shorter, or its device has failed"
                                     : std::string_view{});
  }
  if (options.level != durability::none) {
    if (auto const synced = os::retry([&] { return os::sync(target->descriptor()); }); !synced) {
      return fail(synced.error(), std::string_view{});
    }
  }
  if (auto const done = target->publish(); !done) {
    return fail(done.error(), naming_hint(done.error()));
  }
  if (to_sync) {
    if (auto const synced = sync_directory(parent->descriptor.get(), target->descriptor()); !synced) {
      drop_failure(os::unlink(parent->descriptor.get(), parent->name.c_str()), "remove the new", path.native());
      return fail(synced.error(), std::string_view{});
    }
  }
  return {};
}

} // namespace

auto file::clone_to(std::filesystem::path const& path, clone_options options) const -> result<clone_method> {
  if (!state_) {
    return closed_handle("clone");
  }
  auto const size = state_->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  auto method = clone_method::reflink;
  auto const write = [&](os::descriptor target) {
    if (os::retry([&] { return os::clone(target, state_->descriptor()); })) {
      return 0;
    }
    method = clone_method::copy;
    return copy_bytes(*state_, target, *size);
  };
  auto const fail = [&](int code, std::string_view hint) {
    return failure(code, "clone \"" + std::string{state_->path} + "\" to", path.native(), {}, hint);
  };
  if (auto const created = create_filled(path, options, write, fail); !created) {
    return std::unexpected(created.error());
  }
  return method;
}

auto copy_to_file(std::span<std::byte const> bytes, std::filesystem::path const& path, clone_options const& options)
    -> result<void> {
  return create_filled(
      path, options, [&](os::descriptor target) { return write_fully(target, 0, bytes).error; },
      [&](int code, std::string_view hint) { return failure(code, "copy to", path.native(), {}, hint); });
}

} // namespace fmmap
