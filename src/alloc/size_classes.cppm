// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

// Which sizes there are. Blocks of up to 32 KiB have one of 40 sizes, in steps of 16 bytes to 128 and from there of a quarter
// of a power of two, and lie in slabs of blocks of one size. What is larger is a run of pages.
export module fmmap.alloc:size_classes;

export namespace fmmap::alloc {

inline constexpr std::size_t granule = 16;
inline constexpr std::size_t page_bytes = 4096; // the allocator's own page, whatever the system's
inline constexpr std::size_t largest_block = std::size_t{32} * 1024;
inline constexpr unsigned class_count = 40;
inline constexpr std::size_t largest_slab = 16; // pages

constexpr auto class_size(unsigned size_class) noexcept -> std::size_t {
  constexpr unsigned steps = 8; // of 16 bytes
  return size_class < steps ? granule * (size_class + 1)
                            : std::size_t{5 + ((size_class - steps) % 4)} << (5 + ((size_class - steps) / 4));
}

static_assert(class_size(7) == 128 && class_size(8) == 160 && class_size(class_count - 1) == largest_block);

// The smallest class whose blocks hold `size` bytes, at most `largest_block`; none at all count as one.
constexpr auto class_of(std::size_t size) noexcept -> unsigned {
  constexpr std::size_t last_step = 128;
  if (size <= last_step) {
    return static_cast<unsigned>((size - (size != 0 ? 1 : 0)) / granule);
  }
  auto const last = size - 1;
  auto const doubling = static_cast<unsigned>(std::bit_width(last)) - 8;
  return 8 + (doubling * 4) + static_cast<unsigned>((last >> (doubling + 5)) & 3);
}

// The same for blocks at multiples of `alignment`, a power of two; `class_count` when a run of pages it is to be. Slabs begin
// at pages, so that a block is aligned as its size is.
constexpr auto class_of(std::size_t size, std::size_t alignment) noexcept -> unsigned {
  if (size > largest_block || alignment > page_bytes) [[unlikely]] {
    return class_count;
  }
  auto found = class_of(size);
  while (alignment > granule && found < class_count && class_size(found) % alignment != 0) {
    ++found;
  }
  return found;
}

// How many blocks of a class a thread keeps for itself at the most.
constexpr auto magazine_size(unsigned size_class) noexcept -> unsigned {
  auto const size = class_size(size_class);
  return size <= 128 ? 64 : size <= 1024 ? 32 : size <= 8192 ? 16 : 4;
}

// How long a slab is to be, in pages, where `at_most` would be good: as long as wastes least behind its last block. Never
// shorter than a block.
constexpr auto slab_pages(unsigned size_class, std::size_t at_most) noexcept -> std::size_t {
  auto const size = class_size(size_class);
  auto const least = (size + page_bytes - 1) / page_bytes;
  auto best = std::max(least, (at_most / 2) + 1);
  for (auto pages = best; pages <= at_most; ++pages) {
    if (pages * page_bytes % size * best <= best * page_bytes % size * pages) {
      best = pages;
    }
  }
  return best;
}

// The numbers above as tables, and what is computed from them where it has to be quick.

inline constexpr auto class_sizes = [] {
  std::array<std::uint32_t, class_count> table{};
  for (unsigned c = 0; c < class_count; ++c) {
    table[c] = static_cast<std::uint32_t>(class_size(c));
  }
  return table;
}();

inline constexpr auto magazine_sizes = [] {
  std::array<std::uint32_t, class_count> table{};
  for (unsigned c = 0; c < class_count; ++c) {
    table[c] = magazine_size(c);
  }
  return table;
}();

// Where the magazine of a class begins among those of all classes, and at the end how many slots there are.
inline constexpr auto magazine_begins = [] {
  std::array<std::uint32_t, class_count + 1> table{};
  for (unsigned c = 0; c < class_count; ++c) {
    table[c + 1] = table[c] + magazine_size(c);
  }
  return table;
}();

// The classes of sizes up to 1 KiB, by granules.
inline constexpr std::size_t tabled_size = 1024;
inline constexpr auto tabled_classes = [] {
  std::array<std::uint8_t, (tabled_size / granule) + 1> table{};
  for (std::size_t i = 0; i < table.size(); ++i) {
    table[i] = static_cast<std::uint8_t>(class_of(i * granule));
  }
  return table;
}();

inline auto find_class(std::size_t size, std::size_t alignment) noexcept -> unsigned {
  if (size <= tabled_size && alignment <= granule) [[likely]] {
    return tabled_classes[(size + granule - 1) / granule];
  }
  return class_of(size, alignment);
}

} // namespace fmmap::alloc
