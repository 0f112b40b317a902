// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

constexpr int most_attempts = 100;
constexpr std::size_t transfer_size = std::size_t{1} << 20; // bytes a copy through memory moves at a time

auto has_nul(std::string_view path) -> bool { return path.find('\0') != std::string_view::npos; }

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
    here =
        retry([&] { return os::open(current.get(), component.empty() ? "." : component.c_str(), step, permissions); });
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
  auto opened = retry([&] { return os::open_resolved(directory, path, flags, permissions); });
  // openat2(2): a rename on the way makes it give up and ask to be called again.
  for (int again = 0; !opened && opened.error() == EAGAIN && again < most_attempts; ++again) {
    opened = retry([&] { return os::open_resolved(directory, path, flags, permissions); });
  }
  if (!opened && opened.error() == ENOSYS) {
    opened = open_step_by_step(directory, path, flags, permissions);
  }
  return opened;
}

inline auto open_descriptor(os::descriptor directory, char const* path, os::open_flags flags, unsigned permissions)
    -> os::outcome<os::descriptor> {
  return flags.no_symlinks || flags.beneath ? open_restricted(directory, path, flags, permissions)
                                            : retry([&] { return os::open(directory, path, flags, permissions); });
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

auto closed_handle(std::string_view operation) -> std::unexpected<error> { return failure(errc::closed, operation); }

// Returns where the part ended: before its end where the file turned out to be shorter.
auto copy_part(os::descriptor from, os::descriptor to, os::interval part) -> os::outcome<std::uint64_t> {
  auto const size = part.end;
  auto done = part.begin;
  while (done < size) {
    auto const length = static_cast<std::size_t>(std::min<std::uint64_t>(size - done, std::uint64_t{1} << 30));
    auto const copied = retry([&] { return os::copy_range(from, done, to, done, length); });
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

// Writes bytes as they read, in a hole only those of pages that do not read as zero: where a failed sync has lost the blocks
// of a part, the file system may call a hole what memory still has. Returns 0 or an errno.
auto write_again(open_file const& target, os::interval part, bool hole) -> int {
  auto const size = static_cast<std::size_t>(std::min<std::uint64_t>(part.length(), transfer_size));
  auto const buffer = std::make_unique_for_overwrite<std::byte[]>(size);
  for (auto at = part.begin; at < part.end; at += transfer_size) {
    auto const length = static_cast<std::size_t>(std::min<std::uint64_t>(part.end - at, transfer_size));
    auto const got = read_fully(target.descriptor(), at, {buffer.get(), length});
    if (!got) {
      return got.error();
    }
    auto const unit = hole ? os::page_size() : length;
    for (std::size_t begin = 0; begin < *got; begin += unit) {
      std::span const piece{buffer.get() + begin, std::min(unit, *got - begin)};
      if (hole && is_zero(piece)) {
        continue;
      }
      if (auto const put = write_fully(target.descriptor(), at + begin, piece); put.error != 0) {
        return put.error;
      }
    }
  }
  return 0;
}

// Writes parts of a file as they read, past the page cache. What is stored meanwhile would be lost. All are read before the
// first is written: that drops memory of the file, in pieces that may be larger than what is written.
auto write_directly(open_file const& target, std::span<os::interval const> parts) -> os::outcome<void> {
  auto const path = "/proc/self/fd/" + std::to_string(target.descriptor());
  auto const opened =
      retry([&] { return os::open(os::working_directory, path.c_str(), {.write = true, .direct = true}, 0); });
  if (!opened) {
    return std::unexpected(opened.error());
  }
  unique_descriptor const direct{*opened};
  auto const size = os::status(target.descriptor());
  if (!size) {
    return std::unexpected(size.error());
  }
  // Whole pages of the file, from whole pages of memory: more than any device asks for.
  struct piece {
    os::interval pages;
    mapping bytes;
  };
  std::vector<piece> pieces;
  for (auto const& part : parts) {
    auto const pages = os::outward(part, os::page_size());
    auto bytes = mapping::anonymous(static_cast<std::size_t>(pages.length()));
    if (!bytes) {
      return std::unexpected(ENOMEM);
    }
    if (auto const got = read_fully(target.descriptor(), pages.begin, bytes->writable_bytes()); !got) {
      return std::unexpected(got.error());
    }
    pieces.push_back({.pages = pages, .bytes = std::move(*bytes)});
  }
  for (auto const& [pages, bytes] : pieces) {
    if (auto const put = write_fully(direct.get(), pages.begin, bytes.bytes()); put.error != 0) {
      return std::unexpected(put.error);
    }
  }
  auto const longer = !pieces.empty() && pieces.back().pages.end > size->size;
  return longer ? retry([&] { return os::set_size(target.descriptor(), size->size); }) : os::outcome<void>{};
}

// Where data begins and ends, at or after `at`; empty when there is no more before `end`.
auto next_data(os::descriptor from, std::uint64_t at, std::uint64_t end) -> os::outcome<os::interval> {
  auto const begin = retry([&] { return os::next_data(from, at); });
  if (!begin) {
    switch (begin.error()) {
    case ENXIO: // nothing but a hole up to the end
      return os::interval{.begin = end, .end = end};
    case EINVAL: // a file system that does not tell
    case EOPNOTSUPP:
      return os::interval{.begin = at, .end = end};
    default:
      return std::unexpected(begin.error());
    }
  }
  if (*begin >= end) {
    return os::interval{.begin = end, .end = end};
  }
  auto const hole = retry([&] { return os::next_hole(from, *begin); });
  if (!hole && hole.error() == ENXIO) { // it was made shorter meanwhile: reading tells where it ends now
    return os::interval{.begin = *begin, .end = end};
  }
  if (!hole) {
    return std::unexpected(hole.error());
  }
  return os::interval{.begin = *begin, .end = std::min(*hole, end)};
}

// Copies the data and leaves the holes. The copy is as long as what could be read: a file may be made shorter meanwhile,
// and one of sysfs says it is a page long.
auto copy_bytes(open_file const& from, os::descriptor to, std::uint64_t size) -> result<void> {
  auto const fail = [&](int code) { return from.fail(code, "copy"); };
  if (size == 0) {
    auto const copied = copy_to_end(from.descriptor(), to);
    return copied ? result<void>{} : fail(copied.error());
  }
  if (auto const sized = retry([&] { return os::set_size(to, size); }); !sized) {
    return fail(sized.error());
  }
  auto length = size;
  for (std::uint64_t at = 0; at < length;) {
    auto const data = next_data(from.descriptor(), at, length);
    if (!data) {
      return fail(data.error());
    }
    if (data->empty()) { // a hole up to the end, wherever that is now
      auto const now = from.size();
      if (!now) {
        return std::unexpected(now.error());
      }
      length = std::clamp(*now, at, length);
      break;
    }
    auto const copied = copy_part(from.descriptor(), to, *data);
    if (!copied) {
      return fail(copied.error());
    }
    length = *copied < data->end ? *copied : length;
    at = data->end;
  }
  if (length < size) {
    if (auto const cut = retry([&] { return os::set_size(to, length); }); !cut) {
      return fail(cut.error());
    }
  }
  return {};
}

} // namespace

auto read_fully(os::descriptor from, std::uint64_t offset, std::span<std::byte> bytes) -> os::outcome<std::size_t> {
  std::size_t done = 0;
  while (done < bytes.size()) {
    auto const got = retry([&] { return os::read_at(from, offset + done, bytes.subspan(done)); });
    if (!got) {
      return std::unexpected(got.error());
    }
    if (*got == 0) {
      break;
    }
    done += *got;
  }
  return done;
}

namespace {

// For file systems that cannot allocate: a byte written is a block allocated.
auto write_zeros(open_file const& target, os::interval bytes) -> written {
  auto const zeros =
      std::make_unique<std::byte[]>(static_cast<std::size_t>(std::min(bytes.length(), std::uint64_t{transfer_size})));
  for (auto at = bytes.begin; at < bytes.end; at += transfer_size) {
    auto const length = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.end - at, transfer_size));
    if (auto const put = write_fully(target.descriptor(), at, {zeros.get(), length}); put.error != 0) {
      return {.bytes = static_cast<std::size_t>(at - bytes.begin) + put.bytes, .error = put.error};
    }
  }
  return {.bytes = static_cast<std::size_t>(bytes.length()), .error = 0};
}

// Writes the pages of `bytes` that read as zero: one that does not has a block.
auto rewrite_zero_pages(open_file const& target, os::interval bytes) -> int {
  if (!target.readable) {
    return EOPNOTSUPP;
  }
  auto const buffer = std::make_unique_for_overwrite<std::byte[]>(transfer_size);
  for (auto at = bytes.begin; at < bytes.end; at += transfer_size) {
    auto const length = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.end - at, transfer_size));
    auto const got = read_fully(target.descriptor(), at, {buffer.get(), length});
    if (!got) {
      return got.error();
    }
    for (std::size_t begin = 0; begin < *got; begin += os::page_size()) {
      std::span const page{buffer.get() + begin, std::min(os::page_size(), *got - begin)};
      if (!is_zero(page)) {
        continue;
      }
      if (auto const put = write_fully(target.descriptor(), at + begin, page); put.error != 0) {
        return put.error;
      }
    }
  }
  return 0;
}

