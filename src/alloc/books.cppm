// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <vector>

// The books of an allocator: which pages are free, which belong to slabs, and which blocks of those are free. In ordinary
// memory of their own, reserved for the whole space and made usable as that grows, so that they never move and giving
// something back needs no memory.
//
// 512 pages are a group. A tree over the groups, eight to a node, answers both questions there are in a few steps: where the
// lowest run of n free pages is, and where the lowest slab of a class with free blocks is. What is handed out depends on the
// books alone and not on how they came about: two allocators with equal books go on equally.
export module fmmap.alloc:books;

import fmmap.core;
import :size_classes;

export namespace fmmap::alloc {

inline constexpr std::size_t group_pages = 512;
inline constexpr std::size_t group_bytes = group_pages * page_bytes;
inline constexpr std::size_t chunk_pages = 16; // the unit of what is exported
inline constexpr std::size_t chunk_bytes = chunk_pages * page_bytes;
inline constexpr std::size_t nowhere = ~std::size_t{0};

inline constexpr std::size_t words_per_page = page_bytes / granule / 64; // of a bit for each granule

struct page_run {
  std::size_t first;
  std::size_t count;
};

// What a page is, when it is no free one.
enum class page_kind : std::uint8_t {
  plain,       // free, or part of a run
  slab,        // the first of a slab
  slab_inside, // another one of it
};

struct page_entry {
  page_kind kind;
  std::uint8_t size_class; // of a slab's first page
  std::uint8_t pages;      // of a slab's first page: its length; of another: how far it is to the first
  std::uint8_t unused;
  std::uint32_t free_count; // of a slab's first page: blocks that are free
};

// The free pages of a part of the space, in pages, and the classes of which it has slabs with free blocks, a bit for each.
struct summary {
  std::size_t at_start; // free from the start on
  std::size_t longest;
  std::size_t at_end;
  std::uint64_t classes; // by atomic_ref: each bit has a lock of its own
};

using page_bits = std::array<std::uint64_t, group_pages / 64>;

// All zeros is a group of pages that do not exist.
struct group {
  summary sum;
  page_bits free_pages;
  page_bits bare_pages;       // of the free ones, those without memory behind them
  std::uint32_t dirty_chunks; // a bit for each, by atomic_ref
  std::array<page_entry, group_pages> pages;
  std::array<page_bits, class_count> slabs_with_room; // by class, a bit at the first page
  std::array<std::uint64_t, group_pages * words_per_page>
      free_blocks; // of a slab, from its first page on, a bit a block
};

class books {
public:
  // For a space that never has more than `limit` pages.
  [[nodiscard]] static auto make(std::size_t limit) -> result<books>;

  // Pages that exist. Whoever changes that, or what is free, has the lock of the pages.
  [[nodiscard]] inline auto page_count() const noexcept -> std::size_t {
    return std::atomic_ref{page_count_}.load(std::memory_order_acquire);
  }
  [[nodiscard]] inline auto free_count() const noexcept -> std::size_t { return free_count_; }
  // Of those, how many have memory behind them.
  [[nodiscard]] inline auto backed_free_count() const noexcept -> std::size_t { return free_count_ - bare_count_; }
  [[nodiscard]] inline auto longest_free() const noexcept -> std::size_t { return root().longest; }
  // Of the pages that are free, how many lie at the end of the space.
  [[nodiscard]] auto free_at_end() const noexcept -> std::size_t;

  // Adds free pages up to `count`, with memory behind them or not. Errors: there is no memory for more books.
  [[nodiscard]] auto extend(std::size_t count, bool is_provided = true) -> result<void>;

  // The lowest run of `count` free pages, `nowhere` without one.
  [[nodiscard]] auto find_run(std::size_t count) const noexcept -> std::size_t;

  // The same for one that begins at a multiple of `unit` pages, counted from `origin` pages before the space, or has memory
  // behind all of its pages. Looks at every page.
  [[nodiscard]] auto scan_for_run(std::size_t count, std::size_t unit, std::size_t origin,
                                  bool only_backed) const noexcept -> std::size_t;

  // Marks a run of free pages as used. Returns those between the first and the last that had no memory behind them.
  auto take(page_run run) noexcept -> page_run;

  // Marks a run of used pages as free.
  void give_back(page_run run, bool bare) noexcept;

  // The next run of free pages from `from` on, empty at the end.
  [[nodiscard]] auto next_run(std::size_t from, bool only_backed) const noexcept -> page_run;

  // The first slab of a class that has free blocks, by its first page. The class's lock is held, here and in what follows.
  [[nodiscard]] auto find_slab(unsigned size_class) const noexcept -> std::size_t;

  // The next one from page `from` on; `nowhere` at the end.
  [[nodiscard]] auto next_slab(unsigned size_class, std::size_t from) const noexcept -> std::size_t;

