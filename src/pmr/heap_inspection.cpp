// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module fmmap.pmr;

import fmmap.alloc;
import fmmap.core;
import fmmap.journal;
import fmmap.lock;
import fmmap.os;
import :heap_books;
import :heap_format;
import :heap_image;
import :heap_inspection;
import :heap_objects;
import :heap_store;

namespace fmmap {

namespace {

constexpr std::uint64_t most_cells = 4096;
constexpr std::uint64_t most_told = 16; // damaged slabs, one by one

// How many pages are told of together, so that there are not more cells than that: a power of two.
auto pages_in_cell(std::uint64_t pages) -> std::uint64_t {
  return std::bit_ceil((pages + most_cells - 1) / most_cells);
}

// Counts what the books say, page by page.
class usage_count {
public:
  usage_count(heap_books const& books, std::vector<std::string>& problems) : books_{books}, problems_{problems} {
    auto const pages = books.page_count();
    usage_.content_bytes = pages * alloc::page_bytes;
    usage_.pages_in_cell = pages_in_cell(pages);
    usage_.cells.resize((pages + usage_.pages_in_cell - 1) / usage_.pages_in_cell);
    for (auto const size : alloc::class_sizes) {
      usage_.classes.push_back({.block_bytes = size});
    }
  }

  [[nodiscard]] auto run(inspection_progress const& progress) && -> heap_usage {
    auto const pages = books_.page_count();
    constexpr std::uint64_t step = std::uint64_t{1} << 14;
    for (std::uint64_t page = 0, told = 0; page < pages;) {
      if (progress && page >= told) {
        progress(page, pages);
        told = page + step;
      }
      page += count_from(page);
    }
    if (progress) {
      progress(pages, pages);
    }
    if (damaged_ > most_told) {
      problems_.push_back("the books are wrong in " + std::to_string(damaged_ - most_told) + " more places");
    }
    std::erase_if(usage_.classes, [](size_class_usage const& one) { return one.slabs == 0; });
    return std::move(usage_);
  }

private:
  // Returns how many pages that were.
  auto count_from(std::uint64_t page) -> std::uint64_t {
    auto const kind = books_.kind_of(page);
    if (kind == alloc::chunk_state::free) {
      ++usage_.free_pages;
      ++cell_of(page).free_pages;
      return 1;
    }
    if (kind == alloc::chunk_state::run) {
      ++usage_.run_pages;
      ++cell_of(page).run_pages;
      return 1;
    }
    auto const slab = books_.slab_at(page);
    return slab ? count(*slab) : count_damaged(page);
  }

  auto count(heap_books::slab const& slab) -> std::uint64_t {
    auto& of_class = usage_.classes[slab.size_class];
    auto const used = slab.blocks - slab.free_blocks;
    ++of_class.slabs;
    of_class.pages += slab.pages;
    of_class.used_blocks += used;
    of_class.free_blocks += slab.free_blocks;
    usage_.slab_pages += slab.pages;
    for (auto page = slab.first; page < slab.first + slab.pages; ++page) {
      auto& cell = cell_of(page);
      ++cell.slab_pages;
      cell.used_block_bytes += used * of_class.block_bytes / slab.pages;
    }
    return slab.pages;
  }

  // What can be no slab, with all that says that it is of one.
  auto count_damaged(std::uint64_t first) -> std::uint64_t {
    auto page = first;
    do {
      ++usage_.damaged_pages;
      ++cell_of(page).damaged_pages;
      ++page;
    } while (page < books_.page_count() && books_.kind_of(page) == alloc::chunk_state::slab_inside);
    if (++damaged_ <= most_told) {
      problems_.push_back("the books of chunk " + std::to_string(first / alloc::chunk_pages) +
                          " can be none: no slab can be as they say of page " + std::to_string(first));
    }
    return page - first;
  }

  auto cell_of(std::uint64_t page) -> usage_cell& { return usage_.cells[page / usage_.pages_in_cell]; }

  heap_books const& books_;
  std::vector<std::string>& problems_;
  heap_usage usage_;
  std::uint64_t damaged_ = 0;
};

class inspector {
public:
  inspector(file const& backing, inspection_progress const& progress) : file_{backing}, progress_{progress} {}