// Whether SEEK_HOLE names the holes: many file systems that cannot allocate know of none but the end.
auto tells_holes(open_file const& target, std::uint64_t size) -> os::outcome<bool> {
  auto const hole = retry([&] { return os::next_hole(target.descriptor(), 0); });
  if (hole) {
    return *hole < size;
  }
  auto const unknown = hole.error() == EINVAL || hole.error() == EOPNOTSUPP;
  return unknown ? os::outcome<bool>{false} : std::unexpected(hole.error());
}

auto fill_holes(open_file const& target, os::interval bytes) -> int {
  auto const status = os::status(target.descriptor());
  if (!status) {
    return status.error();
  }
  if (status->allocated >= status->size) {
    return 0; // there are none
  }
  auto const told = tells_holes(target, status->size);
  if (!told) {
    return told.error();
  }
  if (!*told) {
    return rewrite_zero_pages(target, bytes);
  }
  auto at = bytes.begin;
  while (at < bytes.end) {
    auto const hole = retry([&] { return os::next_hole(target.descriptor(), at); });
    if (!hole) {
      return hole.error();
    }
    if (*hole >= bytes.end) {
      return 0;
    }
    auto const data = retry([&] { return os::next_data(target.descriptor(), *hole); });
    if (!data && data.error() != ENXIO) {
      return data.error();
    }
    auto const end = data ? std::min(*data, bytes.end) : bytes.end;
    if (auto const put = write_zeros(target, {.begin = *hole, .end = end}); put.error != 0) {
      return put.error;
    }
    at = end;
  }
  return 0;
}

} // namespace

