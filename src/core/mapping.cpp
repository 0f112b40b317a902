// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

// Addresses equal to file offsets modulo this let the system map a file's large folios as huge pages.
constexpr std::size_t huge_unit = std::size_t{2} << 20;

auto address_of(std::byte const* p) noexcept -> std::uint64_t { return reinterpret_cast<std::uintptr_t>(p); }

// The bytes of the pages that `size` bytes from the start of a page take.
auto whole_pages(std::size_t size, std::size_t unit) noexcept -> std::size_t {
  return static_cast<std::size_t>(os::outward({.begin = 0, .end = size}, unit).end);
}

auto path_of(counted<open_file> const& from) -> std::string_view { return from ? from->path : std::string_view{}; }

auto protection_for(access wanted, bool executable) noexcept -> os::protection {
  return {.read = true, .write = wanted != access::read_only, .execute = executable};
}

// What is to be put into the address space, in whole pages.
struct placement {
  std::uint64_t file_offset = 0;
  std::size_t length = 0;   // what is used at first
  std::size_t reserved = 0; // address space to hold, at least `length`
  os::protection access;
  os::map_flags flags;
  os::descriptor file = os::no_descriptor;
  std::byte* address = nullptr;
};

// Whether memory becomes accessible, and inaccessible again, where it lies: then what is reserved is mapped already, and
// growing needs no mapping over it, which on older systems leaves a gap when it fails.
auto grows_by_protection(os::map_flags flags) noexcept -> bool {
  return flags.anonymous && !flags.shared && !flags.huge;
}

// Of address space that is to become such memory.
auto reserve_flags(os::map_flags memory) noexcept -> os::map_flags {
  return grows_by_protection(memory) ? memory : os::map_flags{.shared = false, .anonymous = true, .no_reserve = true};
}

// Past the end of a file, a mapping is only address space: growing the file makes it valid without another call. Without
// a file the reserve has to be inaccessible, so that it is neither memory nor counted.
auto map_over(std::byte* base, placement const& wanted) -> os::outcome<void> {
  auto flags = wanted.flags;
  flags.replace = true;
  auto const map_part = [&](std::size_t begin, std::size_t end) -> os::outcome<void> {
    if (begin == end) {
      return {};
    }
    auto const mapped =
        os::map(base + begin, end - begin, wanted.access, flags, wanted.file, wanted.file_offset + begin);
    return mapped ? os::outcome<void>{} : std::unexpected(mapped.error());
  };
  if (grows_by_protection(flags)) {
    return wanted.length == 0 ? os::outcome<void>{} : os::protect(base, wanted.length, wanted.access);
  }
  if (flags.anonymous) {
    return map_part(0, wanted.length);
  }
  // Pages that may never be are not to be counted in advance.
  auto const counted = flags.shared || flags.no_reserve ? 0 : wanted.length;
  if (auto const done = map_part(0, counted); !done) {
    return done;
  }
  flags.no_reserve = true;
  return map_part(counted, wanted.reserved);
}

// `wanted` by value: what `place` has in registers stays there when nothing is reserved.
auto map_into_reservation(region& into, placement wanted) -> os::outcome<void> {
  auto nothing = reserve_flags(wanted.flags);
  nothing.exactly = wanted.address != nullptr;
  auto const alignment = std::max(huge_unit, into.unit());
  auto const slack = wanted.address != nullptr ? 0 : alignment;
  auto const held = os::map(wanted.address, wanted.reserved + slack, {.read = false}, nothing, os::no_descriptor, 0);
  if (!held) {
    return std::unexpected(held.error());
  }
  if (wanted.address != nullptr && *held != wanted.address) { // a system that takes the address for a hint
    drop_failure(os::unmap(*held, wanted.reserved), "unmap");
    return std::unexpected(EEXIST);
  }
  auto const before =
      slack == 0 ? 0 : static_cast<std::size_t>(os::gap_to_congruent(address_of(*held), wanted.file_offset, alignment));
  auto const after = slack - before;
  auto* const base = *held + before;
  if (before > 0) {
    drop_failure(os::unmap(*held, before), "unmap");
  }
  if (after > 0) {
    drop_failure(os::unmap(base + wanted.reserved, after), "unmap");
  }
  into.attach(base, wanted.reserved);
  return map_over(base, wanted);
}