  // Makes used pages a slab, all of its blocks free.
  void make_slab(page_run run, unsigned size_class) noexcept;

  // The same for blocks whose bits are there already, those of the slab's pages; what can be no block's is cleared.
  void adopt_slab(page_run run, unsigned size_class) noexcept;

  // Makes it plain pages again.
  void unmake_slab(page_run run, unsigned size_class) noexcept;

  // Takes up to `out.size()` free blocks of a slab, lowest first, by their offsets; returns how many.
  auto take_blocks(std::size_t slab, std::span<std::size_t> out) noexcept -> std::size_t;

  // Whether all blocks of a slab are free.
  [[nodiscard]] auto is_empty(std::size_t slab) const noexcept -> bool;

  // What a block was given back to: its slab, and how that is now.
  enum class verdict : unsigned char { fine, slab_is_empty, not_a_block, free_already };
  struct returned {
    verdict what;
    page_run slab;
  };
  auto give_back_block(std::size_t offset, unsigned size_class) noexcept -> returned;

  // What blocks that are not free and pages of runs take together. Looks at every page.
  [[nodiscard]] auto used_bytes() const noexcept -> std::size_t;

  // Where the bit of a block is, in words from the start of the books.
  struct bit {
    std::size_t word;
    std::uint64_t mask;
  };
  [[nodiscard]] auto bit_of(std::size_t offset) const noexcept -> bit;

  [[nodiscard]] inline auto entry(std::size_t page) const noexcept -> page_entry& {
    return groups()[page / group_pages].pages[page % group_pages];
  }
  [[nodiscard]] auto is_free(std::size_t page) const noexcept -> bool;

  // Whether these bytes, one at least, lie in one block that is not free, or in pages of runs.
  [[nodiscard]] auto is_used(std::size_t offset, std::size_t length) const noexcept -> bool;
  [[nodiscard]] inline auto block_word(std::size_t word) const noexcept -> std::uint64_t& {
    constexpr auto in_group = group_pages * words_per_page;
    return groups()[word / in_group].free_blocks[word % in_group];
  }

  // Chunks whose state has changed since this was last asked.
  [[nodiscard]] auto take_dirty_chunks() -> std::vector<std::size_t>;
  void mark_dirty(page_run run) noexcept;

  // Makes all pages free ones again, that have memory behind them where they had.
  void clear() noexcept;

private:
  static constexpr std::size_t fanout = 8;

  inline books(mapping memory, std::vector<std::size_t> level_begins, mapping nodes, std::size_t groups) noexcept
      : memory_{std::move(memory)},
        nodes_{std::move(nodes)},
        groups_{reinterpret_cast<group*>(memory_.writable_bytes().data())},
        nodes_begin_{reinterpret_cast<summary*>(nodes_.writable_bytes().data())},
        level_begins_{std::move(level_begins)},
        limit_groups_{groups} {}

  [[nodiscard]] inline auto groups() const noexcept -> group* { return groups_; }
  [[nodiscard]] inline auto group_count() const noexcept -> std::size_t {
    return (page_count() + group_pages - 1) / group_pages;
  }
  [[nodiscard]] auto free_word(std::size_t word, bool only_backed) const noexcept -> std::uint64_t;
  [[nodiscard]] auto child_count(std::size_t level, std::size_t index) const noexcept -> std::size_t;
  // Level 0 is the groups; the last one is the root alone.
  [[nodiscard]] inline auto levels() const noexcept -> std::size_t { return level_begins_.size(); }
  [[nodiscard]] inline auto node(std::size_t level, std::size_t index) const noexcept -> summary& {
    return level == 0 ? groups_[index].sum : nodes_begin_[level_begins_[level] + index];
  }
  [[nodiscard]] inline auto root() const noexcept -> summary const& { return node(levels() - 1, 0); }
  [[nodiscard]] inline auto nodes_in(std::size_t level) const noexcept -> std::size_t {
    return (limit_groups_ + (std::size_t{1} << (3 * level)) - 1) >> (3 * level);
  }
  [[nodiscard]] static constexpr auto span_of(std::size_t level) noexcept -> std::size_t {
    return group_pages << (3 * level);
  }

  void sum_up(std::size_t first_group, std::size_t last_group) noexcept;
  void describe_slab(page_run run, unsigned size_class) noexcept;
  void set_room(std::size_t slab, unsigned size_class, bool room) noexcept;
  template <class Do>
  void for_bits(page_run run, Do change) noexcept;

  mapping memory_;
  mapping nodes_; // of the levels above 0
  group* groups_;
  summary* nodes_begin_;
  std::vector<std::size_t> level_begins_; // among the nodes
  std::size_t limit_groups_;              // how many there can be
  alignas(std::atomic_ref<std::size_t>::required_alignment) mutable std::size_t page_count_ = 0;
  std::size_t free_count_ = 0;
  std::size_t bare_count_ = 0;
};

} // namespace fmmap::alloc
