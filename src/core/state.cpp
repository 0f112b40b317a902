// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <mutex>
#include <new>
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

auto system_page_size() noexcept -> std::size_t { return os::page_size(); }

auto failure(int code, std::string_view operation, std::string_view path, std::optional<byte_range> range,
             std::string_view hint) -> std::unexpected<error> {
  return std::unexpected(error::make({code, std::system_category()}, operation, path, range, hint));
}

auto failure(errc code, std::string_view operation, std::string_view path, std::optional<byte_range> range,
             std::string_view hint) -> std::unexpected<error> {
  return std::unexpected(error::make(code, operation, path, range, hint));
}

void drop(int code, std::string_view operation, std::string_view path) noexcept {
  drop(error::make({code, std::system_category()}, operation, path));
}

auto first_error(result<void> first, result<void> second) -> result<void> {
  if (first) {
    return second;
  }
  if (!second) {
    drop(second.error());
  }
  return first;
}

auto resolve(byte_range range, std::uint64_t size) noexcept -> std::optional<os::interval> {
  if (range.length == to_end) {
    return range.offset <= size ? std::optional{os::interval{.begin = range.offset, .end = size}} : std::nullopt;
  }
  if (!os::fits(range.offset, range.length, size)) {
    return std::nullopt;
  }
  return os::interval{.begin = range.offset, .end = range.offset + range.length};
}

namespace {

// The last owner need not count: nobody else is there to make another.
auto is_last(std::atomic<unsigned>& owners) noexcept -> bool {
  return owners.load(std::memory_order_acquire) == 1 || owners.fetch_sub(1, std::memory_order_acq_rel) == 1;
}

} // namespace

void retain(open_file& object) noexcept { object.owners_.fetch_add(1, std::memory_order_relaxed); }
void retain(region& object) noexcept { object.owners_.fetch_add(1, std::memory_order_relaxed); }

void release(open_file* object) noexcept {
  if (is_last(object->owners_)) {
    object->~open_file();
    ::operator delete(object);
  }
}

void release(region* object) noexcept {
  if (is_last(object->owners_)) {
    delete object;
  }
}

auto is_shared(open_file const& object) noexcept -> bool { return object.owners_.load(std::memory_order_acquire) > 1; }
auto is_shared(region const& object) noexcept -> bool { return object.owners_.load(std::memory_order_acquire) > 1; }

// The path lies behind the object, in the same memory.
auto open_file::make(std::string_view path) -> counted<open_file> {
  auto* const memory = static_cast<char*>(::operator new(sizeof(open_file) + path.size() + 1));
  auto* const text = memory + sizeof(open_file);
  text[path.copy(text, path.size())] = '\0';
  return counted{::new (static_cast<void*>(memory)) open_file{{text, path.size()}}};
}

auto region::make(std::size_t unit, os::map_flags flags) -> counted<region> { return counted{new region{unit, flags}}; }

auto open_file::close() -> result<void> {
  // close(2) frees the descriptor even when it fails, so it is never repeated.
  if (auto const closed = os::close(descriptor_.release()); !closed) {
    return fail(closed.error(), "close");
  }
  return {};
}

auto open_file::size() const -> result<std::uint64_t> {
  auto const status = os::status(descriptor());
  if (!status) {
    return fail(status.error(), "size");
  }
  if (status->type != os::file_type::block_device) {
    return status->size;
  }
  auto const size = os::device_size(descriptor());
  if (!size) {
    return fail(size.error(), "size");
  }
  return *size;
}

namespace {

// Whether a sync that failed so may have dropped data the kernel now takes for clean. The others have not begun.
auto loses_data(int code) noexcept -> bool {
  switch (code) {
  case EBADF:
  case EINVAL:
  case EINTR:
  case EAGAIN:
  case ENOMEM:
  case ENOSYS:
  case EOPNOTSUPP:
  case EROFS:
    return false;
  default:
    return true;
  }
}

auto range_sync_is_missing(int code) noexcept -> bool {
  return code == ENOSYS || code == EINVAL || code == ESPIPE || code == EOPNOTSUPP;
}

// Takes `hole` out of a list of intervals.
void subtract(std::vector<os::interval>& from, os::interval hole) {
  std::vector<os::interval> left;
  for (auto const& part : from) {
    if (part.begin < hole.begin) {
      left.push_back({.begin = part.begin, .end = std::min(part.end, hole.begin)});
    }
    if (part.end > hole.end) {
      left.push_back({.begin = std::max(part.begin, hole.end), .end = part.end});
    }
  }
  from = std::move(left);
}

} // namespace