[[gnu::always_inline]] inline auto place(region& into, placement const& wanted) -> os::outcome<void> {
  if (wanted.reserved > wanted.length) {
    return map_into_reservation(into, wanted);
  }
  auto flags = wanted.flags;
  flags.exactly = wanted.address != nullptr;
  auto const placed = os::map(wanted.address, wanted.length, wanted.access, flags, wanted.file, wanted.file_offset);
  if (!placed) [[unlikely]] {
    return std::unexpected(placed.error());
  }
  if (wanted.address != nullptr && *placed != wanted.address) [[unlikely]] {
    drop_failure(os::unmap(*placed, wanted.length), "unmap");
    return std::unexpected(EEXIST);
  }
  into.attach(*placed, wanted.length);
  return {};
}

// Before Linux 6.7, a file sealed against writing is not mapped as shared; nobody can tell the difference.
[[gnu::cold]] auto place_as_private(counted<region>& into, placement wanted) -> os::outcome<void> {
  wanted.flags.shared = false;
  into = region::make(into->unit(), wanted.flags);
  return place(*into, wanted);
}

// Whole units for `bytes` and `reserve`; empty when they do not fit into the address space.
auto measure(std::uint64_t bytes, std::uint64_t reserve, std::size_t unit)
    -> std::optional<std::pair<std::size_t, std::size_t>> {
  auto const length = os::round_up(bytes, unit);
  auto const reserved = os::round_up(std::max(bytes, reserve), unit);
  if (!length || !reserved || *reserved > PTRDIFF_MAX - huge_unit) {
    return std::nullopt;
  }
  return std::pair{static_cast<std::size_t>(*length), static_cast<std::size_t>(*reserved)};
}

auto advice_value_of(advice what) noexcept -> int {
  using namespace os::advice_value;
  switch (what) {
  case advice::normal:
    return normal;
  case advice::sequential:
    return sequential;
  case advice::random:
    return random;
  case advice::will_need:
    return will_need;
  case advice::dont_need:
    return dont_need;
  case advice::cold:
    return cold;
  case advice::page_out:
    return page_out;
  case advice::populate_read:
    return populate_read;
  case advice::populate_write:
    return populate_write;
  case advice::huge_page:
    return huge_page;
  case advice::no_huge_page:
    return no_huge_page;
  case advice::collapse:
    return collapse;
  case advice::dont_fork:
    return dont_fork;
  case advice::do_fork:
    return do_fork;
  case advice::wipe_on_fork:
    return wipe_on_fork;
  case advice::keep_on_fork:
    return keep_on_fork;
  case advice::dont_dump:
    return dont_dump;
  case advice::do_dump:
    return do_dump;
  case advice::mergeable:
    return mergeable;
  case advice::unmergeable:
    return unmergeable;
  }
  return -1;
}

} // namespace

auto to_string(advice a) noexcept -> std::string_view {
  constexpr std::array<std::string_view, 20> names{
      "normal",        "sequential",     "random",    "will_need",    "dont_need", "cold",       "page_out",
      "populate_read", "populate_write", "huge_page", "no_huge_page", "collapse",  "dont_fork",  "do_fork",
      "wipe_on_fork",  "keep_on_fork",   "dont_dump", "do_dump",      "mergeable", "unmergeable"};
  auto const index = static_cast<std::size_t>(a);
  return index < names.size() ? names[index] : "unknown";
}

namespace {

// Advice that is not the user's own and may be unknown to the system.
void prefer(region& memory, int advice) {
  if (os::advise(memory.base(), memory.length(), advice)) {
    memory.remember(advice, everything);
  }
}

auto check_access(open_file const& from, map_options const& options) -> result<void> {
  if (options.access != access::read_only && options.executable) {
    return from.fail(errc::writable_and_executable, "map", options.range);
  }
  if (options.access == access::read_write && !from.writable) {
    return from.fail(errc::read_only, "map", options.range, "open the file with access::read_write");
  }
  return {};
}

// The size of the pages that the mapping will have.
auto page_unit(open_file const& from, map_options const& options) -> result<std::size_t> {
  if (options.page_size != page_size::require_huge) [[likely]] {
    return os::page_size();
  }
  auto const huge = os::is_huge_page_file(from.descriptor());
  if (!huge) {
    return from.fail(huge.error(), "map", options.range);
  }
  if (!*huge) {
    return from.fail(EINVAL, "map", options.range, "page_size::require_huge needs a file on hugetlbfs");
  }
  auto const status = os::status(from.descriptor());
  if (!status) {
    return from.fail(status.error(), "map", options.range);
  }
  return status->block_size;
}

} // namespace

auto handle_access::map(counted<open_file> from, std::uint64_t file_size, map_options const& options)
    -> result<mapping> {
  result<mapping> mapped;
  if (auto done = map_into(*mapped, std::move(from), file_size, options); !done) {
    mapped = std::unexpected(std::move(done).error());
  }
  return mapped;
}

