// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

// The books of a heap as its file has them, read where they lie. Implementation units only.
module fmmap.pmr:heap_books;

import fmmap.alloc;
import :heap_format;

namespace fmmap {

// Whatever the bytes are, asking is safe. What `alloc::allocator::import` refuses is no slab here.
class heap_books {
public:
  struct slab {
    std::uint64_t first; // page
    std::uint64_t pages;
    unsigned size_class;
    std::uint64_t blocks;
    std::uint64_t free_blocks;
  };

  // Of `content` bytes in a file that holds as many, and their books.
  inline heap_books(std::span<std::byte const> file, heap_format::layout const& where, std::uint64_t content) noexcept
      : file_{file}, where_{where}, content_{content} {}

  [[nodiscard]] inline auto page_count() const noexcept -> std::uint64_t { return content_ / alloc::page_bytes; }

  // As `alloc::chunk_state` has it.
  [[nodiscard]] auto kind_of(std::uint64_t page) const noexcept -> std::uint8_t;

  // The slab that begins at a page; nothing where none does that can be one.
  [[nodiscard]] auto slab_at(std::uint64_t page) const noexcept -> std::optional<slab>;

  // Whether these bytes lie in one block that is not free, or in pages of runs.
  [[nodiscard]] auto is_live(std::uint64_t offset, std::uint64_t length) const noexcept -> bool;

  // Whether a block or a run begins there that was asked for with that size and alignment.
  [[nodiscard]] auto is_object(std::uint64_t offset, std::uint64_t size, std::uint64_t alignment) const noexcept
      -> bool;

private:
  [[nodiscard]] auto slab_around(std::uint64_t page) const noexcept -> std::optional<slab>;
  // Of the blocks of a slab from number 64 * `word` on, a bit for each that is free.
  [[nodiscard]] auto free_blocks(slab const& of, std::uint64_t word) const noexcept -> std::uint64_t;

  std::span<std::byte const> file_;
  heap_format::layout where_;
  std::uint64_t content_;
};

} // namespace fmmap