auto clear_tail(open_file const& target, std::uint64_t old, std::uint64_t size) -> int {
  auto const end = std::min(size, os::round_up(old, os::page_size()).value_or(size));
  if (end <= old || target.type != os::file_type::regular) {
    return 0;
  }
  auto const length = static_cast<std::size_t>(end - old);
  auto const tail = std::make_unique<std::byte[]>(length);
  if (target.readable) {
    auto const got = read_fully(target.descriptor(), old, {tail.get(), length});
    if (got && is_zero({tail.get(), length})) {
      return 0;
    }
  }
  std::fill_n(tail.get(), length, std::byte{0});
  auto const put = write_fully(target.descriptor(), old, {tail.get(), length});
  if (put.error != 0) {
    drop_failure(retry([&] { return os::set_size(target.descriptor(), old); }), "restore the size of", target.path);
  }
  return put.error;
}

namespace {

// The same for a write that leaves a gap behind the end: the rest of the last page reads as zero before it is a part of
// the file. A write at the beginning leaves none; of any other only the size tells.
auto clear_gap(open_file const& target, std::uint64_t offset, std::size_t length) -> os::outcome<void> {
  if (offset == 0 || length == 0 || target.type != os::file_type::regular) {
    return {};
  }
  auto const status = os::status(target.descriptor());
  if (!status) {
    return std::unexpected(status.error());
  }
  auto const size = status->size;
  auto const end = std::min(offset, os::round_up(size, os::page_size()).value_or(offset));
  auto const code = size < end ? write_zeros(target, {.begin = size, .end = end}).error : 0;
  return code == 0 ? os::outcome<void>{} : std::unexpected(code);
}

// Where the last data of the file end, from `begin` on; `begin` when there are none. `size` where that cannot be told.
auto end_of_data(open_file const& target, std::uint64_t begin, std::uint64_t size) -> os::outcome<std::uint64_t> {
  auto found = begin;
  // The page that `begin` lies in is data as a whole: there only the bytes tell.
  auto const page_end = std::min(size, os::round_up(begin, os::page_size()).value_or(size));
  if (begin < page_end && target.readable) {
    auto const tail = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(page_end - begin));
    std::span const bytes{tail.get(), static_cast<std::size_t>(page_end - begin)};
    auto const got = read_fully(target.descriptor(), begin, bytes);
    if (!got) {
      return std::unexpected(got.error());
    }
    found = is_zero(bytes.first(*got)) ? begin : page_end;
  }
  for (auto at = page_end; at < size;) {
    auto const data = next_data(target.descriptor(), at, size);
    if (!data) {
      return std::unexpected(data.error());
    }
    found = data->empty() ? found : data->end;
    at = data->end;
  }
  return found;
}

