// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <utility>
#include <vector>

module fmmap.alloc;

import fmmap.core;

namespace fmmap::alloc {

namespace {

constexpr std::size_t word_bits = 64;

// The next run of ones in `bits` from `from` on; empty at the end when there is none.
auto next_ones(page_bits const& bits, std::size_t from) noexcept -> page_run {
  auto const find = [&](std::size_t at, std::uint64_t flip) {
    while (at < group_pages) {
      auto const word = (bits[at / word_bits] ^ flip) >> (at % word_bits);
      if (word != 0) {
        return at + static_cast<std::size_t>(std::countr_zero(word));
      }
      at = (at / word_bits + 1) * word_bits;
    }
    return group_pages;
  };
  auto const first = find(from, 0);
  return {.first = first, .count = find(first, ~std::uint64_t{0}) - first};
}

void sum_up_pages(group& of) noexcept {
  auto& sum = of.sum;
  sum.at_start = sum.longest = sum.at_end = 0;
  for (auto run = next_ones(of.free_pages, 0); run.count > 0; run = next_ones(of.free_pages, run.first + run.count)) {
    sum.longest = std::max(sum.longest, run.count);
    sum.at_start = run.first == 0 ? run.count : sum.at_start;
    sum.at_end = run.first + run.count == group_pages ? run.count : 0;
  }
}

auto block_count(page_entry const& slab) noexcept -> std::size_t {
  return slab.pages * page_bytes / class_sizes[slab.size_class];
}

auto classes_of(summary& of) noexcept -> std::atomic_ref<std::uint64_t> { return std::atomic_ref{of.classes}; }

auto units(std::size_t amount, std::size_t unit) noexcept -> std::size_t { return (amount + unit - 1) / unit; }

} // namespace

auto books::make(std::size_t limit) -> result<books> {
  auto const groups = std::max<std::size_t>(units(limit, group_pages), 1);
  std::vector<std::size_t> begins{0};
  std::size_t nodes = 0;
  for (auto width = groups; width > 1;) {
    width = units(width, fanout);
    begins.push_back(nodes);
    nodes += width;
  }
  auto memory = mapping::anonymous(0, {.reserve = groups * sizeof(group)});
  if (!memory) {
    return std::unexpected(std::move(memory).error());
  }
  // The root has to be there before the first group is.
  if (auto const first = memory->resize(sizeof(group)); !first) {
    return std::unexpected(first.error());
  }
  auto upper = mapping::anonymous(nodes * sizeof(summary), {.no_reserve = true});
  if (!upper) {
    return std::unexpected(std::move(upper).error());
  }
  return books{std::move(*memory), std::move(begins), std::move(*upper), groups};
}

// --- The tree ---------------------------------------------------------------------------------------------------------

// Of a node above level 0. Groups that do not exist yet have no memory.
auto books::child_count(std::size_t level, std::size_t index) const noexcept -> std::size_t {
  auto const there = level > 1 ? nodes_in(level - 1) : group_count();
  return std::min(fanout, there - std::min(there, index * fanout));
}

void books::sum_up(std::size_t first_group, std::size_t last_group) noexcept {
  for (auto i = first_group; i <= last_group; ++i) {
    sum_up_pages(groups()[i]);
  }
  auto first = first_group;
  auto last = last_group;
  for (std::size_t level = 1; level < levels(); ++level) {
    first /= fanout;
    last /= fanout;
    auto const full = span_of(level - 1);
    for (auto index = first; index <= last; ++index) {
      std::size_t at_start = 0;
      std::size_t longest = 0;
      std::size_t at_end = 0;
      auto const children = child_count(level, index);
      for (std::size_t i = 0; i < children; ++i) {
        auto const& child = node(level - 1, (index * fanout) + i);
        longest = std::max({longest, at_end + child.at_start, child.longest});
        at_start += at_start == i * full ? child.at_start : 0;
        at_end = child.at_start == full ? at_end + full : child.at_end;
      }
      auto& sum = node(level, index);
      sum.at_start = at_start;
      sum.longest = longest;
      sum.at_end = children == fanout ? at_end : 0;
    }
  }
}

auto books::find_run(std::size_t count) const noexcept -> std::size_t {
  if (count == 0 || root().longest < count) {
    return nowhere;
  }
  std::size_t index = 0;
  for (auto level = levels() - 1; level > 0; --level) {
    auto const full = span_of(level - 1);
    std::size_t before = 0; // free pages right before the child
    auto child = index * fanout;
    while (true) {
      auto const& sum = node(level - 1, child);
      if (before + sum.at_start >= count) {
        return (child * full) - before;
      }
      if (sum.longest >= count) {
        break;
      }
      before = sum.at_start == full ? before + full : sum.at_end;
      ++child;
    }
    index = child;
  }
  auto run = next_ones(groups()[index].free_pages, 0);
  while (run.count < count) {
    run = next_ones(groups()[index].free_pages, run.first + run.count);
  }
  return (index * group_pages) + run.first;
}

void books::set_room(std::size_t slab, unsigned size_class, bool room) noexcept {
  auto index = slab / group_pages;
  auto const bit = std::uint64_t{1} << size_class;
  auto& slabs = groups()[index].slabs_with_room[size_class];
  auto& word = slabs[slab % group_pages / word_bits];
  auto const mask = std::uint64_t{1} << (slab % word_bits);
  word = room ? word | mask : word & ~mask;
  if (!room && std::ranges::any_of(slabs, [](std::uint64_t bits) { return bits != 0; })) {
    return;
  }
  for (std::size_t level = 0; level < levels(); ++level, index /= fanout) {
    auto const classes = classes_of(node(level, index));
    if (room) {
      if ((classes.fetch_or(bit, std::memory_order_relaxed) & bit) != 0) {
        return;
      }
      continue;
    }
    classes.fetch_and(~bit, std::memory_order_relaxed);
    if (level + 1 == levels()) {
      return;
    }
    auto const first = index / fanout * fanout;
    for (std::size_t i = 0; i < child_count(level + 1, index / fanout); ++i) {
      if ((classes_of(node(level, first + i)).load(std::memory_order_relaxed) & bit) != 0) {
        return;
      }
    }
  }
}

auto books::find_slab(unsigned size_class) const noexcept -> std::size_t {
  auto const bit = std::uint64_t{1} << size_class;
  auto const has = [&](std::size_t level, std::size_t index) {
    return (classes_of(node(level, index)).load(std::memory_order_relaxed) & bit) != 0;
  };
  auto level = levels() - 1;
  std::size_t index = 0;
  if (!has(level, index)) {
    return nowhere;
  }
  for (; level > 0; --level) {
    index *= fanout;
    while (!has(level - 1, index)) {
      ++index;
    }
  }
  return (index * group_pages) + next_ones(groups()[index].slabs_with_room[size_class], 0).first;
}

// --- Pages ------------------------------------------------------------------------------------------------------------

auto books::free_at_end() const noexcept -> std::size_t {
  std::size_t count = 0;
  while (count < page_count() && is_free(page_count() - 1 - count)) {
    ++count;
  }
  return count;
}

auto books::is_free(std::size_t page) const noexcept -> bool {
  return (free_word(page / word_bits, false) >> (page % word_bits) & 1) != 0;
}

auto books::free_word(std::size_t word, bool only_backed) const noexcept -> std::uint64_t {
  constexpr auto words = group_pages / word_bits;
  auto const& of = groups()[word / words];
  return of.free_pages[word % words] & ~(only_backed ? of.bare_pages[word % words] : 0);
}

// Calls `change` with each group of a run, the index of a word of its bits, and the bits of that word that are the run's.
template <class Do>
void books::for_bits(page_run run, Do change) noexcept {
  for (auto at = run.first; at < run.first + run.count;) {
    auto const in_word = std::min(word_bits - (at % word_bits), run.first + run.count - at);
    auto const ones = in_word == word_bits ? ~std::uint64_t{0} : (std::uint64_t{1} << in_word) - 1;
    change(groups()[at / group_pages], at % group_pages / word_bits, ones << (at % word_bits));
    at += in_word;
  }
}

void books::mark_dirty(page_run run) noexcept {
  auto const last = (run.first + run.count - 1) / chunk_pages;
  constexpr auto in_group = group_pages / chunk_pages;
  for (auto chunk = run.first / chunk_pages; chunk <= last; ++chunk) {
    std::atomic_ref dirty{groups()[chunk / in_group].dirty_chunks};
    auto const whole_group = chunk % in_group == 0 && chunk + in_group <= last + 1;
    auto const bits = whole_group ? ~std::uint32_t{0} : std::uint32_t{1} << (chunk % in_group);
    if ((dirty.load(std::memory_order_relaxed) & bits) != bits) {
      dirty.fetch_or(bits, std::memory_order_relaxed);
    }
    chunk += whole_group ? in_group - 1 : 0;
  }
}

auto books::extend(std::size_t count, bool is_provided) -> result<void> {
  auto const before = page_count_;
  if (auto const grown = memory_.resize(std::max<std::size_t>(units(count, group_pages), 1) * sizeof(group)); !grown) {
    return grown;
  }
  std::atomic_ref{page_count_}.store(count, std::memory_order_release);
  if (count > before) {
    give_back({.first = before, .count = count - before}, !is_provided);
  }
  return {};
}

auto books::take(page_run run) noexcept -> page_run {
  auto first = nowhere;
  std::size_t end = 0;
  for_bits(run, [&](group& of, std::size_t word, std::uint64_t bits) {
    of.free_pages[word] &= ~bits;
    if (auto const bare = of.bare_pages[word] & bits; bare != 0) {
      auto const begin = (static_cast<std::size_t>(&of - groups()) * group_pages) + (word * word_bits);
      first = std::min(first, begin + static_cast<std::size_t>(std::countr_zero(bare)));
      end = begin + static_cast<std::size_t>(std::bit_width(bare));
      of.bare_pages[word] &= ~bits;
      bare_count_ -= static_cast<std::size_t>(std::popcount(bare));
    }
  });
  free_count_ -= run.count;
  sum_up(run.first / group_pages, (run.first + run.count - 1) / group_pages);
  mark_dirty(run);
  return first == nowhere ? page_run{} : page_run{.first = first, .count = end - first};
}

void books::give_back(page_run run, bool bare) noexcept {
  for_bits(run, [&](group& of, std::size_t word, std::uint64_t bits) {
    of.free_pages[word] |= bits;
    of.bare_pages[word] |= bare ? bits : 0;
  });
  free_count_ += run.count;
  bare_count_ += bare ? run.count : 0;
  sum_up(run.first / group_pages, (run.first + run.count - 1) / group_pages);
  mark_dirty(run);
}

auto books::next_run(std::size_t from, bool only_backed) const noexcept -> page_run {
  auto const end = page_count();
  auto const find = [&](std::size_t at, std::uint64_t flip) {
    while (at < end) {
      auto const word = (free_word(at / word_bits, only_backed) ^ flip) >> (at % word_bits);
      if (word != 0) {
        return std::min(end, at + static_cast<std::size_t>(std::countr_zero(word)));
      }
      at = (at / word_bits + 1) * word_bits;
    }
    return end;
  };
  auto const first = find(from, 0);
  return {.first = first, .count = find(first, ~std::uint64_t{0}) - first};
}

auto books::scan_for_run(std::size_t count, std::size_t unit, std::size_t origin, bool only_backed) const noexcept
    -> std::size_t {
  for (auto run = next_run(0, only_backed); run.count > 0; run = next_run(run.first + run.count, only_backed)) {
    auto const first = (units(run.first + origin, unit) * unit) - origin;
    if (first + count <= run.first + run.count) {
      return first;
    }
  }
  return nowhere;
}

// --- Slabs ------------------------------------------------------------------------------------------------------------

auto books::next_slab(unsigned size_class, std::size_t from) const noexcept -> std::size_t {
  for (auto i = from / group_pages; i < group_count(); ++i, from = i * group_pages) {
    if (auto const run = next_ones(groups()[i].slabs_with_room[size_class], from % group_pages); run.count > 0) {
      return (i * group_pages) + run.first;
    }
  }
  return nowhere;
}

void books::describe_slab(page_run run, unsigned size_class) noexcept {
  entry(run.first) = {.kind = page_kind::slab,
                      .size_class = static_cast<std::uint8_t>(size_class),
                      .pages = static_cast<std::uint8_t>(run.count),
                      .unused = 0,
                      .free_count = 0};
  for (std::size_t i = 1; i < run.count; ++i) {
    entry(run.first + i) = {.kind = page_kind::slab_inside,
                            .size_class = 0,
                            .pages = static_cast<std::uint8_t>(i),
                            .unused = 0,
                            .free_count = 0};
  }
}

void books::make_slab(page_run run, unsigned size_class) noexcept {
  for (std::size_t word = 0; word < run.count * words_per_page; ++word) {
    block_word((run.first * words_per_page) + word) = ~std::uint64_t{0};
  }
  adopt_slab(run, size_class);
}

void books::adopt_slab(page_run run, unsigned size_class) noexcept {
  describe_slab(run, size_class);
  auto& slab = entry(run.first);
  auto const blocks = block_count(slab);
  for (std::size_t i = 0; i < run.count * words_per_page; ++i) {
    auto const left = blocks - std::min(blocks, i * word_bits);
    auto& word = block_word((run.first * words_per_page) + i);
    word &= left >= word_bits ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
    slab.free_count += static_cast<std::uint32_t>(std::popcount(word));
  }
  if (slab.free_count > 0) {
    set_room(run.first, size_class, true);
  }
  mark_dirty(run);
}

void books::unmake_slab(page_run run, unsigned size_class) noexcept {
  set_room(run.first, size_class, false);
  for (std::size_t i = 0; i < run.count; ++i) {
    entry(run.first + i) = {};
    for (std::size_t word = 0; word < words_per_page; ++word) {
      block_word(((run.first + i) * words_per_page) + word) = 0;
    }
  }
  mark_dirty(run);
}

auto books::take_blocks(std::size_t slab, std::span<std::size_t> out) noexcept -> std::size_t {
  auto& about = entry(slab);
  std::size_t const size = class_sizes[about.size_class];
  std::size_t taken = 0;
  for (std::size_t index = 0; taken < out.size() && taken < about.free_count; index += word_bits) {
    auto& word = block_word((slab * words_per_page) + (index / word_bits));
    auto bits = word;
    for (; bits != 0 && taken < out.size(); bits &= bits - 1) {
      out[taken++] = (slab * page_bytes) + ((index + static_cast<std::size_t>(std::countr_zero(bits))) * size);
    }
    word = bits;
  }
  about.free_count -= static_cast<std::uint32_t>(taken);
  if (about.free_count == 0) {
    set_room(slab, about.size_class, false);
  }
  mark_dirty({.first = slab, .count = about.pages});
  return taken;
}

auto books::is_empty(std::size_t slab) const noexcept -> bool {
  auto const& about = entry(slab);
  return about.free_count == block_count(about);
}

auto books::give_back_block(std::size_t offset, unsigned size_class) noexcept -> returned {
  auto slab = offset / page_bytes;
  if (slab >= page_count()) {
    return {.what = verdict::not_a_block, .slab = {}};
  }
  if (auto const& at = entry(slab); at.kind == page_kind::slab_inside) {
    slab -= at.pages;
  }
  auto& about = entry(slab);
  auto const inside = offset - (slab * page_bytes);
  auto const index = inside / class_sizes[size_class];
  if (about.kind != page_kind::slab || about.size_class != size_class || index * class_sizes[size_class] != inside ||
      index >= block_count(about)) [[unlikely]] {
    return {.what = verdict::not_a_block, .slab = {}};
  }
  auto& word = block_word((slab * words_per_page) + (index / word_bits));
  auto const bit = std::uint64_t{1} << (index % word_bits);
  if ((word & bit) != 0) [[unlikely]] {
    return {.what = verdict::free_already, .slab = {}};
  }
  word |= bit;
  if (about.free_count++ == 0) {
    set_room(slab, size_class, true);
  }
  page_run const run{.first = slab, .count = about.pages};
  mark_dirty(run);
  return {.what = about.free_count == block_count(about) ? verdict::slab_is_empty : verdict::fine, .slab = run};
}

auto books::bit_of(std::size_t offset) const noexcept -> bit {
  auto slab = offset / page_bytes;
  if (auto const& at = entry(slab); at.kind == page_kind::slab_inside) {
    slab -= at.pages;
  }
  auto const index = (offset - slab * page_bytes) / class_sizes[entry(slab).size_class];
  return {.word = (slab * words_per_page) + (index / word_bits), .mask = std::uint64_t{1} << (index % word_bits)};
}

auto books::is_used(std::size_t offset, std::size_t length) const noexcept -> bool {
  auto const size = page_count() * page_bytes;
  if (length == 0 || offset >= size || length > size - offset) {
    return false;
  }
  auto const first = offset / page_bytes;
  auto const last = (offset + length - 1) / page_bytes;
  if (entry(first).kind == page_kind::plain) {
    for (auto page = first; page <= last; ++page) {
      if (entry(page).kind != page_kind::plain || is_free(page)) {
        return false;
      }
    }
    return true;
  }
  auto const slab = entry(first).kind == page_kind::slab ? first : first - entry(first).pages;
  auto const& about = entry(slab);
  auto const block = class_sizes[about.size_class];
  auto const inside = offset - (slab * page_bytes);
  auto const index = inside / block;
  auto const word = block_word((slab * words_per_page) + (index / word_bits));
  return index < block_count(about) && (word & (std::uint64_t{1} << (index % word_bits))) == 0 &&
         length <= block - (inside % block);
}

auto books::used_bytes() const noexcept -> std::size_t {
  std::size_t used = 0;
  for (std::size_t page = 0; page < page_count(); ++page) {
    auto const& at = entry(page);
    if (at.kind == page_kind::slab) {
      used += (block_count(at) - at.free_count) * class_sizes[at.size_class];
    } else if (at.kind == page_kind::plain && !is_free(page)) {
      used += page_bytes;
    }
  }
  return used;
}

// --- All of it --------------------------------------------------------------------------------------------------------

auto books::take_dirty_chunks() -> std::vector<std::size_t> {
  std::vector<std::size_t> chunks;
  constexpr auto in_group = group_pages / chunk_pages;
  for (std::size_t i = 0; i < group_count(); ++i) {
    auto bits = std::atomic_ref{groups()[i].dirty_chunks}.exchange(0, std::memory_order_relaxed);
    for (; bits != 0; bits &= bits - 1) {
      auto const chunk = (i * in_group) + static_cast<std::size_t>(std::countr_zero(bits));
      if (chunk * chunk_pages < page_count()) {
        chunks.push_back(chunk);
      }
    }
  }
  return chunks;
}

void books::clear() noexcept {
  for (std::size_t i = 0; i < group_count(); ++i) {
    auto& of = groups()[i];
    if (std::ranges::any_of(of.pages, [](page_entry const& page) { return page.kind != page_kind::plain; })) {
      of.pages = {};
      of.slabs_with_room = {};
      of.free_blocks = {};
    }
    of.sum.classes = 0;
  }
  for (std::size_t level = 1; level < levels(); ++level) {
    for (std::size_t i = 0; i < nodes_in(level); ++i) {
      node(level, i).classes = 0;
    }
  }
  if (page_count_ > 0) {
    for_bits({.first = 0, .count = page_count_},
             [](group& of, std::size_t word, std::uint64_t bits) { of.free_pages[word] |= bits; });
    free_count_ = page_count_;
    sum_up(0, group_count() - 1);
    mark_dirty({.first = 0, .count = page_count_});
  }
}

} // namespace fmmap::alloc