  [[nodiscard]] auto run() -> result<heap_inspection> {
    if (auto done = read_slots(); !done) {
      return std::unexpected(std::move(done).error());
    }
    if (std::ranges::none_of(found_.slots, [](header_slot const& one) { return one.flaw.empty(); })) {
      problem("neither slot of the header is valid: of the first, " + found_.slots[0].flaw + "; of the second, " +
              found_.slots[1].flaw);
      return std::move(found_);
    }
    // More records than makes sense to read are not read.
    auto const most = os::physical_memory() / 4;
    auto const log = journal::log::examine(
        {.cached = file_.native_handle(), .direct = file_.native_handle(), .path = std::string{file_.path()}}, most);
    if (!log && log.error() == std::errc::message_size) {
      problem("the journal has records of more than " + std::to_string(most) + " bytes, which were not read");
      return std::move(found_);
    }
    if (!log) {
      return std::unexpected(log.error());
    }
    if (auto done = read(*log); !done) {
      return std::unexpected(std::move(done).error());
    }
    return std::move(found_);
  }

private:
  void problem(std::string text) { found_.problems.push_back(std::move(text)); }

  [[nodiscard]] auto read_slots() -> result<void> {
    auto const about = file_.metadata();
    if (!about) {
      return std::unexpected(about.error());
    }
    found_.file_bytes = about->size;
    found_.allocated_bytes = about->allocated_bytes;
    std::array<journal::slot, journal::slot_count> slots;
    if (auto const got = file_.read_at(0, std::as_writable_bytes(std::span{slots})); !got) {
      return std::unexpected(got.error());
    }
    if (std::ranges::none_of(slots,
                             [](journal::slot const& one) { return one.about.magic == journal::header_magic; })) {
      return std::unexpected(error::make(errc::not_a_heap, "inspect", file_.path()));
    }
    std::ranges::transform(slots, found_.slots.begin(), [&](journal::slot const& one) {
      return header_slot{.flaw = std::string{journal::flaw_of(one, about->size)},
                         .generation = one.about.generation,
                         .sequence = one.about.sequence,
                         .tail = one.about.tail,
                         .salt = one.about.salt,
                         .is_closed = one.about.closed != 0};
    });
    return {};
  }

  [[nodiscard]] auto read(journal::log const& log) -> result<void> {
    if (auto done = describe_journal(log); !done) {
      return done;
    }
    return describe_heap(log) ? read_content(log) : result<void>{};
  }

  [[nodiscard]] auto describe_journal(journal::log const& log) -> result<void> {
    auto& journal = found_.journal.emplace();
    journal.slot = log.current().about.generation == found_.slots[0].generation && found_.slots[0].flaw.empty() ? 0 : 1;
    journal.offset = journal::ring_begin;
    journal.bytes = log.ring_bytes();
    journal.spill_offset = log.spill_at();
    journal.committed_bytes = log.file_bytes();
    journal.next_sequence = log.sequence();
    log.for_each_record([&](journal::record_view const& record, std::uint64_t at, bool is_spilled) {
      journal.records.push_back(describe(record, at, is_spilled));
    });
    auto const end = look_behind_records(log);
    journal.after_records = end.value_or(journal_end::nothing);
    return end ? result<void>{} : std::unexpected(end.error());
  }

  [[nodiscard]] static auto describe(journal::record_view const& record, std::uint64_t at, bool is_spilled)
      -> journal_record {
    journal_record made{.sequence = record.about().sequence,
                        .offset = journal::ring_begin + at,
                        .bytes = record.about().length,
                        .is_spilled = is_spilled};
    record.for_each_change([&](std::uint64_t, std::uint64_t lines, std::span<std::byte const>) {
      ++made.pages;
      made.lines += static_cast<std::uint64_t>(std::popcount(lines));
    });
    return made;
  }

  // Where the next record would begin; or, where it does not fit there, at the beginning of the ring.
  [[nodiscard]] auto look_behind_records(journal::log const& log) const -> result<journal_end> {
    auto const at_head = look_at(log, log.head());
    if (!at_head || *at_head == journal_end::incomplete_record || log.head() == 0) {
      return at_head;
    }
    auto const at_beginning = look_at(log, 0);
    return !at_beginning || *at_beginning == journal_end::incomplete_record ? at_beginning : at_head;
  }

  [[nodiscard]] auto look_at(journal::log const& log, std::uint64_t at) const -> result<journal_end> {
    std::array<std::byte, sizeof(journal::record_header)> bytes{};
    if (auto const got = file_.read_at(journal::ring_begin + at, bytes); !got) {
      return std::unexpected(got.error());
    }
    auto const about = journal::value_at<journal::record_header>(bytes);
    if (about.magic != journal::record_magic && about.magic != journal::reference_magic) {
      return journal_end::nothing;
    }
    auto const is_next = about.salt == log.current().about.salt && about.sequence == log.sequence();
    return is_next ? journal_end::incomplete_record : journal_end::older_record;
  }

