// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.pmr;

import fmmap.core;
import fmmap.journal;
import fmmap.os;
import :address_map;
import :heap_format;
import :heap_memory;
import :state;

namespace fmmap {

namespace {

using heap_format::huge_page;
using heap_format::overlay_bytes;

// Where no system puts programs, libraries, stacks or what it chooses the address of (measured with addresses randomised as
// far as it goes). Of these, sanitizers leave only the second to a program.
struct band {
  std::uint64_t begin;
  std::uint64_t end;
};
constexpr band plain{.begin = 0x1800'0000'0000, .end = 0x4ff0'0000'0000};
constexpr band under_sanitizers{.begin = 0x7a00'0000'0000, .end = 0x7eef'0000'0000};

auto refuse(int code, std::uint64_t slot, std::size_t length, std::string_view path) -> std::unexpected<error> {
  if (code != EEXIST) {
    return std::unexpected(error::make({code, std::system_category()}, "map", path));
  }
  std::string hint = "the heap has to lie where something else is";
  if (auto const map = address_map::read(); map) {
    if (auto const* const other = map->find(slot, slot + length); other != nullptr) {
      hint = "the heap has to lie where " + describe(*other) + " is";
    }
  }
  return std::unexpected(error::make(errc::address_in_use, "map", path, {}, hint));
}

} // namespace

heap_memory::heap_memory(heap_memory&& other) noexcept
    : base_{std::exchange(other.base_, nullptr)},
      length_{std::exchange(other.length_, 0)},
      size_{std::exchange(other.size_, 0)} {}

auto heap_memory::operator=(heap_memory&& other) noexcept -> heap_memory& {
  std::swap(base_, other.base_);
  std::swap(length_, other.length_);
  std::swap(size_, other.size_);
  return *this;
}

heap_memory::~heap_memory() {
  if (auto const done = unmap(); !done) {
    report_dropped_error(error::make({done.error(), std::system_category()}, "unmap"));
  }
}

auto heap_memory::take(std::uint64_t slot, std::uint64_t reserve, std::string_view path) -> result<heap_memory> {
  auto const length = static_cast<std::size_t>(overlay_bytes + reserve);
  auto* const wanted = reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(slot));
  constexpr os::map_flags address_space{.shared = false, .anonymous = true, .no_reserve = true, .exactly = true};
  auto const placed = os::map(wanted, length, {.read = false}, address_space, os::no_descriptor, 0);
  if (!placed) {
    return refuse(placed.error(), slot, length, path);
  }
  heap_memory made;
  made.base_ = *placed;
  made.length_ = length;
  if (*placed != wanted) { // before Linux 4.17 the address is a wish
    return refuse(EEXIST, slot, length, path);
  }
  if (auto const usable = os::protect(made.base_, heap_format::used_overlay, {.read = true, .write = true}); !usable) {
    return refuse(usable.error(), slot, length, path);
  }
  return made;
}

auto heap_memory::take_any(std::uint64_t reserve, std::string_view path) -> result<heap_memory> {
  auto const where = has_shadow_memory() ? under_sanitizers : plain;
  auto const places = (where.end - where.begin) / huge_page;
  auto const needed = (reserve / huge_page) + 2;
  if (needed > places) {
    return refuse(ENOMEM, where.begin, 0, path);
  }
  constexpr int attempts = 64;
  for (int attempt = 1;; ++attempt) {
    auto made = take(where.begin + (journal::random_number() % (places - needed + 1) * huge_page), reserve, path);
    if (made || made.error() != errc::address_in_use || attempt == attempts) {
      return made;
    }
  }
}

auto heap_memory::extend(os::descriptor file, heap_format::layout const& where, std::size_t size) -> os::outcome<void> {
  constexpr auto segment = heap_format::layout::segment_content;
  constexpr os::map_flags flags{.shared = false, .no_reserve = true, .replace = true};
  while (size_ < size) {
    auto const end = std::min<std::uint64_t>(size, ((size_ / segment) + 1) * segment);
    auto const mapped = os::map(content() + size_, static_cast<std::size_t>(end - size_), {.read = true, .write = true},
                                flags, file, where.offset_of(size_));
    if (!mapped) {
      return std::unexpected(mapped.error());
    }
    size_ = static_cast<std::size_t>(end);
  }
  return {};
}

void heap_memory::disable_readahead(std::byte* from) noexcept {
  (void)os::advise(from, static_cast<std::size_t>(content() + size_ - from), os::advice_value::random);
}

auto heap_memory::protect() -> os::outcome<void> {
  return size_ == 0 ? os::outcome<void>{} : os::protect(content(), size_, {});
}

auto heap_memory::unmap() -> os::outcome<void> {
  auto const length = std::exchange(length_, 0);
  size_ = 0;
  return length == 0 ? os::outcome<void>{} : os::unmap(base_, length);
}

} // namespace fmmap
