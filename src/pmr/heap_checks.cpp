// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <bit>
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
#include <unordered_map>
#include <utility>
#include <vector>

module fmmap.pmr;

import fmmap.alloc;
import fmmap.core;
import fmmap.dirty;
import fmmap.journal;
import :address_map;
import :heap_format;
import :heap_state;
import :heap_store;
import :state;

// Finds what is to be committed and cannot be right: pointers to memory that ends with the process, as containers have that
// allocate elsewhere, and to what is on a stack, functions, tables of virtual functions; and what a thread has changed while the
// commit was made.

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
  return error::make(errc::escaped_pointer, "commit to", path(), {},
                     describe_place(offset) + " holds " + hexadecimal(value) + ", which is in " + std::string{target});
}

auto heap_state::describe_place(std::uint64_t offset) const -> std::string {
  auto const [name, object] = objects_.find_at(offset);
  if (object == nullptr) {
    return "what is allocated " + std::to_string(offset) + " bytes into the heap";
  }
  return "\"" + std::string{name} + "\" (" + object->type_text + "), " + std::to_string(offset - object->object) +
         " bytes into it,";
}

auto heap_state::check_races(staging const& gathered) -> result<void> {
  std::vector<dirty::page_range> written;
  if (auto done = detector_->collect(written); !done) {
    return done;
  }
  struct change {
    std::uint64_t lines = 0;
    std::span<std::byte const> content;
  };
  std::unordered_map<std::uint64_t, change> changes;
  gathered.made->for_each_change([&](std::uint64_t page, std::uint64_t lines, std::span<std::byte const> content) {
    changes[page] = {.lines = lines, .content = content};
  });
  for (auto const& run : written) {
    for (auto* at = run.begin; at != run.end(); at += journal::page_bytes) {
      auto const offset = static_cast<std::uint64_t>(at - memory_.content());
      if (allocator_->is_free(offset)) {
        continue;
      }
      auto const page = file_page_of(at);
      auto const found = changes.find(page);
      auto const [lines, content] = found == changes.end() ? change{} : found->second;
      auto const not_in_place = gathered.staged_before.of(page) | store_->unapplied_lines(page);
      std::span<std::byte const, journal::page_bytes> const now{at, journal::page_bytes};
      auto raced = differing_lines(gathered, page, now, ~lines & ~not_in_place);
      journal::for_each_line(lines, content, [&](std::size_t line, std::span<std::byte const> staged) {
        auto const same = std::ranges::equal(now.subspan(line * journal::line_bytes, journal::line_bytes), staged);
        raced |= std::uint64_t{!same} << line;
      });
      if (raced != 0) {
        auto const line = static_cast<std::uint64_t>(std::countr_zero(raced));
        return std::unexpected(describe_race(offset + (line * journal::line_bytes)));
      }
    }
  }
  return {};
}

auto heap_state::describe_race(std::uint64_t offset) const -> error {
  return error::make(errc::data_race, "commit to", path(), {},
                     describe_place(offset) +
                         " was changed while the commit was made; threads that change objects hold an "
                         "update_scope");
}

} // namespace fmmap
