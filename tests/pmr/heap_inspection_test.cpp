// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <memory_resource>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/damage.hpp"
#include "support/scratch.hpp"
#include "support/seed.hpp"

import fmmap.core;
import fmmap.journal;
import fmmap.os;
import fmmap.pmr;

namespace journal = fmmap::journal;
namespace seam = fmmap::os::seam;

using fmmap::errc;
using fmmap::heap_inspection;
using fmmap::inspect_heap;
using fmmap::journal_end;
using fmmap::or_throw;
using fmmap::persistent_heap;

namespace {

using numbers = std::pmr::vector<std::uint64_t>;

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;
constexpr fmmap::heap_options small{.reserve = 64 * mib, .journal_size = 64 * kib};
constexpr std::uint64_t books_begin = 2 * mib; // behind header and journal
constexpr std::uint64_t content_begin = books_begin + (10 * mib);
constexpr std::size_t record_bytes = 576;

template <class Change>
void make(std::filesystem::path const& path, Change change, fmmap::heap_options options = small) {
  auto heap = or_throw(persistent_heap::create(path, options));
  change(heap);
  or_throw(heap.commit());
}

// With its journal empty.
template <class Change>
void make_applied(std::filesystem::path const& path, Change change) {
  make(path, change);
  (void)or_throw(persistent_heap::open(path));
}

void construct_some(persistent_heap& heap) {
  or_throw(heap.construct<numbers>("numbers", numbers(1000, 7)));
  or_throw(heap.construct<std::pmr::string>("text", "which is too long for the object itself, surely"));
  or_throw(heap.construct<int>("one", 1));
}

// Changes both slots of the header, and makes their checksums right again.
void change_slots(std::filesystem::path const& path, std::function<void(journal::slot& one)> const& change) {
  std::array<journal::slot, journal::slot_count> slots;
  auto const bytes = std::as_writable_bytes(std::span{slots});
  auto file = or_throw(fmmap::file::open(path, {.access = fmmap::access::read_write}));
  (void)or_throw(file.read_at(0, bytes));
  for (auto& one : slots) {
    change(one);
    one.about.checksum = journal::checksum_of(one);
  }
  or_throw(file.write_at(0, bytes));
}

auto has_problem(heap_inspection const& found, std::string_view text) -> bool {
  return std::ranges::any_of(found.problems, [&](std::string const& one) { return one.contains(text); });
}

auto names_of(heap_inspection const& found) -> std::vector<std::string> {
  std::vector<std::string> names;
  std::ranges::transform(found.objects, std::back_inserter(names), &fmmap::inspected_object::name);
  return names;
}

} // namespace

BOOST_AUTO_TEST_SUITE(an_inspection_of_a_heap)

BOOST_AUTO_TEST_CASE(tells_what_a_heap_holds) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(found.problems.empty());
  BOOST_TEST(names_of(found) == (std::vector<std::string>{"numbers", "one", "text"}), boost::test_tools::per_element());
  BOOST_TEST(found.objects[0].bytes == sizeof(numbers));
  BOOST_TEST(found.objects[1].type == "int");
  BOOST_TEST(found.journal->records.empty());
  BOOST_TEST(found.journal->bytes == small.journal_size);
  BOOST_TEST(found.heap->reserve == small.reserve);
  BOOST_TEST(found.heap->differences.empty());
  BOOST_TEST(found.file_bytes == found.journal->committed_bytes);

  auto heap = or_throw(persistent_heap::open_read_only(path));
  BOOST_TEST(found.heap->slot == reinterpret_cast<std::uintptr_t>(heap.resource()));
  heap.for_each_object([&](fmmap::object_info const& object) {
    auto const same = std::ranges::find(found.objects, object.name, &fmmap::inspected_object::name);
    BOOST_REQUIRE((same != found.objects.end()));
    BOOST_TEST(same->address == reinterpret_cast<std::uintptr_t>(object.address));
    BOOST_TEST(same->type == object.type);
  });
  auto const& usage = found.usage.value();
  BOOST_TEST((usage.run_pages + usage.slab_pages) * 4096 == heap.stats().used_bytes);
  BOOST_TEST(usage.free_pages * 4096 == heap.stats().free_bytes);
  auto const in_blocks =
      std::transform_reduce(usage.classes.begin(), usage.classes.end(), std::uint64_t{0}, std::plus{},
                            [](fmmap::size_class_usage const& one) { return one.used_blocks * one.block_bytes; });
  BOOST_TEST(in_blocks + (usage.run_pages * 4096) == or_throw(heap.check()).allocated_bytes);
}