auto handle_access::map_into(mapping& made, counted<open_file> from, std::uint64_t file_size,
                             map_options const& options) -> result<void> {
  auto const bytes = resolve(options.range, file_size);
  if (!bytes) [[unlikely]] {
    return from->fail(errc::out_of_range, "map", options.range,
                      "the file is " + std::to_string(file_size) + " bytes long");
  }
  if (auto const allowed = check_access(*from, options); !allowed) [[unlikely]] {
    return std::unexpected(allowed.error());
  }
  auto const unit_found = page_unit(*from, options);
  if (!unit_found) [[unlikely]] {
    return std::unexpected(unit_found.error());
  }
  auto const unit = *unit_found;
  auto const delta = static_cast<std::size_t>(bytes->begin - os::round_down(bytes->begin, unit));
  auto const extent =
      measure(delta + bytes->length(), options.reserve > 0 ? std::uint64_t{delta} + options.reserve : 0, unit);
  if (!extent || !os::checked_add(options.reserve, delta)) [[unlikely]] {
    return from->fail(ENOMEM, "map", options.range, "it does not fit into the address space");
  }
  if (options.address != nullptr && (address_of(options.address) <= delta ||
                                     ((address_of(options.address) - delta) & (unit - 1)) != 0)) [[unlikely]] {
    return from->fail(errc::invalid_options, "map", options.range,
                      "the address must lie in its page where the range starts in one of the file");
  }

  made.file_ = std::move(from);
  made.offset_ = bytes->begin;
  made.access_ = options.access;
  made.executable_ = options.executable;
  made.private_ = options.access == access::copy_on_write;
  made.open_ = true;
  made.pages_ = options.page_size;
  if (bytes->empty() && options.reserve == 0) {
    return {};
  }
  placement const wanted{
      .file_offset = bytes->begin - delta,
      .length = extent->first,
      .reserved = extent->second,
      .access = protection_for(options.access, options.executable),
      .flags = {.shared = !made.private_, .no_reserve = options.no_reserve},
      .file = made.file_->descriptor(),
      .address = options.address == nullptr ? nullptr : options.address - delta,
  };
  made.region_ = region::make(*made.file_, unit, wanted.flags);
  auto placed = place(*made.region_, wanted);
  if (!placed && placed.error() == EPERM && made.file_->in_memory && options.access == access::read_only) [[unlikely]] {
    placed = place_as_private(made.region_, wanted);
  }
  if (!placed) [[unlikely]] {
    if (placed.error() == EEXIST) {
      return made.file_->fail(errc::address_in_use, "map", options.range);
    }
    return made.file_->fail(placed.error(), "map", options.range);
  }
  made.data_ = made.region_->base() + delta;
  made.size_ = static_cast<std::size_t>(bytes->length());
  made.capacity_ = made.region_->length() - delta;
  if (options.page_size == page_size::prefer_huge) {
    prefer(*made.region_, os::advice_value::huge_page);
  }
  if (options.populate) {
    if (auto const done = populate(made.region_->base(), extent->first, false); !done) {
      return made.file_->fail(done.error(), "populate", options.range);
    }
  }
  return {};
}

auto check_mappable(open_file const& from, byte_range range) -> result<void> {
  if (from.type != os::file_type::regular && from.type != os::file_type::block_device &&
      from.type != os::file_type::character_device) {
    return from.fail(errc::not_a_regular_file, "map", range);
  }
  if (!from.readable) {
    return from.fail(EACCES, "map", range,
                     from.writable ? "the descriptor was opened for writing only"
                                   : "the descriptor is one of a path only");
  }
  return {};
}

auto mapping::map(file const& from, map_options options) -> result<mapping> {
  auto const& state = handle_access::state(from);
  if (!state) {
    return closed_handle("map");
  }
  if (auto const mappable = check_mappable(*state, options.range); !mappable) {
    return std::unexpected(mappable.error());
  }
  if (state->type == os::file_type::character_device && options.range.length != to_end) {
    return handle_access::map(state, os::largest_offset, options); // a device has no size to hold the range against
  }
  auto const size = state->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  return handle_access::map(state, *size, options);
}

