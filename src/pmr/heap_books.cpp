// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

module fmmap.pmr;

import fmmap.alloc;
import fmmap.os;
import :heap_books;
import :heap_format;

namespace fmmap {

namespace {

using alloc::chunk_state;

constexpr std::uint64_t word_bits = 64;

} // namespace

auto heap_books::kind_of(std::uint64_t page) const noexcept -> std::uint8_t {
  auto const at = where_.record_of(page / alloc::chunk_pages) + (page % alloc::chunk_pages);
  return std::to_integer<std::uint8_t>(file_[at]);
}

auto heap_books::free_blocks(slab const& of, std::uint64_t word) const noexcept -> std::uint64_t {
  auto const page = of.first + (word / alloc::words_per_page);
  auto const in_chunk = (page % alloc::chunk_pages * alloc::words_per_page) + (word % alloc::words_per_page);
  auto const at = where_.record_of(page / alloc::chunk_pages) + offsetof(heap_format::chunk_record, free_blocks);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &file_[at + (in_chunk * sizeof bits)], sizeof bits);
  auto const left = of.blocks - std::min(of.blocks, word * word_bits);
  return left >= word_bits ? bits : bits & ((std::uint64_t{1} << left) - 1);
}

auto heap_books::slab_at(std::uint64_t page) const noexcept -> std::optional<slab> {
  auto const size_class = kind_of(page) - unsigned{chunk_state::first_slab_class};
  if (size_class >= alloc::class_count) {
    return {};
  }
  std::uint64_t pages = 1;
  while (pages <= alloc::largest_slab && page + pages < page_count() &&
         kind_of(page + pages) == chunk_state::slab_inside) {
    ++pages;
  }
  auto const blocks = pages * alloc::page_bytes / alloc::class_sizes[size_class];
  if (pages > alloc::largest_slab || blocks == 0) {
    return {};
  }
  slab found{.first = page, .pages = pages, .size_class = size_class, .blocks = blocks, .free_blocks = 0};
  for (std::uint64_t word = 0; word < pages * alloc::words_per_page; ++word) {
    found.free_blocks += static_cast<std::uint64_t>(std::popcount(free_blocks(found, word)));
  }
  return found;
}

auto heap_books::slab_around(std::uint64_t page) const noexcept -> std::optional<slab> {
  auto first = page;
  while (first > 0 && page - first < alloc::largest_slab && kind_of(first) == chunk_state::slab_inside) {
    --first;
  }
  return slab_at(first);
}

auto heap_books::is_live(std::uint64_t offset, std::uint64_t length) const noexcept -> bool {
  if (length == 0 || !os::fits(offset, length, content_)) {
    return false;
  }
  auto const first = offset / alloc::page_bytes;
  if (kind_of(first) == chunk_state::run) {
    auto page = first;
    while (page <= (offset + length - 1) / alloc::page_bytes && kind_of(page) == chunk_state::run) {
      ++page;
    }
    return page > (offset + length - 1) / alloc::page_bytes;
  }
  auto const slab = slab_around(first);
  if (!slab) {
    return false;
  }
  auto const block_bytes = alloc::class_sizes[slab->size_class];
  auto const inside = offset - (slab->first * alloc::page_bytes);
  auto const block = inside / block_bytes;
  return block < slab->blocks && (free_blocks(*slab, block / word_bits) >> (block % word_bits) & 1) == 0 &&
         length <= block_bytes - (inside % block_bytes);
}

auto heap_books::is_object(std::uint64_t offset, std::uint64_t size, std::uint64_t alignment) const noexcept -> bool {
  if (!is_live(offset, std::max<std::uint64_t>(size, 1))) {
    return false;
  }
  auto const size_class = alloc::find_class(size, alignment);
  auto const page = offset / alloc::page_bytes;
  if (size_class == alloc::class_count) {
    return kind_of(page) == chunk_state::run && offset % alloc::page_bytes == 0;
  }
  auto const slab = slab_around(page);
  return slab && slab->size_class == size_class &&
         (offset - (slab->first * alloc::page_bytes)) % alloc::class_sizes[size_class] == 0;
}

} // namespace fmmap