BOOST_AUTO_TEST_CASE(counts_each_page_in_one_cell) {
  scratch const folder;
  auto const path = folder / "heap";
  make(path,
       [](persistent_heap& heap) {
         auto* const many = or_throw(heap.construct<std::pmr::vector<std::pmr::string>>("many"));
         for (int i = 0; i < 200; ++i) {
           many->emplace_back(static_cast<std::size_t>(1) << (i % 18), 'x');
         }
         or_throw(heap.construct<numbers>("large", numbers(5 * mib)));
       },
       {.reserve = 256 * mib});
  auto const usage = or_throw(inspect_heap(path)).usage.value();
  BOOST_TEST(usage.cells.size() <= 4096U);
  BOOST_TEST(usage.pages_in_cell == 4U);
  fmmap::usage_cell sum;
  for (auto const& one : usage.cells) {
    sum.free_pages += one.free_pages;
    sum.run_pages += one.run_pages;
    sum.slab_pages += one.slab_pages;
    sum.used_block_bytes += one.used_block_bytes;
  }
  BOOST_TEST(sum.free_pages == usage.free_pages);
  BOOST_TEST(sum.run_pages == usage.run_pages);
  BOOST_TEST(sum.slab_pages == usage.slab_pages);
  BOOST_TEST(sum.used_block_bytes <= usage.slab_pages * 4096);
  BOOST_TEST(usage.free_pages + usage.run_pages + usage.slab_pages == usage.content_bytes / 4096);
}

BOOST_AUTO_TEST_CASE(sees_what_is_in_the_journal_only) {
  scratch const folder;
  auto const path = folder / "heap";
  make(path, [](persistent_heap& heap) {
    construct_some(heap);
    or_throw(heap.commit(fmmap::commit_durability::process));
    or_throw(heap.construct<int>("two", 2));
  });
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(found.problems.empty());
  BOOST_TEST(found.objects.size() == 4U);
  auto const& records = found.journal->records;
  BOOST_REQUIRE(records.size() == 3U);
  BOOST_TEST(records[2].sequence == records[0].sequence + 2);
  BOOST_TEST(records[2].lines > 0U);
  BOOST_TEST(records[2].offset > records[1].offset);
  BOOST_TEST(!records[2].is_spilled);
  BOOST_TEST(found.journal->next_sequence == records[2].sequence + 1);
}

BOOST_AUTO_TEST_CASE(writes_nothing) {
  scratch const folder;
  auto const path = folder / "heap";
  make(path, construct_some);
  auto const before = read_back(path);
  auto const changed = std::filesystem::last_write_time(path);
  (void)or_throw(inspect_heap(path));
  BOOST_TEST((read_back(path) == before));
  BOOST_TEST((std::filesystem::last_write_time(path) == changed));
}

BOOST_AUTO_TEST_CASE(goes_beside_readers_and_not_beside_a_writer) {
  scratch const folder;
  auto const path = folder / "heap";
  make(path, construct_some);
  {
    auto const reader = or_throw(persistent_heap::open_read_only(path));
    BOOST_TEST(or_throw(inspect_heap(path)).objects.size() == 3U);
  }
  auto const writer = or_throw(persistent_heap::open(path));
  BOOST_TEST((inspect_heap(path).error() == errc::in_use));
}