auto open_file::flush(durability level, os::interval part, std::span<std::byte> mapped) -> result<durability> {
  if (auto const earlier = failed_sync()) {
    return std::unexpected(*earlier);
  }
  if (level == durability::none) {
    return level;
  }
  if (in_memory) {
    return fail(errc::not_durable, "flush");
  }
  if (part.empty()) {
    return level;
  }
  if (level == durability::started || level == durability::written) {
    auto const length = part == everything ? 0 : part.length(); // 0: to the end of the file
    auto const synced =
        retry([&] { return os::sync_range(descriptor(), part.begin, length, level == durability::written); });
    if (synced) {
      return level;
    }
    if (!range_sync_is_missing(synced.error())) {
      return sync_failure(synced.error(), part);
    }
    level = durability::data;
  }
  auto const synced = retry([&] {
    if (level == durability::all) {
      return os::sync(descriptor());
    }
    return mapped.empty() ? os::sync_data(descriptor()) : os::sync_memory(mapped.data(), mapped.size());
  });
  if (!synced) {
    return sync_failure(synced.error(), mapped.empty() || level == durability::all ? everything : part);
  }
  return level;
}

auto open_file::failed_sync() const -> std::optional<error> {
  std::scoped_lock const lock{mutex_};
  return first_failure_;
}

auto open_file::sync_failure(int code, os::interval part) -> std::unexpected<error> {
  if (!loses_data(code)) {
    return fail(code, "flush");
  }
  auto const range = part == everything ? std::nullopt : std::optional{as_range(part)};
  auto why =
      fail(code, "flush", range, "the system may have dropped what it could not write; rewrite() writes it again");
  std::scoped_lock const lock{mutex_};
  if (!first_failure_) {
    first_failure_ = why.error();
  }
  lost_.push_back(part);
  return why;
}

auto open_file::sync_rewritten(os::interval part) -> result<durability> {
  if (in_memory) {
    return fail(errc::not_durable, "rewrite");
  }
  auto const synced = retry([&] { return os::sync_data(descriptor()); });
  if (!synced) {
    return sync_failure(synced.error(), part);
  }
  std::scoped_lock const lock{mutex_};
  subtract(lost_, part);
  if (lost_.empty()) {
    first_failure_.reset();
  }
  return durability::data;
}

void region::give_up_front(std::size_t length) noexcept {
  base_ += length;
  length_ -= length;
}

namespace {

// One system call over a large range would hold the address space's lock for seconds.
constexpr std::uint64_t lock_chunk = std::uint64_t{64} << 20;

template <class Each>
auto in_chunks(os::interval addresses, Each each) -> os::outcome<void> {
  for (auto begin = addresses.begin; begin < addresses.end; begin += lock_chunk) {
    auto const length = std::min(lock_chunk, addresses.end - begin);
    if (auto const done = each(reinterpret_cast<void*>(begin), length); !done) {
      return done;
    }
  }
  return {};
}

} // namespace

auto region::lock(os::interval addresses, bool on_fault) -> os::outcome<void> {
  {
    std::scoped_lock const guard{mutex_};
    locks_.push_back(addresses);
  }
  auto const done = in_chunks(addresses, [&](void* begin, std::size_t length) {
    return retry([&] { return os::lock_memory(begin, length, on_fault); });
  });
  if (!done) {
    unlock(addresses);
  }
  return done;
}

void region::unlock(os::interval addresses) noexcept {
  std::scoped_lock const guard{mutex_};
  locks_.erase(std::ranges::find(locks_, addresses));
  std::vector<os::interval> unheld{addresses};
  for (auto const& other : locks_) {
    subtract(unheld, other);
  }
  for (auto const& part : unheld) {
    drop_failure(in_chunks(part, [](void* begin, std::size_t length) { return os::unlock_memory(begin, length); }),
                 "unlock memory");
  }
}

} // namespace fmmap