  // Tells what the owner's part of the header says. Returns whether the content can be what this program knows.
  [[nodiscard]] auto describe_heap(journal::log const& log) -> bool {
    heap_format::heap_header header{};
    std::memcpy(&header, log.of_owner().data(), sizeof header);
    if (header.magic != heap_format::magic) {
      problem("it has a journal, and something else than a heap behind it");
      return false;
    }
    auto& heap = found_.heap.emplace();
    heap.version = header.version;
    heap.identity = header.identity;
    heap.slot = header.slot;
    heap.base = header.slot + heap_format::overlay_bytes;
    heap.reserve = header.reserve;
    if (header.version != heap_format::version) {
      problem("its format is " + std::to_string(header.version) + ", and this fmmap knows " +
              std::to_string(heap_format::version));
      return false;
    }
    compare_traits(header, heap);
    base_ = heap.base;
    where_ = heap_format::layout{log.content_begin()};
    check_geometry(log, header);
    return true;
  }

  void compare_traits(heap_format::heap_header const& header, heap_description& heap) {
    auto const& own = heap_format::traits();
    for (std::size_t i = 0; i < own.size(); ++i) {
      if (header.traits[i] != own[i].value) {
        heap.differences.push_back(heap_format::describe_difference(own[i], header.traits[i]));
      }
    }
    std::ranges::transform(heap.differences, std::back_inserter(found_.problems), [](std::string const& difference) {
      return "it was made by a program of another kind: " + difference;
    });
  }

  void check_geometry(journal::log const& log, heap_format::heap_header const& header) {
    if (!heap_format::has_possible_addresses(header)) {
      problem("its addresses can be none");
    }
    if (!heap_format::is_possible_end(header, where_, log.file_bytes())) {
      problem("its length can be none");
    }
    if (found_.file_bytes < log.file_bytes()) {
      problem("it has been cut off at " + std::to_string(found_.file_bytes) + " of " +
              std::to_string(log.file_bytes()) + " bytes");
    }
  }

  // As much of it as is there.
  [[nodiscard]] auto read_content(journal::log const& log) -> result<void> {
    auto const there = where_.content_bytes(std::min(found_.file_bytes, log.file_bytes()));
    auto const content = os::round_down(there, alloc::page_bytes);
    if (content == 0) { // which has been said already
      return {};
    }
    auto const image = heap_image::make(file_, log, where_, content);
    if (!image) {
      return std::unexpected(image.error());
    }
    heap_books const books{image->books(), where_, content};
    found_.usage = usage_count{books, found_.problems}.run(progress_);
    read_objects(*image, books);
    return {};
  }

  void read_objects(heap_image const& image, heap_books const& books) {
    object_table table{image.content().data()};
    auto wrong = table.load(object_table::allocations_of(books), image.content().size());
    if (wrong) {
      problem(std::move(*wrong));
    }
    for (auto const& [name, one] : table.entries()) {
      found_.objects.push_back({.name = name,
                                .type = one.type_text,
                                .bytes = one.size,
                                .offset = one.object,
                                .address = base_ + one.object});
    }
  }

  file const& file_;
  inspection_progress const& progress_;
  heap_inspection found_;
  std::uint64_t base_ = 0;
  heap_format::layout where_;
};

} // namespace

auto to_string(journal_end end) noexcept -> std::string_view {
  switch (end) {
  case journal_end::nothing:
    return "nothing";
  case journal_end::older_record:
    return "older_record";
  case journal_end::incomplete_record:
    break;
  }
  return "incomplete_record";
}

auto inspect_heap(std::filesystem::path const& path, inspection_progress const& progress)
    -> result<heap_inspection> try {
  auto const backing = file::open(path);
  if (!backing) {
    return std::unexpected(backing.error());
  }
  auto const lock = lock_heap(*backing, lock_mode::shared);
  if (!lock) {
    return std::unexpected(lock.error());
  }
  return inspector{*backing, progress}.run();
} catch (std::bad_alloc const&) {
  return std::unexpected(error::make(std::make_error_code(std::errc::not_enough_memory), "inspect", path.native()));
}

} // namespace fmmap