BOOST_AUTO_TEST_CASE(tells_how_far_it_is) {
  scratch const folder;
  auto const path = folder / "heap";
  make(path, construct_some);
  std::uint64_t last = 0;
  std::uint64_t all = 0;
  (void)or_throw(inspect_heap(path, [&](std::uint64_t done, std::uint64_t total) {
    last = done;
    all = total;
  }));
  BOOST_TEST(all == 256U);
  BOOST_TEST(last == all);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(an_inspection_after_a_crash)

BOOST_AUTO_TEST_CASE(tells_a_commit_that_was_cut_short) {
  scratch const folder;
  auto const path = folder / "heap";
  make(path, [](persistent_heap& heap) {
    or_throw(heap.construct<int>("one", 1));
    or_throw(heap.commit());
    or_throw(heap.construct<int>("two", 2));
  });
  auto const whole = or_throw(inspect_heap(path));
  flip(path, whole.journal->records.back().offset + 100);
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(found.problems.empty());
  BOOST_TEST((found.journal->after_records == journal_end::incomplete_record));
  BOOST_TEST(found.journal->records.size() + 1 == whole.journal->records.size());
  BOOST_TEST(names_of(found) == std::vector<std::string>{"one"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(tells_an_older_record_from_the_next) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  BOOST_TEST(
      (or_throw(inspect_heap(path)).journal->after_records == journal_end::nothing)); // it goes on in an empty part
  {
    auto heap = or_throw(persistent_heap::open(path));
    auto* const one = or_throw(heap.find<int>("one"));
    for (int i = 0; i < 20; ++i) { // once round the journal
      *one = i + 100;
      or_throw(heap.commit());
    }
  }
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(found.problems.empty());
  BOOST_TEST((found.journal->after_records == journal_end::older_record));
}

// As a crash leaves it while the record, durable behind the content, is being written in place.
BOOST_AUTO_TEST_CASE(finds_a_record_that_is_longer_than_the_journal) {
  scratch const folder;
  auto const path = folder / "heap";
  make(path, [](persistent_heap& heap) { or_throw(heap.construct<numbers>("numbers", numbers(100'000, 7))); });
  {
    auto heap = or_throw(persistent_heap::open(path));
    std::ranges::fill(*or_throw(heap.find<numbers>("numbers")), 8);
    seam::armed const table;
    seam::fail(fmmap::os::call::fdatasync, EIO, seam::every_time, 1);
    BOOST_TEST((heap.commit().error() == std::errc::io_error));
  }
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(found.problems.empty());
  BOOST_REQUIRE(found.journal->records.size() == 1U);
  BOOST_TEST(found.journal->records[0].is_spilled);
  BOOST_TEST(found.journal->records[0].bytes > small.journal_size);
  BOOST_TEST(found.file_bytes > found.journal->spill_offset);
}

BOOST_AUTO_TEST_CASE(tells_a_slot_of_the_header_that_was_cut_short) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  auto const newest = or_throw(inspect_heap(path)).journal->slot;
  flip(path, (newest * 4096) + 2000);
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(found.problems.empty());
  BOOST_TEST(found.journal->slot == 1 - newest);
  BOOST_TEST(found.slots[newest].flaw == "its bytes are not those that its checksum is of");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(an_inspection_of_a_damaged_heap)

BOOST_AUTO_TEST_CASE(refuses_what_is_no_heap) {
  scratch const folder;
  BOOST_TEST((inspect_heap(folder / "none").error() == std::errc::no_such_file_or_directory));
  BOOST_TEST((inspect_heap(folder.file("empty", "")).error() == errc::not_a_heap));
  BOOST_TEST((inspect_heap(folder.file("text", std::string(100'000, 'x'))).error() == errc::not_a_heap));
}

BOOST_AUTO_TEST_CASE(tells_why_no_slot_is_valid) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  flip(path, 2000);
  flip(path, 4096 + 2000);
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(has_problem(found, "neither slot of the header is valid"));
  BOOST_TEST(!found.journal.has_value());
  BOOST_TEST(found.objects.empty());
}

BOOST_AUTO_TEST_CASE(tells_what_differs_and_the_rest_all_the_same) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  change_slots(path, [](journal::slot& one) {
    constexpr std::size_t first_trait = 48;
    std::uint64_t const other = 65536;
    std::memcpy(&one.of_owner[first_trait + sizeof other], &other, sizeof other);
  });
  auto const found = or_throw(inspect_heap(path));
  BOOST_REQUIRE(found.heap->differences.size() == 1U);
  BOOST_TEST(found.heap->differences[0] == "the size of a page differs: 65536 there, 4096 here");
  BOOST_TEST(has_problem(found, found.heap->differences[0]));
  BOOST_TEST(found.objects.size() == 3U);
}

BOOST_AUTO_TEST_CASE(tells_a_format_that_it_does_not_know) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  change_slots(path, [](journal::slot& one) { one.of_owner[8] = std::byte{9}; });
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(has_problem(found, "its format is 9"));
  BOOST_TEST(!found.usage.has_value());
  change_slots(path, [](journal::slot& one) { one.of_owner[0] = std::byte{9}; });
  BOOST_TEST(has_problem(or_throw(inspect_heap(path)), "something else than a heap"));
}

BOOST_AUTO_TEST_CASE(looks_at_what_is_left_of_a_file_that_was_cut_off) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  auto const whole = std::filesystem::file_size(path);
  for (auto const size : {whole - 1, content_begin + 8192, content_begin + 1, content_begin, books_begin + 1}) {
    std::filesystem::resize_file(path, size);
    auto const found = or_throw(inspect_heap(path));
    BOOST_TEST(has_problem(found, "it has been cut off at " + std::to_string(size)));
    BOOST_TEST(found.usage.has_value() == (size >= content_begin + 4096));
  }
}

BOOST_AUTO_TEST_CASE(names_what_is_wrong_in_the_books) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  write_at(path, books_begin + (3 * record_bytes) + 5, "\x02");         // inside of no slab
  write_at(path, books_begin + (4 * record_bytes) + 1, "\xff\x02\x02"); // of no class
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(found.problems.size() == 2U);
  BOOST_TEST(has_problem(found, "the books of chunk 3 can be none"));
  BOOST_TEST(has_problem(found, "the books of chunk 4 can be none"));
  BOOST_TEST(found.usage->damaged_pages == 4U);
  BOOST_TEST(found.objects.size() == 3U);
}

BOOST_AUTO_TEST_CASE(keeps_to_a_few_sentences_about_the_books) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  for (std::uint64_t chunk = 2; chunk < 16; ++chunk) {
    write_at(path, books_begin + (chunk * record_bytes), std::string(16, '\xff'));
  }
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(found.problems.size() == 17U);
  BOOST_TEST(has_problem(found, "the books are wrong in 208 more places"));
}

// A hundred bytes of a name can spell gigabytes.
BOOST_AUTO_TEST_CASE(does_not_spell_a_type_out_that_refers_back_again_and_again) {
  scratch const folder;
  auto const path = folder / "heap";
  std::string type = "_Z1f1pIiiE";
  for (char const digit : std::string_view{"0123456789ABCDEFGHIJKLMNOPQRSTUV"}) {
    type.append("S_IS").append(1, digit).append("_S").append(1, digit).append("_E");
  }
  make_applied(path, [&](persistent_heap& heap) {
    std::string const name(type.size(), 'n'); // room for it, which the type of an int does not need
    or_throw(heap.construct<int>(name, 1));
  });
  auto const at = read_back(path).find(std::string(type.size(), 'n'),
                                       content_begin); // the name, and the lengths of name and type before it
  BOOST_REQUIRE(at != std::string::npos);
  auto const length = static_cast<std::uint32_t>(type.size());
  std::array<std::uint32_t, 2> const lengths{1, length};
  write_at(path, at - sizeof lengths, {reinterpret_cast<char const*>(lengths.data()), sizeof lengths});
  write_at(path, at + 1, type);
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(found.problems.empty());
  BOOST_TEST(found.objects.at(0).name == "n");
  BOOST_TEST(found.objects.at(0).type == type);
}

BOOST_AUTO_TEST_CASE(finds_objects_that_are_together_more_than_there_is) {
  scratch const folder;
  auto const path = folder / "heap";
  make_applied(path, [](persistent_heap& heap) {
    or_throw(heap.construct<std::array<char, 900 * kib>>("large"));
    or_throw(heap.construct<std::array<char, 100>>("other"));
  });
  auto const text = read_back(path);
  auto const large = std::uint64_t{900 * kib};
  auto const other = std::uint64_t{100};
  auto const at_large = text.find({reinterpret_cast<char const*>(&large), sizeof large}, content_begin);
  auto const at_other = text.find({reinterpret_cast<char const*>(&other), sizeof other}, content_begin);
  BOOST_REQUIRE((at_large != std::string::npos && at_other != std::string::npos));
  write_at(path, at_other - 8, std::string_view{text}.substr(at_large - 8, 16)); // where it lies, and its size
  auto const found = or_throw(inspect_heap(path));
  BOOST_TEST(has_problem(found, "the table of objects has more in it than there is"));
  BOOST_TEST((persistent_heap::open_read_only(path).error() == errc::damaged));
}

// Whatever is changed: there are problems where opening refuses the file, and none where it does not.
BOOST_AUTO_TEST_CASE(agrees_with_opening_about_any_bytes) {
  scratch const folder{memory_folder()};
  auto const path = folder / "heap";
  make_applied(path, construct_some);
  std::mt19937_64 random{seed()};
  auto const pick = [&](std::uint64_t count) {
    return std::uniform_int_distribution<std::uint64_t>{0, count - 1}(random);
  };
  std::size_t refused = 0;
  for (int i = 0; i < 400; ++i) {
    auto const place = pick(3);
    auto const at = place == 0   ? books_begin + pick(16 * record_bytes)
                    : place == 1 ? content_begin + pick(24)
                                 : content_begin + 4096 + pick(12 * 4096);
    auto const before = byte_at(path, at);
    write_at(path, at, std::string(1, static_cast<char>(pick(2) == 0 ? pick(256) : pick(4))));
    auto const found = or_throw(inspect_heap(path));
    auto const opened = persistent_heap::open_read_only(path);
    BOOST_TEST(found.problems.empty() == opened.has_value(),
               "byte " << at << ": " << (opened ? "it is opened" : opened.error().message()) << " and "
                       << (found.problems.empty() ? "nothing" : found.problems.front()));
    refused += opened ? 0U : 1U;
    write_at(path, at, std::string(1, before));
  }
  BOOST_TEST(refused > 20U);
  BOOST_TEST(or_throw(inspect_heap(path)).problems.empty());
}

// Numbers of the header that are whole and cannot be.
BOOST_AUTO_TEST_CASE(survives_any_numbers_in_the_header) {
  scratch const folder{memory_folder()};
  auto const path = folder / "heap";
  make(path, construct_some);
  auto const original = read_back(path);
  std::mt19937_64 random{seed()};
  std::array<std::uint64_t, 8> const extremes{
      0, 1, 4095, 4096, 1 << 21, std::uint64_t{1} << 40, std::uint64_t{1} << 62, ~std::uint64_t{0}};
  for (int i = 0; i < 300; ++i) {
    auto const word = 2 + (random() % 16);
    auto const value = extremes[random() % extremes.size()] + (random() % 3) - 1;
    change_slots(path,
                 [&](journal::slot& one) { std::memcpy(reinterpret_cast<std::byte*>(&one) + (word * 8), &value, 8); });
    (void)inspect_heap(path);
    write_at(path, 0, std::string_view{original}.substr(0, 8192));
  }
  BOOST_TEST(or_throw(inspect_heap(path)).problems.empty());
}

BOOST_AUTO_TEST_SUITE_END()