auto mapping::anonymous(std::size_t size, anonymous_options options) -> result<mapping> {
  byte_range const range{.offset = 0, .length = size};
  auto const fail = [&](auto code, std::string_view hint = {}) { return failure(code, "map", {}, range, hint); };
  auto const huge = options.page_size == page_size::require_huge;
  if (options.stack && huge) {
    return fail(errc::invalid_options, "a stack has no huge pages");
  }
  auto const unit = huge ? huge_unit : os::page_size();
  auto const extent = measure(size, options.reserve, unit);
  if (!extent) {
    return fail(ENOMEM, "it does not fit into the address space");
  }
  if (options.address != nullptr && (address_of(options.address) & (unit - 1)) != 0) {
    return fail(errc::invalid_options, "the address must be that of a page");
  }
  mapping made;
  made.access_ = access::read_write;
  made.private_ = !options.shared;
  made.open_ = true;
  made.pages_ = options.page_size;
  os::map_flags const flags{.shared = options.shared,
                            .anonymous = true,
                            .stack = options.stack,
                            .no_reserve = options.no_reserve,
                            .huge = huge};
  made.region_ = region::make(unit, flags);
  if (extent->second == 0) {
    return made;
  }
  auto const placed = place(*made.region_, {.length = extent->first,
                                            .reserved = extent->second,
                                            .access = protection_for(access::read_write, false),
                                            .flags = flags,
                                            .address = options.address});
  if (!placed) {
    if (placed.error() == EEXIST) {
      return fail(errc::address_in_use);
    }
    return fail(placed.error());
  }
  made.data_ = made.region_->base();
  made.size_ = size;
  made.capacity_ = made.region_->length();
  if (options.stack) {
    prefer(*made.region_, os::advice_value::no_huge_page); // MAP_STACK alone does that since Linux 6.7
  } else if (options.page_size == page_size::prefer_huge) {
    prefer(*made.region_, os::advice_value::huge_page);
  }
  if (options.populate) {
    if (auto const done = populate(made.data_, extent->first, true); !done) {
      return failure(done.error(), "populate", {}, range);
    }
  }
  return made;
}

