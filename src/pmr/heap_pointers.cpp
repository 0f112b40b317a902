// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

module fmmap.pmr;

import fmmap.alloc;
import fmmap.core;
import fmmap.journal;
import :address_map;
import :heap_format;
import :heap_state;
import :heap_store;
import :state;

// Finds what is to be committed and points to memory that ends with the process: containers that allocate elsewhere, pointers
// to what is on a stack, functions, tables of virtual functions.

namespace fmmap {

namespace {

// Larger ones are address space that somebody holds, and numbers of programs hit it.
constexpr std::uintptr_t largest_range = std::uintptr_t{1} << 38;

// Below, sanitizers have their shadow memory, and programs nothing.
constexpr std::uintptr_t shadow_end = 0x2000'0000'0000;

struct escape {
  std::uint64_t offset; // in the content
  std::uintptr_t value;
  address_range const* target;
};

} // namespace

auto heap_state::check_pointers(staged_commit const& one) const -> result<void> {
  auto const map = address_map::read();
  if (!map) {
    return std::unexpected(map.error());
  }
  auto const own = reinterpret_cast<std::uintptr_t>(memory_.overlay());
  auto const lowest = has_shadow_memory() ? shadow_end : 0;
  auto const target_of = [&](std::uintptr_t value) -> address_range const* {
    if (value - own < memory_.length() || value < lowest) {
      return nullptr;
    }
    auto const* const found = map->find(value, value + 1);
    return found != nullptr && found->accessible && found->end - found->begin <= largest_range ? found : nullptr;
  };
  std::optional<escape> escaped;
  one.for_each_change([&](std::uint64_t page, std::uint64_t lines, std::span<std::byte const> bytes) {
    auto const content = store_->where().content_at(page * journal::page_bytes);
    if (!content) {
      return;
    }
    journal::for_each_line(lines, bytes, [&](std::size_t number, std::span<std::byte const> line) {
      auto const offset = *content + (number * journal::line_bytes);
      for (std::size_t at = 0; at < line.size() && !escaped; at += sizeof(std::uintptr_t)) {
        std::uintptr_t value = 0;
        std::memcpy(&value, line.data() + at, sizeof value);
        if (auto const* const target = target_of(value);
            target != nullptr && allocator_->is_live(offset + at, sizeof value)) {
          escaped = escape{.offset = offset + at, .value = value, .target = target};
        }
      }
    });
  });
  if (escaped) {
    return std::unexpected(describe_escape(escaped->offset, escaped->value, describe(*escaped->target)));
  }
  return {};
}

auto heap_state::describe_escape(std::uint64_t offset, std::uintptr_t value, std::string_view target) const -> error {
  std::string where = "what is allocated " + std::to_string(offset) + " bytes into the heap";
  if (auto const [name, object] = objects_.find_at(offset); object != nullptr) {
    where = "\"" + std::string{name} + "\" (" + object->type_text + "), " + std::to_string(offset - object->object) +
            " bytes into it,";
  }
  return error::make(errc::escaped_pointer, "commit to", path(), {},
                     where + " holds " + hexadecimal(value) + ", which is in " + std::string{target});
}

} // namespace fmmap