// Makes the file `old` bytes long again after an allocation has failed, which frees what it got past that. What it wrote
// itself ends at `own_end`. Data further on are somebody else's, who has written to the file meanwhile, and stay.
void undo_growth(open_file const& target, std::uint64_t old, std::uint64_t own_end) {
  auto const size = target.size();
  if (!size) {
    drop(size.error());
    return;
  }
  auto const from = std::max(old, own_end);
  auto const kept = *size > from ? end_of_data(target, from, *size) : from;
  if (!kept) {
    drop(kept.error(), "find the data of", target.path);
    return;
  }
  auto const length = *kept > from ? *kept : std::min(old, *size);
  drop_failure(retry([&] { return os::set_size(target.descriptor(), length); }), "restore the size of", target.path);
}

} // namespace

auto allocate_blocks(open_file const& target, os::interval bytes, std::uint64_t size) -> int {
  auto const done = retry([&] { return os::allocate(target.descriptor(), bytes.begin, bytes.length(), false); });
  auto code = done ? 0 : done.error();
  auto own_end = size;
  if (code == EOPNOTSUPP || code == ENOSYS) {
    code = bytes.begin < size ? fill_holes(target, {.begin = bytes.begin, .end = std::min(bytes.end, size)}) : 0;
    if (code == 0 && bytes.end > size) {
      auto const begin = std::max(size, bytes.begin);
      auto const put = write_zeros(target, {.begin = begin, .end = bytes.end});
      code = put.error;
      own_end = begin + put.bytes;
    }
  }
  if (code != 0 && bytes.end > size) {
    undo_growth(target, size, own_end); // ext4 leaves the file grown and partly allocated
  }
  return code;
}

auto write_fully(os::descriptor to, std::uint64_t offset, std::span<std::byte const> bytes) -> written {
  std::size_t done = 0;
  while (done < bytes.size()) {
    auto const put = retry([&] { return os::write_at(to, offset + done, bytes.subspan(done)); });
    if (!put || *put == 0) {
      return {.bytes = done, .error = put ? EIO : put.error()};
    }
    done += *put;
  }
  return {.bytes = done, .error = 0};
}