auto mapping::operator=(mapping&& other) noexcept -> mapping& {
  if (this != &other) {
    region_ = std::move(other.region_); // the memory goes before the file it is of
    file_ = std::move(other.file_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
    offset_ = other.offset_;
    access_ = other.access_;
    pages_ = other.pages_;
    executable_ = other.executable_;
    private_ = other.private_;
    open_ = std::exchange(other.open_, false);
  }
  return *this;
}

auto mapping::resize(std::size_t size) -> result<void> {
  byte_range const range{.offset = 0, .length = size};
  if (!open_) {
    return failure(errc::closed, "resize");
  }
  if (size > capacity_) {
    return failure(errc::reservation_exceeded, "resize to", path_of(file_), range,
                   std::to_string(capacity_) + " bytes are reserved");
  }
  if (!file_) {
    return resize_anonymous(size);
  }
  if (size > size_) {
    auto const file_size = file_->size();
    if (!file_size) {
      return std::unexpected(file_size.error());
    }
    if (!os::fits(offset_, size, *file_size)) {
      return file_->fail(errc::out_of_range, "resize to", range,
                         "the file is " + std::to_string(*file_size) + " bytes long");
    }
  }
  size_ = size;
  return {};
}

namespace {

// Maps address space that holds the reserve over [from, to) of a region.
auto hold_reserve(region const& memory, std::size_t from, std::size_t to) -> os::outcome<void> {
  auto flags = reserve_flags(memory.flags);
  flags.replace = true;
  auto const mapped = os::map(memory.base() + from, to - from, {.read = false}, flags, os::no_descriptor, 0);
  return mapped ? os::outcome<void>{} : std::unexpected(mapped.error());
}

// Makes the bytes [from, to) of a reservation accessible zeros.
auto extend(region& memory, std::size_t from, std::size_t to, os::protection access) -> os::outcome<void> {
  auto* const begin = memory.base() + from;
  if (grows_by_protection(memory.flags)) {
    return os::protect(begin, to - from, access);
  }
  auto flags = memory.flags;
  flags.replace = true;
  auto const mapped = os::map(begin, to - from, access, flags, os::no_descriptor, 0);
  if (!mapped) {
    drop_failure(hold_reserve(memory, from, to), "hold the reserve"); // before Linux 6.12 there is a gap now
    return std::unexpected(mapped.error());
  }
  drop_failure(memory.repeat_advice({.begin = from, .end = to}), "repeat advice");
  return {};
}

// Gives the memory of the bytes [from, to) back and keeps their addresses.
auto cut_off(region& memory, std::size_t from, std::size_t to) -> os::outcome<void> {
  auto const held = hold_reserve(memory, from, to);
  if (held) {
    drop_failure(memory.repeat_advice({.begin = from, .end = to}), "repeat advice");
  }
  return held;
}

} // namespace

auto mapping::resize_anonymous(std::size_t size) -> result<void> {
  byte_range const range{.offset = 0, .length = size};
  if (access_ == access::read_only) {
    return failure(errc::read_only, "resize", {}, range);
  }
  if (region_->length() == 0) {
    return {};
  }
  if (size < size_ && is_shared(*region_)) {
    return failure(errc::in_use, "resize to", {}, range, "a view or a memory lock holds what would be cut off");
  }
  auto const old_pages = whole_pages(size_, region_->unit());
  auto const new_pages = whole_pages(size, region_->unit());
  if (auto const done = new_pages > old_pages   ? extend(*region_, old_pages, new_pages, protection_for(access_, false))
                        : new_pages < old_pages ? cut_off(*region_, new_pages, old_pages)
                                                : os::outcome<void>{};
      !done) {
    return failure(done.error(), "resize to", {}, range);
  }
  if (size < size_) {
    std::memset(data_ + size, 0, std::min(new_pages, size_) - size); // zero again when the mapping grows back
  }
  size_ = size;
  return {};
}

auto mapping::reserve(std::size_t capacity) -> result<void> {
  byte_range const range{.offset = 0, .length = capacity};
  if (!open_) {
    return failure(errc::closed, "reserve");
  }
  if (capacity <= capacity_) {
    return {};
  }
  if (!file_) {
    return reserve_anonymous(capacity);
  }
  if (private_) {
    return file_->fail(errc::copy_on_write, "reserve", range, "its private pages would stay behind");
  }
  if (region_ && region_->is_locked()) {
    return file_->fail(errc::in_use, "reserve", range, "a memory lock holds it where it is");
  }
  auto moved = handle_access::map(file_, offset_ + size_,
                                  {.access = access_,
                                   .executable = executable_,
                                   .range = {.offset = offset_, .length = size_},
                                   .reserve = capacity,
                                   .page_size = pages_,
                                   .no_reserve = region_ && region_->flags.no_reserve});
  if (!moved) {
    return std::unexpected(error::make(moved.error().code(), "reserve", file_->path, range));
  }
  if (region_) {
    if (auto const advised = moved->region_->take_advice_of(*region_); !advised) {
      return file_->fail(advised.error(), "reserve", range);
    }
  }
  *this = std::move(*moved);
  return {};
}

auto mapping::reserve_anonymous(std::size_t capacity) -> result<void> {
  byte_range const range{.offset = 0, .length = capacity};
  if (is_shared(*region_)) {
    return failure(errc::in_use, "reserve", {}, range);
  }
  auto const unit = region_->unit();
  auto const extent = measure(size_, capacity, unit);
  if (!extent) {
    return failure(ENOMEM, "reserve", {}, range, "it does not fit into the address space");
  }
  auto target = region::make(unit, region_->flags);
  auto const held = map_into_reservation(
      *target,
      {.length = 0, .reserved = extent->second, .access = protection_for(access_, false), .flags = region_->flags});
  if (!held) {
    return failure(held.error(), "reserve", {}, range);
  }
  if (auto const advised = target->take_advice_of(*region_); !advised) {
    return failure(advised.error(), "reserve", {}, range);
  }
  if (extent->first > 0) {
    auto const moved = os::move_map(data_, extent->first, target->base());
    if (moved) {
      region_->give_up_front(extent->first);
    } else if (moved.error() == EFAULT && private_ && access_ != access::read_only) {
      // Before Linux 6.17, memory that advice has divided cannot be moved in one piece.
      if (auto const ready = extend(*target, 0, extent->first, protection_for(access_, false)); !ready) {
        return failure(ready.error(), "reserve", {}, range);
      }
      std::memcpy(target->base(), data_, size_);
    } else {
      return failure(moved.error(), "reserve", {}, range);
    }
  }
  region_ = std::move(target);
  data_ = region_->base();
  capacity_ = region_->length();
  return {};
}

auto mapping::protect(fmmap::access access, bool executable) -> result<void> {
  if (!open_) {
    return failure(errc::closed, "protect");
  }
  auto const fail = [&](auto code, std::string_view hint = {}) {
    return failure(code, "protect", path_of(file_), {}, hint);
  };
  if (access != access::read_only && executable) {
    return fail(errc::writable_and_executable);
  }
  if (access == access::copy_on_write && (!private_ || !file_)) {
    return fail(errc::invalid_options, "only a mapping made copy-on-write can be that again");
  }
  if (access == access::read_write && file_) {
    if (private_) {
      return fail(errc::copy_on_write);
    }
    if (!file_->writable) {
      return fail(errc::read_only);
    }
  }
  // The reserve of a file is part of its mapping and gets its protection; that of anonymous memory stays inaccessible.
  auto const length = !region_ ? 0 : file_ ? region_->length() : whole_pages(size_, region_->unit());
  if (length > 0) {
    if (auto const done = os::protect(region_->base(), length, protection_for(access, executable)); !done) {
      return fail(done.error());
    }
  }
  access_ = access;
  executable_ = executable;
  return {};
}

auto handle_access::make_executable(mapping& target) -> result<void> {
  auto const& memory = target.region_;
  // What is private has no other home than these pages, and a lock would go with them.
  if (!memory || memory->length() == 0 || target.private_ || memory->is_locked()) {
    return target.protect(access::read_only, true);
  }
  auto const reader = os::retry([&] { return os::reopen(target.file_->descriptor(), {}); });
  if (!reader) {
    auto const cannot_be = reader.error() == ENOENT || reader.error() == EACCES || reader.error() == EPERM;
    return cannot_be ? target.protect(access::read_only, true) : target.file_->fail(reader.error(), "make executable");
  }
  unique_descriptor const closing{*reader};
  auto const before = static_cast<std::uint64_t>(target.data_ - memory->base());
  auto flags = memory->flags;
  flags.replace = true;
  auto const mapped = os::map(memory->base(), memory->length(), protection_for(access::read_only, true), flags, *reader,
                              target.offset_ - before);
  if (!mapped) {
    return target.file_->fail(mapped.error(), "make executable");
  }
  drop_failure(memory->repeat_advice({.begin = 0, .end = memory->length()}), "repeat advice", path(target));
  target.access_ = access::read_only;
  target.executable_ = true;
  return {};
}

namespace {

// The pages around `part` of the bytes at `data`, as addresses.
auto pages_around(std::byte const* data, os::interval part, std::size_t unit) -> os::interval {
  auto const begin = address_of(data);
  return os::outward({.begin = begin + part.begin, .end = begin + part.end}, unit);
}

auto pointer_to(std::uint64_t address) -> std::byte* { return reinterpret_cast<std::byte*>(address); }

} // namespace

auto mapping::advise(advice what, byte_range range) const -> result<void> {
  auto const operation = "advise " + std::string{to_string(what)} + " for";
  if (!open_) {
    return failure(errc::closed, operation);
  }
  auto const part = resolve(range, size_);
  if (!part) {
    return failure(errc::out_of_range, operation, path_of(file_), range);
  }
  if (what == advice::dont_need && (private_ || !file_)) {
    return failure(errc::destructive_advice, operation, path_of(file_), range, "discard() does that by name");
  }
  if (part->empty()) {
    return {};
  }
  auto const pages = pages_around(data_, *part, region_->unit());
  auto const value = advice_value_of(what);
  auto const done =
      os::retry([&] { return os::advise(pointer_to(pages.begin), static_cast<std::size_t>(pages.length()), value); });
  if (!done) {
    auto const hint = done.error() == EINVAL
                          ? "this system or this kind of mapping does not know it, or a memory lock forbids it"
                      : done.error() == EFAULT ? "no space for it, or the file has become shorter"
                                               : std::string_view{};
    return failure(done.error(), operation, path_of(file_), range, hint);
  }
  auto const base = address_of(region_->base());
  region_->remember(value, {.begin = pages.begin - base, .end = pages.end - base});
  return {};
}

auto mapping::discard(byte_range range) -> result<void> {
  if (!open_) {
    return failure(errc::closed, "discard");
  }
  auto const part = resolve(range, size_);
  if (!part) {
    return failure(errc::out_of_range, "discard", path_of(file_), range);
  }
  auto const shared_file = file_ && !private_;
  if (shared_file && !file_->writable) {
    return file_->fail(errc::read_only, "discard", range);
  }
  if (part->empty()) {
    return {};
  }
  auto const begin = address_of(data_);
  auto const pages = os::inward({.begin = begin + part->begin, .end = begin + part->end}, region_->unit());
  if (pages.empty()) {
    return {};
  }
  auto const done = os::retry([&] {
    if (shared_file) {
      return os::punch_hole(file_->descriptor(), offset_ + (pages.begin - begin), pages.length());
    }
    return os::advise(pointer_to(pages.begin), static_cast<std::size_t>(pages.length()),
                      private_ ? os::advice_value::dont_need : os::advice_value::remove);
  });
  if (!done) {
    return failure(done.error(), "discard", path_of(file_), range,
                   done.error() == EINVAL ? "a memory lock may hold it" : std::string_view{});
  }
  return {};
}

auto mapping::lock_memory(byte_range range, lock_options options) const -> result<memory_lock> {
  if (!open_) {
    return failure(errc::closed, "lock in memory");
  }
  auto const part = resolve(range, size_);
  if (!part) {
    return failure(errc::out_of_range, "lock in memory", path_of(file_), range);
  }
  if (part->empty()) {
    return memory_lock{{}, data_, 0};
  }
  auto const pages = pages_around(data_, *part, region_->unit());
  if (auto const done = region_->lock(pages, options.on_fault); !done) {
    auto const limit = os::locked_memory_limit();
    auto const hint = !limit                 ? std::string{}
                      : *limit == UINT64_MAX ? std::string{"RLIMIT_MEMLOCK is unlimited"}
                                             : "RLIMIT_MEMLOCK is " + std::to_string(*limit) + " bytes" +
                                                   (file_ ? ", if it is not that the file has become shorter" : "");
    return failure(done.error(), "lock in memory", path_of(file_), range, hint);
  }
  return memory_lock{region_, pointer_to(pages.begin), static_cast<std::size_t>(pages.length())};
}

auto memory_lock::operator=(memory_lock&& other) noexcept -> memory_lock& {
  if (this != &other) {
    unlock();
    region_ = std::move(other.region_);
    begin_ = std::exchange(other.begin_, nullptr);
    length_ = std::exchange(other.length_, 0);
  }
  return *this;
}

memory_lock::~memory_lock() { unlock(); }

void memory_lock::unlock() noexcept {
  if (region_) {
    region_->unlock({.begin = address_of(begin_), .end = address_of(begin_) + length_});
    region_ = {};
  }
}

auto mapping::residency(byte_range range) const -> result<residency_info> {
  if (!open_) {
    return failure(errc::closed, "ask the residency of");
  }
  auto const part = resolve(range, size_);
  if (!part) {
    return failure(errc::out_of_range, "ask the residency of", path_of(file_), range);
  }
  residency_info found{.dirty_known = true};
  if (part->empty()) {
    return found;
  }
  auto const page = os::page_size();
  auto const pages = pages_around(data_, *part, page);
  std::array<unsigned char, 4096> present{};
  for (auto at = pages.begin; at < pages.end; at += present.size() * page) {
    auto const length = std::min<std::uint64_t>(pages.end - at, present.size() * page);
    auto const done =
        os::retry([&] { return os::resident_pages(pointer_to(at), static_cast<std::size_t>(length), present.data()); });
    if (!done) {
      return failure(done.error(), "ask the residency of", path_of(file_), range);
    }
    auto const count = std::ranges::count_if(std::span{present}.first(static_cast<std::size_t>(length / page)),
                                             [](unsigned char state) { return (state & 1U) != 0; });
    found.resident_bytes += static_cast<std::uint64_t>(count) * page;
  }
  if (file_) {
    auto const begin = os::round_down(offset_ + part->begin, page);
    auto const cache = os::cache(file_->descriptor(), begin, pages.length());
    found.dirty_known = cache.has_value();
    if (cache) {
      found.dirty_bytes = cache->dirty;
      found.writeback_bytes = cache->writeback;
    }
  }
  return found;
}

auto mapping::prepare_flush(byte_range range, durability level) const -> result<flush_request> {
  if (!open_) {
    return failure(errc::closed, "flush");
  }
  auto const part = resolve(range, size_);
  if (!part) {
    return failure(errc::out_of_range, "flush", path_of(file_), range);
  }
  if (!file_) {
    return failure(errc::not_durable, "flush", {}, range);
  }
  if (private_) {
    return file_->fail(errc::copy_on_write, "flush", range);
  }
  flush_request request{.memory = region_, .target = file_, .part = everything, .mapped = {}, .level = level};
  if (range == whole && offset_ == 0) {
    return request;
  }
  request.part = {.begin = offset_ + part->begin, .end = offset_ + part->end};
  // Linux's msync passes over a mapping of a file that was opened for reading; fdatasync does not.
  if (!part->empty() && file_->writable) {
    auto const pages = pages_around(data_, *part, region_->unit());
    request.mapped = {pointer_to(pages.begin), static_cast<std::size_t>(pages.length())};
  }
  return request;
}

auto mapping::flush(byte_range range, durability level) const -> result<durability> {
  auto const request = prepare_flush(range, level);
  if (!request) {
    return std::unexpected(request.error());
  }
  return request->target->flush(request->level, request->part, request->mapped);
}

auto mapping::stage_flush(byte_range range, durability level) const -> result<flush_job> {
  auto request = prepare_flush(range, level);
  if (!request) {
    return std::unexpected(std::move(request).error());
  }
  if (file_->in_memory && level != durability::none) {
    return file_->fail(errc::not_durable, "flush", range);
  }
  if (auto const earlier = file_->failed_sync()) {
    return std::unexpected(*earlier);
  }
  return stage(*request);
}

namespace {

// Writes a byte back as it is, without losing what another thread writes meanwhile. Not by an operation such as
// fetch_or(0), which the compiler may turn into a load.
void dirty_page(std::byte* p) noexcept {
  std::atomic_ref byte{*reinterpret_cast<unsigned char*>(p)};
  auto value = byte.load(std::memory_order_relaxed);
  while (!byte.compare_exchange_weak(value, value, std::memory_order_relaxed)) {
  }
}

// Dirties every page of `bytes`, which begin at one. Returns 0 or an errno.
auto dirty_pages(std::span<std::byte> bytes) -> int {
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(transfer_size, bytes.size()))) {
    auto const now = bytes.first(std::min(transfer_size, bytes.size()));
    if (auto const code = make_writable(now); code != 0) {
      return code;
    }
    for (std::size_t at = 0; at < now.size(); at += os::page_size()) {
      dirty_page(now.data() + at);
    }
  }
  return 0;
}

} // namespace

