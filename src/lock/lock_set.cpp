// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

module fmmap.lock;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

// A part of a file and the mode it is to be locked in.
struct lock_part {
  file const* of;
  os::interval bytes;
  lock_mode mode;
};

auto order_of(lock_part const& part) { return std::tuple{part.of->identity(), part.bytes.begin}; }

auto range_of(os::interval bytes) -> byte_range {
  return {.offset = bytes.begin,
          .length = bytes.end > os::largest_offset ? to_end : static_cast<std::size_t>(bytes.length())};
}

auto part_of(lock_request const& request) -> result<lock_part> {
  if (!request.of.is_open()) {
    return failure(errc::closed, "lock");
  }
  auto const bytes = system_range(request.range);
  if (!bytes) {
    return failure(errc::out_of_range, "lock", request.of.path(), request.range, "offsets of files end at 2^63");
  }
  auto const open_ended = request.range.length == to_end;
  auto const end = open_ended ? os::largest_offset + 1 : bytes->offset + bytes->length;
  return lock_part{.of = &request.of, .bytes = {.begin = bytes->offset, .end = end}, .mode = request.mode};
}

// The parts of one file, cut at every end of a request, each in the strongest mode that is asked for it.
auto cut(std::span<lock_part const> requests) -> std::vector<lock_part> {
  std::vector<std::uint64_t> ends;
  for (auto const& request : requests) {
    ends.insert(ends.end(), {request.bytes.begin, request.bytes.end});
  }
  std::ranges::sort(ends);
  std::vector<lock_part> parts;
  for (std::size_t i = 0; i + 1 < ends.size(); ++i) {
    os::interval const bytes{.begin = ends[i], .end = ends[i + 1]};
    lock_part const* strongest = nullptr;
    for (auto const& request : requests) {
      auto const covers = request.bytes.begin <= bytes.begin && bytes.end <= request.bytes.end;
      if (covers && !bytes.empty() && (strongest == nullptr || request.mode > strongest->mode)) {
        strongest = &request;
      }
    }
    if (strongest == nullptr) {
      continue;
    }
    if (!parts.empty() && parts.back().bytes.end == bytes.begin && parts.back().mode == strongest->mode) {
      parts.back().bytes.end = bytes.end;
    } else {
      parts.push_back({.of = strongest->of, .bytes = bytes, .mode = strongest->mode});
    }
  }
  return parts;
}

// All parts, in the order in which everybody takes them.
auto in_order(std::vector<lock_part> requests) -> std::vector<lock_part> {
  std::ranges::sort(requests, {}, order_of);
  std::vector<lock_part> parts;
  for (auto first = requests.begin(); first != requests.end();) {
    auto const last = std::ranges::find_if(
        first, requests.end(), [&](auto const& request) { return request.of->identity() != first->of->identity(); });
    auto const of_one_file = cut({first, last});
    parts.insert(parts.end(), of_one_file.begin(), of_one_file.end());
    first = last;
  }
  return parts;
}

} // namespace

auto lock_all(std::span<lock_request const> requests, wait_for limit) -> result<lock_set> {
  auto const deadline = deadline_of(limit);
  std::vector<lock_part> wanted;
  for (auto const& request : requests) {
    auto part = part_of(request);
    if (!part) {
      return std::unexpected(std::move(part).error());
    }
    wanted.push_back(*part);
  }
  std::vector<file_lock> held;
  for (auto const& part : in_order(std::move(wanted))) {
    auto lock = file_lock::create(*part.of, range_of(part.bytes));
    if (!lock) {
      return std::unexpected(std::move(lock).error());
    }
    auto const acquired = lock->acquire_for(part.mode, time_until(deadline));
    if (!acquired) {
      return std::unexpected(acquired.error());
    }
    if (!*acquired) {
      return failure(errc::lock_timed_out, "lock", part.of->path(), part_of_file(lock->range()),
                     describe_holders(*part.of, *lock, part.mode));
    }
    held.push_back(std::move(*lock));
  }
  return lock_set{std::move(held)};
}

auto lock_set::release() -> result<void> {
  result<void> first;
  while (!locks_.empty()) {
    auto closed = locks_.back().close();
    locks_.pop_back();
    if (!closed && !first) {
      report_dropped_error(closed.error());
    } else if (!closed) {
      first = std::move(closed);
    }
  }
  return first;
}

} // namespace fmmap
