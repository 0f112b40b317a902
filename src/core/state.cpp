// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
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
  report_dropped_error(error::make({code, std::system_category()}, operation, path));
}

auto first_error(result<void> first, result<void> second) -> result<void> {
  if (first) {
    return second;
  }
  if (!second) {
    report_dropped_error(second.error());
  }
  return first;
}

namespace {

// Counts without locking the memory's bus where there is one thread only, which takes a tenth of the time.
void count_one(std::atomic<unsigned>& owners) noexcept {
  if (os::is_single_threaded()) {
    owners.store(owners.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  } else {
    owners.fetch_add(1, std::memory_order_relaxed);
  }
}

// The last owner need not count: nobody else is there to make another.
auto is_last(std::atomic<unsigned>& owners) noexcept -> bool {
  auto const count = owners.load(std::memory_order_acquire);
  if (count == 1) {
    return true;
  }
  if (os::is_single_threaded()) {
    owners.store(count - 1, std::memory_order_relaxed);
    return false;
  }
  return owners.fetch_sub(1, std::memory_order_acq_rel) == 1;
}

} // namespace

void retain(open_file& object) noexcept { count_one(object.owners_); }
void retain(region& object) noexcept { count_one(object.owners_); }

void release(region* object) noexcept {
  if (!is_last(object->owners_)) {
    return;
  }
  if (auto* const home = object->home_; home != nullptr) {
    object->~region();
    home->leave(file_memory::a_region);
  } else {
    delete object;
  }
}

auto is_shared(open_file const& object) noexcept -> bool { return object.owners_.load(std::memory_order_acquire) > 1; }
auto is_shared(region const& object) noexcept -> bool { return object.owners_.load(std::memory_order_acquire) > 1; }

// Leaves uninitialized what is to be made there.
auto file_memory::make(std::size_t path_size) -> file_memory& {
  return *::new (::operator new(sizeof(file_memory) + path_size + 1)) file_memory;
}

void file_memory::leave(tenant who) noexcept {
  auto const others = tenants_.load(std::memory_order_acquire) & ~who;
  if (others != 0) {
    if (os::is_single_threaded()) {
      tenants_.store(others, std::memory_order_relaxed);
      return;
    }
    if (tenants_.fetch_and(~who, std::memory_order_acq_rel) != who) {
      return;
    }
  }
  ::operator delete(this);
}

auto open_file::make(std::string_view path) -> counted<open_file> {
  auto& home = file_memory::make(path.size());
  auto* const text = home.room_for_path();
  text[path.copy(text, path.size())] = '\0';
  return counted{::new (home.room_for_file()) open_file{home, {text, path.size()}}};
}

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

[[gnu::always_inline]] inline open_file::~open_file() {
  if (auto const open = descriptor_.release(); open != os::no_descriptor) {
    drop_failure(os::close(open), "close", path);
  }
}

void release(open_file* object) noexcept {
  if (is_last(object->owners_)) {
    auto& home = object->home_;
    object->~open_file();
    home.leave(file_memory::a_file);
  }
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

namespace {

// Which property of the memory an advice sets, the last one given counting; 0 for what the system does at once.
auto property_of(int advice) noexcept -> int {
  using namespace os::advice_value;
  switch (advice) {
  case normal:
  case random:
  case sequential:
    return 1;
  case dont_fork:
  case do_fork:
    return 2;
  case mergeable:
  case unmergeable:
    return 3;
  case huge_page:
  case no_huge_page:
    return 4;
  case dont_dump:
  case do_dump:
    return 5;
  case wipe_on_fork:
  case keep_on_fork:
    return 6;
  default:
    return 0;
  }
}

} // namespace

void region::remember(int advice, os::interval pages) {
  auto const property = property_of(advice);
  if (property == 0) {
    return;
  }
  std::scoped_lock const guard{mutex_};
  std::erase_if(given_, [&](given_advice const& earlier) {
    return property_of(earlier.advice) == property && pages.begin <= earlier.pages.begin &&
           earlier.pages.end <= pages.end;
  });
  if (!given_.empty() && given_.back().advice == advice && given_.back().pages.end == pages.begin) {
    given_.back().pages.end = pages.end; // piece after piece
  } else {
    given_.push_back({.advice = advice, .pages = pages});
  }
  if (advice == os::advice_value::dont_fork && keeper_ == 0) {
    keeper_ = os::process_id();
  }
}

// Of pages that were kept from this process, by `dont_fork` in its parent, the addresses are free or somebody else's by now.
// Without memory of its own: nothing but the system call can fail here.
auto region::unmap_what_is_here(std::size_t length) noexcept -> os::outcome<void> {
  auto const inherited = keeper_ != os::process_id();
  os::outcome<void> outcome;
  for (std::uint64_t at = 0; at < length;) {
    std::uint64_t end = length;
    bool kept = false;
    for (auto const& [advice, pages] : given_) {
      if (!inherited || property_of(advice) != property_of(os::advice_value::dont_fork) || pages.end <= at) {
        continue;
      }
      auto const about_this = pages.begin <= at;
      kept = about_this ? advice == os::advice_value::dont_fork : kept;
      end = std::min(end, about_this ? pages.end : pages.begin);
    }
    if (!kept) {
      if (auto const done = os::unmap(base_ + at, static_cast<std::size_t>(end - at)); !done) {
        outcome = done;
      }
    }
    at = end;
  }
  return outcome;
}

auto region::take_advice_of(region const& other) -> os::outcome<void> {
  {
    std::scoped_lock const guard{other.mutex_};
    given_ = other.given_;
    keeper_ = other.keeper_ == 0 ? 0 : os::process_id();
  }
  return repeat_advice({.begin = 0, .end = length_});
}

auto region::repeat_advice(os::interval pages) -> os::outcome<void> {
  std::scoped_lock const guard{mutex_};
  for (auto const& given : given_) {
    auto const begin = std::max(given.pages.begin, pages.begin);
    auto const end = std::min(given.pages.end, pages.end);
    if (begin >= end) {
      continue;
    }
    auto const length = static_cast<std::size_t>(end - begin);
    if (auto const done = os::retry([&] { return os::advise(base_ + begin, length, given.advice); }); !done) {
      return done;
    }
  }
  return {};
}

auto region::is_locked() const -> bool {
  std::scoped_lock const guard{mutex_};
  return !locks_.empty();
}

auto region::lock(os::interval addresses, bool on_fault) -> os::outcome<void> {
  {
    std::scoped_lock const guard{mutex_};
    locks_.push_back(addresses);
  }
  auto const done = in_chunks(addresses, [&](void* begin, std::size_t length) {
    return os::retry([&] { return os::lock_memory(begin, length, on_fault); });
  });
  if (!done) {
    unlock(addresses);
  }
  return done;
}

// Without memory of its own: nothing can fail here.

void region::unlock(os::interval addresses) noexcept {
  std::scoped_lock const guard{mutex_};
  locks_.erase(std::ranges::find(locks_, addresses));
  for (auto at = addresses.begin; at < addresses.end;) {
    auto const holder =
        std::ranges::find_if(locks_, [&](os::interval const& other) { return other.begin <= at && at < other.end; });
    if (holder != locks_.end()) {
      at = holder->end;
      continue;
    }
    auto unheld = os::interval{.begin = at, .end = addresses.end};
    for (auto const& other : locks_) {
      if (other.begin > at) {
        unheld.end = std::min(unheld.end, other.begin);
      }
    }
    drop_failure(in_chunks(unheld, [](void* begin, std::size_t length) { return os::unlock_memory(begin, length); }),
                 "unlock memory");
    at = unheld.end;
  }
}

} // namespace fmmap