auto open_path(os::descriptor directory, char const* path, open_options const& options, bool exclusive)
    -> result<opened_file> {
  auto const writes = options.access == access::read_write || exclusive;
  if (options.create && !writes) {
    return failure(errc::invalid_options, "open", path, {}, "creating a file needs access::read_write");
  }
  auto const flags = os::open_flags{
      .write = writes, .no_symlinks = options.symlinks == symlinks::refuse_all, .beneath = options.beneath};
  auto state = open_file::make(path);
  auto opened = open_or_create(directory, path, flags, options, exclusive);
  if (!opened) {
    return describe_open_failure(opened.error(), path, options);
  }
  rollback undo{[&] {
    if (opened->created) {
      drop_failure(os::unlink(directory, path), "remove the new", path);
    }
  }};
  auto const status = os::status(opened->descriptor.get());
  if (!status) {
    return failure(status.error(), "open", path);
  }
  if (status->type != os::file_type::regular) {
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
  auto const opened = retry([&] { return os::reopen(there.get(), wanted); });
  return !opened && opened.error() == ENOENT ? std::unexpected(EAGAIN) : opened; // no /proc to reopen by
}

auto open_parent(os::descriptor directory, std::string_view path, bool to_sync) -> os::outcome<parent_directory> {
  auto const slash = path.rfind('/');
  auto const name = slash == std::string_view::npos ? path : path.substr(slash + 1);
  std::string const parent{slash == std::string_view::npos ? "." : path.substr(0, slash + 1)};
  auto const open = [&](bool path_only) {
    return retry([&] { return os::open(directory, parent.c_str(), {.directory = true, .path_only = path_only}, 0); });
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
  auto const synced = retry([&] { return os::sync(directory); });
  if (!synced && synced.error() == EBADF) { // open(2): O_PATH
    return retry([&] { return os::sync_file_system(file); });
  }
  return synced;
}

auto file::open(std::filesystem::path const& path, open_options options) -> result<file> {
  if (has_nul(path.native())) {
    return failure(EINVAL, "open", path.native(), {}, "the path holds a NUL character");
  }
  auto opened = open_path(os::working_directory, path.c_str(), options, false);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  return handle_access::wrap(std::move(opened->state));
}

auto file::open_at(file const& directory, std::filesystem::path const& path, open_options options) -> result<file> {
  if (!directory.is_open()) {
    return closed_handle("open");
  }
  if (has_nul(path.native())) {
    return failure(EINVAL, "open", path.native(), {}, "the path holds a NUL character");
  }
  auto opened = open_path(directory.native_handle(), path.c_str(), options, false);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  return handle_access::wrap(std::move(opened->state));
}

auto file::create_new(std::filesystem::path const& path, open_options options) -> result<file> {
  if (has_nul(path.native())) {
    return failure(EINVAL, "create", path.native(), {}, "the path holds a NUL character");
  }
  auto opened = open_path(os::working_directory, path.c_str(), options, true);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  return handle_access::wrap(std::move(opened->state));
}

auto file::temporary(std::filesystem::path const& directory) -> result<file> {
  if (has_nul(directory.native())) {
    return failure(EINVAL, "create a temporary file in", directory.native(), {}, "the path holds a NUL character");
  }
  auto state = open_file::make({});
  auto const opened =
      retry([&] { return os::open(os::working_directory, directory.c_str(), {.write = true, .unnamed = true}, 0600); });
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
  auto const created = retry([&] { return os::memory_file(label.c_str(), options.sealable); });
  if (!created) {
    return failure(created.error(), "create in memory", label);
  }
  unique_descriptor descriptor{*created};
  auto const status = os::status(descriptor.get());
  if (!status) {
    return failure(status.error(), "create in memory", label);
  }
  // memfd_create(2): what protects the file from being executed also allows sealing.
  auto const seals = options.sealable ? os::seal_seal : os::seals(descriptor.get()).value_or(os::seal_seal);
  if ((seals & os::seal_seal) == 0) {
    if (auto const done = os::add_seals(descriptor.get(), os::seal_seal); !done) {
      return failure(done.error(), "create in memory", label);
    }
  }
  state->attach(std::move(descriptor), *status, {.read = true, .write = true});
  state->in_memory = true;
  return handle_access::wrap(std::move(state));
}

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
  // A file that takes seals lies in memory; without a name it ends with the last handle.
  state->in_memory = status->links == 0 && os::seals(descriptor).has_value();
  state->attach(unique_descriptor{descriptor}, *status, *access);
  return handle_access::wrap(std::move(state));
}

auto file::path() const noexcept -> std::string_view {
  return state_ && !state_->in_memory ? state_->path : std::string_view{};
}

auto file::identity() const noexcept -> file_identity { return state_ ? state_->identity : file_identity{}; }

auto file::access() const noexcept -> fmmap::access {
  return state_ && state_->writable ? fmmap::access::read_write : fmmap::access::read_only;
}

auto file::native_handle() const noexcept -> int { return state_ ? state_->descriptor() : os::no_descriptor; }

auto file::size() const -> result<std::uint64_t> {
  if (!state_) {
    return closed_handle("size");
  }
  return state_->size();
}

auto file::metadata() const -> result<file_metadata> {
  if (!state_) {
    return closed_handle("read the metadata");
  }
  auto const status = os::status(state_->descriptor());
  if (!status) {
    return state_->fail(status.error(), "read the metadata of");
  }
  auto size = status->size;
  if (status->type == os::file_type::block_device) {
    auto const device = os::device_size(state_->descriptor());
    if (!device) {
      return state_->fail(device.error(), "read the metadata of");
    }
    size = *device;
  }
  auto const time = [](os::timestamp t) {
    return file_metadata::time{std::chrono::seconds{t.seconds} + std::chrono::nanoseconds{t.nanoseconds}};
  };
  return file_metadata{
      .size = size,
      .allocated_bytes = status->allocated,
      .links = status->links,
      .block_size = status->block_size,
      .permissions = status->permissions,
      .owner = status->owner,
      .group = status->group,
      .type = static_cast<file_type>(status->type),
      .accessed = time(status->accessed),
      .modified = time(status->modified),
      .status_changed = time(status->changed),
      .identity = state_->identity,
  };
}

auto file::resize(std::uint64_t size) -> result<void> {
  if (!state_) {
    return closed_handle("resize");
  }
  if (!state_->writable) {
    return state_->fail(errc::read_only, "resize");
  }
  byte_range const range{.offset = 0, .length = size};
  auto const old = state_->size();
  if (!old) {
    return std::unexpected(old.error());
  }
  if (auto const done = retry([&] { return os::set_size(state_->descriptor(), size); }); !done) {
    return state_->fail(done.error(), "resize", range);
  }
  if (auto const code = clear_tail(*state_, *old, size); code != 0) {
    return state_->fail(code, "resize", range);
  }
  return {};
}

auto file::allocate(byte_range range) -> result<void> {
  if (!state_) {
    return closed_handle("allocate");
  }
  if (!state_->writable) {
    return state_->fail(errc::read_only, "allocate", range);
  }
  auto const size = state_->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  auto const bytes = resolve(range, range.length == to_end ? *size : everything.end);
  if (!bytes) {
    return state_->fail(errc::out_of_range, "allocate", range);
  }
  if (bytes->empty()) {
    return {};
  }
  auto code = allocate_blocks(*state_, *bytes, *size);
  if (code == 0) {
    code = clear_tail(*state_, *size, bytes->end);
  }
  if (code != 0) {
    return state_->fail(code, "allocate", range);
  }
  return {};
}

auto file::punch_hole(byte_range range) -> result<void> {
  if (!state_) {
    return closed_handle("punch a hole in");
  }
  if (!state_->writable) {
    return state_->fail(errc::read_only, "punch a hole in", range);
  }
  auto const size = state_->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  if (range.length != to_end && !os::checked_add(range.offset, range.length)) {
    return state_->fail(errc::out_of_range, "punch a hole in", range);
  }
  auto const end = range.length == to_end ? *size : std::min(*size, range.offset + range.length);
  if (range.offset >= end) {
    return {};
  }
  auto const done = retry([&] { return os::punch_hole(state_->descriptor(), range.offset, end - range.offset); });
  if (!done) {
    return state_->fail(done.error(), "punch a hole in", range);
  }
  return {};
}

auto file::data_ranges(byte_range range) const -> result<std::vector<byte_range>> {
  if (!state_) {
    return closed_handle("find the data of");
  }
  auto const size = state_->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  auto const bytes = resolve(range, *size);
  if (!bytes) {
    return state_->fail(errc::out_of_range, "find the data of", range);
  }
  std::vector<byte_range> found;
  for (auto at = bytes->begin; at < bytes->end;) {
    auto const data = next_data(state_->descriptor(), at, bytes->end);
    if (!data) {
      return state_->fail(data.error(), "find the data of", range);
    }
    if (!data->empty()) {
      found.push_back(as_range(*data));
    }
    at = data->end;
  }
  return found;
}

auto file::clone_to(std::filesystem::path const& path, clone_options options) const -> result<clone_method> {
  if (!state_) {
    return closed_handle("clone");
  }
  auto const fail = [&](int code, std::string_view hint = {}) {
    return failure(code, "clone \"" + std::string{state_->path} + "\" to", path.native(), {}, hint);
  };
  if (has_nul(path.native())) {
    return fail(EINVAL);
  }
  auto const size = state_->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  auto const to_sync = options.level >= durability::data;
  auto const parent = open_parent(os::working_directory, path.native(), to_sync);
  if (!parent) {
    return fail(parent.error());
  }
  if (os::status_at(parent->descriptor.get(), parent->name.c_str(), false)) {
    return fail(EEXIST);
  }
  auto target = staged_file::create(parent->descriptor.get(), parent->name, options.permissions);
  if (!target) {
    return fail(target.error());
  }
  auto method = clone_method::reflink;
  if (!retry([&] { return os::clone(target->descriptor(), state_->descriptor()); })) {
    method = clone_method::copy;
    if (auto const copied = copy_bytes(*state_, target->descriptor(), *size); !copied) {
      return fail(copied.error().code().value());
    }
  }
  if (options.level != durability::none) {
    if (auto const synced = retry([&] { return os::sync(target->descriptor()); }); !synced) {
      return fail(synced.error());
    }
  }
  if (auto const done = target->publish(); !done) {
    return fail(done.error(), naming_hint(done.error()));
  }
  if (to_sync) {
    if (auto const synced = sync_directory(parent->descriptor.get(), target->descriptor()); !synced) {
      drop_failure(os::unlink(parent->descriptor.get(), parent->name.c_str()), "remove the new", path.native());
      return fail(synced.error());
    }
  }
  return method;
}

auto file::read_at(std::uint64_t offset, std::span<std::byte> bytes) const -> result<std::size_t> {
  if (!state_) {
    return closed_handle("read");
  }
  byte_range const range{.offset = offset, .length = bytes.size()};
  if (offset > os::largest_offset) {
    return 0;
  }
  // A read may not reach past the largest offset, even where nothing is.
  auto const within = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), os::largest_offset - offset));
  auto const got = read_fully(state_->descriptor(), offset, bytes.first(within));
  if (!got) {
    return state_->fail(got.error(), "read", range);
  }
  return *got;
}

