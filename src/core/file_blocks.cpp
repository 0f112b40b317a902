// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <vector>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

auto next_data(os::descriptor from, std::uint64_t at, std::uint64_t end) -> os::outcome<os::interval> {
  auto const begin = os::retry([&] { return os::next_data(from, at); });
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
  auto const hole = os::retry([&] { return os::next_hole(from, *begin); });
  if (!hole && hole.error() == ENXIO) { // it was made shorter meanwhile: reading tells where it ends now
    return os::interval{.begin = *begin, .end = end};
  }
  if (!hole) {
    return std::unexpected(hole.error());
  }
  return os::interval{.begin = *begin, .end = std::min(*hole, end)};
}

auto write_again(open_file const& target, os::interval part, pages_that which) -> int {
  auto const size = static_cast<std::size_t>(std::min<std::uint64_t>(part.length(), transfer_size));
  auto const buffer = std::make_unique_for_overwrite<std::byte[]>(size);
  for (auto at = part.begin; at < part.end; at += transfer_size) {
    auto const length = static_cast<std::size_t>(std::min<std::uint64_t>(part.end - at, transfer_size));
    auto const got = read_fully(target.descriptor(), at, {buffer.get(), length});
    if (!got) {
      return got.error();
    }
    auto const unit = which == pages_that::are_there ? length : os::page_size();
    for (std::size_t begin = 0; begin < *got; begin += unit) {
      std::span const piece{buffer.get() + begin, std::min(unit, *got - begin)};
      if (which != pages_that::are_there && is_zero(piece) != (which == pages_that::are_zero)) {
        continue;
      }
      if (auto const put = write_fully(target.descriptor(), at + begin, piece); put.error != 0) {
        return put.error;
      }
    }
  }
  return 0;
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
  return target.readable ? write_again(target, bytes, pages_that::are_zero) : EOPNOTSUPP;
}

// Whether SEEK_HOLE names the holes: many file systems that cannot allocate know of none but the end.
auto tells_holes(open_file const& target, std::uint64_t size) -> os::outcome<bool> {
  auto const hole = os::retry([&] { return os::next_hole(target.descriptor(), 0); });
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
    auto const hole = os::retry([&] { return os::next_hole(target.descriptor(), at); });
    if (!hole) {
      return hole.error();
    }
    if (*hole >= bytes.end) {
      return 0;
    }
    auto const data = os::retry([&] { return os::next_data(target.descriptor(), *hole); });
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
    drop_failure(os::retry([&] { return os::set_size(target.descriptor(), old); }), "restore the size of", target.path);
  }
  return put.error;
}

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

namespace {

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
    report_dropped_error(size.error());
    return;
  }
  auto const from = std::max(old, own_end);
  auto const kept = *size > from ? end_of_data(target, from, *size) : from;
  if (!kept) {
    drop(kept.error(), "find the data of", target.path);
    return;
  }
  auto const length = *kept > from ? *kept : std::min(old, *size);
  drop_failure(os::retry([&] { return os::set_size(target.descriptor(), length); }), "restore the size of",
               target.path);
}

} // namespace

auto allocate_blocks(open_file const& target, os::interval bytes, std::uint64_t size) -> int {
  if (target.in_memory && bytes.length() > os::physical_memory()) {
    return ENOSPC; // the system would try, and kill other processes to make room
  }
  auto const keep_size =
      bytes.end <= size; // who fills a part does not want a file back that somebody has cut meanwhile
  auto const done =
      os::retry([&] { return os::allocate(target.descriptor(), bytes.begin, bytes.length(), keep_size); });
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
  if (auto const done = os::retry([&] { return os::set_size(state_->descriptor(), size); }); !done) {
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
  auto const done = os::retry([&] { return os::punch_hole(state_->descriptor(), range.offset, end - range.offset); });
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

} // namespace fmmap
