// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <system_error>
#include <utility>

module fmmap.pmr;

import fmmap.core;
import fmmap.journal;
import fmmap.os;
import :heap_format;
import :heap_image;
import :heap_memory;

namespace fmmap {

auto heap_image::make(file const& backing, journal::log const& records, heap_format::layout const& where,
                      std::uint64_t content) -> result<heap_image> {
  auto const length = static_cast<std::size_t>(where.file_bytes(content));
  auto books = mapping::map(
      backing, {.access = access::copy_on_write, .range = {.offset = 0, .length = length}, .no_reserve = true});
  if (!books) {
    return std::unexpected(std::move(books).error());
  }
  auto memory = heap_memory::take_any(content, backing.path());
  if (!memory) {
    return std::unexpected(std::move(memory).error());
  }
  if (auto const mapped = memory->extend(backing.native_handle(), where, content); !mapped) {
    return std::unexpected(error::make({mapped.error(), std::system_category()}, "map", backing.path()));
  }
  heap_image made{std::move(*books), std::move(*memory)};
  made.replay(records, where);
  return made;
}

void heap_image::replay(journal::log const& records, heap_format::layout const& where) {
  auto const page_in = [](std::span<std::byte> memory, std::uint64_t offset) {
    return os::fits(offset, journal::page_bytes, memory.size()) ? memory.subspan(offset, journal::page_bytes)
                                                                : std::span<std::byte>{};
  };
  records.for_each_unapplied([&](std::uint64_t page, std::uint64_t lines, std::span<std::byte const> changed) {
    auto const at = page * journal::page_bytes;
    auto const in_content = where.content_at(at);
    auto const to = in_content ? page_in(content(), *in_content) : page_in(books_.writable_bytes(), at);
    if (to.empty()) { // of what a later commit does not have any more
      return;
    }
    journal::for_each_line(lines, changed, [&](std::size_t line, std::span<std::byte const> now) {
      std::ranges::copy(now, to.subspan(line * journal::line_bytes).begin());
    });
  });
}

} // namespace fmmap