auto file::write_at(std::uint64_t offset, std::span<std::byte const> bytes) -> result<void> {
  if (!state_) {
    return closed_handle("write");
  }
  byte_range const range{.offset = offset, .length = bytes.size()};
  if (!state_->writable) {
    return state_->fail(errc::read_only, "write", range);
  }
  if (!os::fits(offset, bytes.size(), os::largest_offset)) {
    return state_->fail(EFBIG, "write", range);
  }
  if (auto const cleared = clear_gap(*state_, offset, bytes.size()); !cleared) {
    return state_->fail(cleared.error(), "write", range);
  }
  auto const put = write_fully(state_->descriptor(), offset, bytes);
  if (put.error != 0) {
    return state_->fail(put.error, "write",
                        byte_range{.offset = offset + put.bytes, .length = bytes.size() - put.bytes});
  }
  return {};
}

auto file::sync(durability level) -> result<durability> {
  if (!state_) {
    return closed_handle("sync");
  }
  return state_->flush(level, everything, {});
}

auto file::rewrite(byte_range range) -> result<durability> {
  if (!state_) {
    return closed_handle("rewrite");
  }
  if (!state_->writable) {
    return state_->fail(errc::read_only, "rewrite", range);
  }
  auto const size = state_->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  auto const bytes = resolve(range, *size);
  if (!bytes) {
    return state_->fail(errc::out_of_range, "rewrite", range);
  }
  auto const write_all_again = [&]() -> result<void> {
    for (auto at = bytes->begin; at < bytes->end;) {
      auto const data = next_data(state_->descriptor(), at, bytes->end);
      if (!data) {
        return state_->fail(data.error(), "rewrite", range);
      }
      auto code = write_again(*state_, {.begin = at, .end = data->begin}, true);
      if (code == 0) {
        code = write_again(*state_, *data, false);
      }
      if (code != 0) {
        return state_->fail(code, "rewrite", range);
      }
      at = data->end;
    }
    return {};
  };
  // Past the end there is nothing that could have been lost.
  return state_->rewrite({.begin = bytes->begin, .end = bytes->end == *size ? everything.end : bytes->end},
                         write_all_again,
                         [&](std::span<os::interval const> parts) { return write_directly(*state_, parts); });
}