auto populate(std::byte* begin, std::size_t length, bool write) -> os::outcome<void> {
  if (length == 0) {
    return {};
  }
  auto const advice = write ? os::advice_value::populate_write : os::advice_value::populate_read;
  return os::retry([&] { return os::advise(begin, length, advice); });
}

auto make_writable(std::span<std::byte> bytes) -> int {
  auto const ready = populate(bytes.data(), bytes.size(), true);
  return ready || ready.error() == EINVAL ? 0 : ready.error();
}

auto mapping::rewrite(byte_range range) -> result<durability> {
  if (!open_) {
    return failure(errc::closed, "rewrite");
  }
  auto const part = resolve(range, size_);
  if (!part) {
    return failure(errc::out_of_range, "rewrite", path_of(file_), range);
  }
  if (!file_) {
    return failure(errc::not_durable, "rewrite", {}, range);
  }
  if (private_) {
    return file_->fail(errc::copy_on_write, "rewrite", range);
  }
  if (access_ == access::read_only) {
    return file_->fail(errc::read_only, "rewrite", range);
  }
  auto const file_size = file_->size();
  if (!file_size) {
    return std::unexpected(file_size.error());
  }
  auto const page = os::page_size();
  auto const covered = os::outward({.begin = offset_ + part->begin, .end = offset_ + part->end}, page);
  auto const end = std::min(covered.end, *file_size);
  return file_->rewrite(
      // Past the end there is nothing that could have been lost.
      {.begin = covered.begin, .end = covered.end >= *file_size ? everything.end : covered.end}, [&]() -> result<void> {
        if (covered.begin >= end) {
          return {};
        }
        auto* const begin = data_ + static_cast<std::ptrdiff_t>(covered.begin - offset_);
        if (auto const code = dirty_pages({begin, static_cast<std::size_t>(end - covered.begin)}); code != 0) {
          return file_->fail(code, "rewrite", range, "no space for it, or the file has become shorter");
        }
        return {};
      });
}

auto mapping::share(byte_range range) const -> result<shared_bytes> {
  auto const part = bytes(range);
  if (!part) {
    return std::unexpected(part.error());
  }
  return shared_bytes{region_, *part};
}

auto mapping::bytes(byte_range range) const -> result<std::span<std::byte const>> {
  if (!open_) {
    return failure(errc::closed, "view");
  }
  auto const part = resolve(range, size_);
  if (!part) {
    return failure(errc::out_of_range, "view", path_of(file_), range);
  }
  return std::span<std::byte const>{data_ + part->begin, static_cast<std::size_t>(part->length())};
}

auto mapping::close() -> result<void> {
  if (!open_) {
    return failure(errc::closed, "close");
  }
  auto const last = std::move(*this);
  if (last.region_ && !is_shared(*last.region_)) {
    if (auto const done = last.region_->unmap(); !done) {
      return failure(done.error(), "unmap", path_of(last.file_));
    }
  }
  if (last.file_ && !is_shared(*last.file_)) {
    return last.file_->close();
  }
  return {};
}

} // namespace fmmap