auto file::seal(file_seals seals) -> result<void> {
  if (!state_) {
    return closed_handle("seal");
  }
  auto const bits = (seals.shrink ? os::seal_shrink : 0U) | (seals.grow ? os::seal_grow : 0U) |
                    (seals.write ? os::seal_write : 0U) | (seals.future_write ? os::seal_future_write : 0U) |
                    (seals.seal ? os::seal_seal : 0U);
  if (auto const done = os::add_seals(state_->descriptor(), bits); !done) {
    return state_->fail(done.error(), "seal");
  }
  return {};
}

auto file::seals() const -> result<file_seals> {
  if (!state_) {
    return closed_handle("read the seals");
  }
  auto const bits = os::seals(state_->descriptor());
  if (!bits) {
    return state_->fail(bits.error(), "read the seals of");
  }
  return file_seals{.shrink = (*bits & os::seal_shrink) != 0,
                    .grow = (*bits & os::seal_grow) != 0,
                    .write = (*bits & os::seal_write) != 0,
                    .future_write = (*bits & os::seal_future_write) != 0,
                    .seal = (*bits & os::seal_seal) != 0};
}

auto file::release() -> result<int> {
  if (!state_) {
    return closed_handle("release");
  }
  if (is_shared(*state_)) {
    return state_->fail(errc::in_use, "release");
  }
  if (auto const failed = state_->failed_sync()) {
    return std::unexpected(*failed);
  }
  if (state_->unsynced_parent.get() != os::no_descriptor) {
    if (auto const removed = remove(); !removed) {
      return std::unexpected(removed.error());
    }
  }
  if (state_->nonblocking) {
    if (auto const done = os::set_blocking(state_->descriptor()); !done) {
      return state_->fail(done.error(), "release");
    }
    state_->nonblocking = false;
  }
  auto const state = std::move(state_);
  return state->release();
}

auto file::close() -> result<void> {
  auto const state = std::move(state_);
  if (!state) {
    return closed_handle("close");
  }
  if (is_shared(*state)) {
    return {};
  }
  return state->close();
}

} // namespace fmmap
