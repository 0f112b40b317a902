// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <expected>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <map>
#include <memory_resource>
#include <new>
#include <optional>
#include <ostream>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/scratch.hpp"

#include "support/heap_image.hpp"

import fmmap.core;
import fmmap.journal;
import fmmap.pmr;

// Files that are no whole heaps, by accident or by intent, and heaps that are used in unusual ways.

namespace journal = fmmap::journal;

using fmmap::errc;
using fmmap::or_throw;
using fmmap::persistent_heap;

namespace {

using numbers = std::pmr::vector<std::uint64_t>;

// What becomes of opening a file: how it is refused, or that it is sound.
enum class outcome : unsigned {
  sound = 1,
  not_a_heap = 2,
  incompatible = 4,
  damaged = 8,
  address_in_use = 16,
  other = 32
};

auto operator|(outcome one, outcome other) -> outcome {
  return outcome{static_cast<unsigned>(one) | static_cast<unsigned>(other)};
}
auto is_within(outcome some, outcome all) -> bool {
  return (static_cast<unsigned>(some) & ~static_cast<unsigned>(all)) == 0;
}
auto operator<<(std::ostream& to, outcome one) -> std::ostream& {
  return to << "outcome " << static_cast<unsigned>(one);
}

auto outcome_of(fmmap::result<persistent_heap> const& opened) -> outcome {
  if (opened) {
    return or_throw(opened->check()).problems.empty() ? outcome::sound : outcome::other;
  }
  for (auto const& [code, meaning] :
       {std::pair{errc::not_a_heap, outcome::not_a_heap}, std::pair{errc::incompatible, outcome::incompatible},
        std::pair{errc::damaged, outcome::damaged}, std::pair{errc::address_in_use, outcome::address_in_use}}) {
    if (opened.error() == code) {
      return meaning;
    }
  }
  return outcome::other;
}

// Opens the file for reading and for writing, and says what becomes of both. Nothing is written to it by a reader, nor where
// it is refused for its header.
auto outcome_of(heap_image const& file) -> outcome {
  auto const size = file.size();
  auto const before = file.contents();
  auto const read = outcome_of(persistent_heap::open_read_only(file.path()));
  BOOST_TEST((file.size() == size && file.contents() == before));
  auto const opened = outcome_of(persistent_heap::open(file.path()));
  if (is_within(opened, outcome::not_a_heap | outcome::incompatible)) {
    BOOST_TEST((file.size() == size && file.contents() == before));
  }
  return read | opened;
}

// How many commits of its journal a heap has, each of them whole.
auto commits_of(heap_image const& file) -> std::uint64_t {
  auto const heap = or_throw(persistent_heap::open(file.path()));
  auto const number = *or_throw(heap.find<std::uint64_t>("number"));
  BOOST_TEST(or_throw(heap.find<numbers>("numbers"))->size() == 199 + number);
  BOOST_TEST(or_throw(heap.find<heap_image::texts>("texts"))->size() == number - 1);
  return number - 1;
}

auto slots() -> std::array<std::uint64_t, 2> { return {0, heap_image::page_bytes}; }

auto generation_at(heap_image const& file, std::uint64_t slot) -> std::uint64_t {
  return file.value<std::uint64_t>(slot + offsetof(journal::header, generation));
}

auto newer_slot(heap_image const& file) -> std::uint64_t {
  return generation_at(file, 0) > generation_at(file, heap_image::page_bytes) ? 0 : heap_image::page_bytes;
}

// What a field may be instead.
auto other_values(std::uint64_t now) -> std::set<std::uint64_t> {
  std::set<std::uint64_t> values{0,
                                 1,
                                 now + 1,
                                 now - 1,
                                 now * 2,
                                 now / 2,
                                 now + heap_image::page_bytes,
                                 now - heap_image::page_bytes,
                                 now + (std::uint64_t{2} << 20U),
                                 now ^ (std::uint64_t{1} << 63U),
                                 now ^ (std::uint64_t{1} << 40U),
                                 ~now,
                                 std::byteswap(now),
                                 UINT64_MAX};
  values.erase(now);
  return values;
}

// Makes a field another number in both slots; in the first one `value`.
void change(heap_image& file, std::uint64_t at, std::uint64_t value) {
  auto const bits = file.value<std::uint64_t>(at) ^ value;
  for (auto const slot : slots()) {
    file.put(slot + at, file.value<std::uint64_t>(slot + at) ^ bits);
  }
}

struct field {
  std::string_view name;
  std::uint64_t at; // in a slot
  outcome with_checksum;
};

// What becomes of a file where a field is another number in both slots, with a right checksum.
auto fields() -> std::vector<field> {
  using enum outcome;
  std::vector<field> all{{"magic", 0, not_a_heap},
                         {"generation", 16, sound},
                         {"salt", 24, sound},     // no record is of that one
                         {"sequence", 32, sound}, // likewise
                         {"tail", 40, sound | not_a_heap},
                         {"ring_bytes", 48, sound | not_a_heap | damaged},
                         {"file_bytes", 56, sound | not_a_heap | damaged}, // records have it too
                         {"spill_at", 64, not_a_heap | damaged},
                         {"closed", 72, sound},
                         {"the heap's magic", 80, not_a_heap},
                         {"version", 88, incompatible},
                         {"identity", 96, sound},
                         {"the rest of the identity", 104, sound},
                         {"slot", 112, sound | damaged | address_in_use | other}, // its objects are not looked at
                         {"reserve", 120, damaged}};
  for (std::uint64_t trait = 0; trait < 23; ++trait) {
    all.push_back({"a trait", 128 + (trait * 8), incompatible});
  }
  all.push_back({"what no field is", 128 + (23 * 8), sound});
  return all;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_header_that_is_not_as_it_was_written)

BOOST_AUTO_TEST_CASE(is_refused_without_a_right_checksum_whatever_field_has_changed) {
  heap_image file{true};
  auto all = fields();
  all.push_back({"checksum", 8, outcome::not_a_heap});
  for (auto const& one : all) {
    for (auto const value : other_values(file.value<std::uint64_t>(one.at))) {
      file.restore();
      change(file, one.at, value);
      BOOST_TEST(outcome_of(file) == outcome::not_a_heap, one.name << " is " << value);
    }
  }
}

BOOST_AUTO_TEST_CASE(is_told_by_name_or_does_no_harm_with_a_right_checksum) {
  heap_image file{true};
  for (auto const& one : fields()) {
    for (auto const value : other_values(file.value<std::uint64_t>(one.at))) {
      file.restore();
      change(file, one.at, value);
      file.seal();
      auto const found = outcome_of(file);
      BOOST_TEST(is_within(found, one.with_checksum), one.name << " is " << value << ", " << found);
    }
  }
}

BOOST_AUTO_TEST_CASE(leaves_the_other_slot_to_count) {
  heap_image file{true};
  for (auto const slot : slots()) {
    auto const is_newer = slot == newer_slot(file);
    for (std::uint64_t at = 0; at < 312; at += 8) {
      file.restore();
      file.put(slot + at, ~file.value<std::uint64_t>(slot + at));
      BOOST_TEST(outcome_of(file) == outcome::sound, "damage at " << slot + at);
      file.restore();
      file.put(slot + at, ~file.value<std::uint64_t>(slot + at));
      BOOST_TEST(commits_of(file) == (is_newer ? 0U : 3U)); // records are of the newer one
    }
  }
}

BOOST_AUTO_TEST_CASE(may_have_the_same_generation_in_both_slots) {
  heap_image file{true};
  for (auto const generation : {std::uint64_t{0}, std::uint64_t{7}, UINT64_MAX}) {
    file.restore();
    for (auto const slot : slots()) {
      file.put(slot + offsetof(journal::header, generation), generation);
    }
    file.seal();
    BOOST_TEST(outcome_of(file) == outcome::sound);
    auto const commits = commits_of(file);
    BOOST_TEST((commits == 0 || commits == 3));
  }
}

// A checkpoint of the generation after 2^64 - 1 would not have counted, and commits after it would have been lost.
BOOST_AUTO_TEST_CASE(goes_on_where_generations_and_sequences_begin_again_at_zero) {
  heap_image file{false};
  auto const newer = newer_slot(file);
  auto const parity = newer / heap_image::page_bytes; // of its generations
  for (auto const before_the_end : {std::uint64_t{0}, std::uint64_t{2}, std::uint64_t{4}}) {
    file.restore();
    auto const last = UINT64_MAX - before_the_end - (1 - parity);
    file.put(newer + offsetof(journal::header, generation), last);
    file.put(heap_image::page_bytes - newer + offsetof(journal::header, generation), last - 1);
    file.put(newer + offsetof(journal::header, sequence), UINT64_MAX - before_the_end);
    file.seal();
    for (std::uint64_t round = 0; round < 8; ++round) {
      auto heap = or_throw(persistent_heap::open(file.path()));
      auto& number = *or_throw(heap.find<std::uint64_t>("number"));
      BOOST_TEST(number == 1 + round);
      ++number;
      or_throw(heap.commit());
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_file_of_another_length)

BOOST_AUTO_TEST_CASE(is_refused_and_as_long_as_before_wherever_it_is_cut_off) {
  heap_image file{true};
  auto const whole = file.size();
  std::vector<std::uint64_t> lengths(8193);
  std::ranges::generate(lengths, [next = std::uint64_t{0}]() mutable { return next++; });
  for (auto at = journal::ring_begin; at <= heap_image::journal_bytes; at += heap_image::page_bytes) {
    lengths.insert(lengths.end(), {at - 1, at, at + 1});
  }
  for (auto const at : {heap_image::books_begin, heap_image::books_begin + 576, heap_image::content_begin,
                        heap_image::content_begin + heap_image::page_bytes, whole - heap_image::page_bytes}) {
    lengths.insert(lengths.end(), {at - 1, at, at + 1});
  }
  lengths.push_back(whole - 1);
  for (auto const length : lengths) {
    file.resize(length);
    BOOST_TEST(is_within(outcome_of(file), outcome::not_a_heap | outcome::damaged), "cut off at " << length);
    BOOST_TEST(file.size() == length);
    file.restore();
  }
}

BOOST_AUTO_TEST_CASE(is_the_first_of_two_heaps_that_follow_each_other) {
  heap_image first{true};
  heap_image const second{false};
  auto const whole = first.size();
  first.write(whole, second.contents());
  BOOST_TEST(commits_of(first) == 3U);
  BOOST_TEST(first.size() == whole);
}

BOOST_AUTO_TEST_CASE(may_have_holes_for_its_zeros) {
  heap_image const original{true};
  scratch const folder;
  auto const command = "cp --sparse=always \"" + original.path().string() + "\" \"" + (folder / "copy").string() + '"';
  BOOST_REQUIRE(std::system(command.c_str()) == 0);
  auto heap = or_throw(persistent_heap::open(folder / "copy"));
  auto& some = *or_throw(heap.find<numbers>("numbers"));
  BOOST_TEST(some.size() == 203U);
  some.resize(50'000, 1);
  or_throw(heap.commit());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_copy)

BOOST_AUTO_TEST_CASE(is_refused_while_the_original_is_open_and_says_where_that_is) {
  heap_image const original{true};
  scratch const folder;
  std::filesystem::copy_file(original.path(), folder / "copy");
  auto const heap = or_throw(persistent_heap::open(original.path()));
  auto const refused = persistent_heap::open(folder / "copy");
  BOOST_TEST((refused.error() == errc::address_in_use));
  BOOST_TEST(refused.error().message().contains(original.path().string()), refused.error().message());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_table_of_objects_that_is_none)

namespace {

constexpr auto root = heap_image::content_begin;
constexpr auto first_object = root + 8;
constexpr auto object_count = root + 16;

// Where the parts of a node are.
enum part : std::uint64_t {
  next = 0,
  previous = 8,
  object = 16,
  size = 24,
  alignment = 32,
  name_length = 40,
  type_length = 44
};

using node_list = std::span<std::uint64_t const>;

// The offsets of all nodes in the content, in their order.
auto nodes_of(heap_image const& file) -> std::vector<std::uint64_t> {
  std::vector<std::uint64_t> all;
  for (auto at = file.value<std::uint64_t>(first_object); at != 0;
       at = file.value<std::uint64_t>(heap_image::content_begin + at + next)) {
    all.push_back(at);
  }
  return all;
}

struct edit {
  std::string_view name;
  std::function<void(heap_image& file, node_list nodes)> make;
};

// Of the part of a node, the second one if no other.
auto put(part which, std::uint64_t value, std::size_t node = 1) {
  return [=](heap_image& file, node_list nodes) { file.put(heap_image::content_begin + nodes[node] + which, value); };
}
auto put_length(part which, std::uint32_t value) {
  return [=](heap_image& file, node_list nodes) { file.put(heap_image::content_begin + nodes[1] + which, value); };
}
// The part of the second node, as another one has it.
auto copy(part which, std::size_t from) {
  return [=](heap_image& file, node_list nodes) {
    put(which, file.value<std::uint64_t>(heap_image::content_begin + nodes[from] + which))(file, nodes);
  };
}

// Of pages, as the books have them.
enum page_kind : std::uint8_t { free = 0, run = 1, slab_inside = 2, first_class = 3 };

// The kind of a page of the content, in the books.
auto put_page(std::size_t page, int kind) {
  return
      [=](heap_image& file, node_list) { file.put(heap_image::books_begin + page, static_cast<std::uint8_t>(kind)); };
}

void expect_damage(std::initializer_list<edit> edits) {
  heap_image file{false};
  auto const nodes = nodes_of(file);
  BOOST_REQUIRE(nodes.size() == 5U);
  for (auto const& one : edits) {
    file.restore();
    one.make(file, nodes);
    BOOST_TEST(outcome_of(file) == outcome::damaged, one.name);
  }
}

} // namespace

BOOST_AUTO_TEST_CASE(is_damage_wherever_its_nodes_lead) {
  expect_damage({
      {"the root is none", [](heap_image& file, node_list) { file.put(root, std::uint64_t{1}); }},
      {"no object", [](heap_image& file, node_list) { file.put(first_object, std::uint64_t{0}); }},
      {"an object at the end", [](heap_image& file, node_list) { file.put(first_object, std::uint64_t{1} << 20U); }},
      {"an object where nothing is",
       [](heap_image& file, node_list) { file.put(first_object, std::uint64_t{0xff000}); }},
      {"an object in the root", [](heap_image& file, node_list) { file.put(first_object, std::uint64_t{64}); }},
      {"an object less", [](heap_image& file, node_list) { file.put(object_count, std::uint64_t{4}); }},
      {"an object more", [](heap_image& file, node_list) { file.put(object_count, std::uint64_t{6}); }},
      {"a short list", put(next, 0)},
      {"a list that leads to itself", copy(next, 0)},
      {"a list that leads to its beginning",
       [](heap_image& file, node_list nodes) { put(next, nodes[0])(file, nodes); }},
      {"a list that leaves one out", copy(next, 2)},
      {"a list that leads out", put(next, UINT64_MAX - 7)},
      {"a list that leads to no multiple of eight",
       [](heap_image& file, node_list nodes) { put(next, nodes[2] + 1)(file, nodes); }},
      {"a list that leads into a node",
       [](heap_image& file, node_list nodes) { put(next, nodes[2] + 8)(file, nodes); }},
      {"a way back that leads elsewhere", copy(previous, 3)},
      {"no way back", put(previous, 0)},
  });
}

BOOST_AUTO_TEST_CASE(is_damage_whatever_its_nodes_say_of_objects) {
  expect_damage({
      {"an object in the root", put(object, 0)},
      {"an object that is another one", copy(object, 2)},
      {"an object that is its node", [](heap_image& file, node_list nodes) { put(object, nodes[1])(file, nodes); }},
      {"an object inside of a block",
       [](heap_image& file, node_list nodes) {
         auto const at = heap_image::content_begin + nodes[1] + object;
         file.put(at, file.value<std::uint64_t>(at) + 8);
       }},
      {"an object at the end", put(object, std::uint64_t{1} << 20U)},
      {"an object far away", put(object, UINT64_MAX - 4095)},
      {"an object of another size", put(size, 3000)},
      {"an object of every size", put(size, UINT64_MAX)},
      {"an object aligned to nothing", put(alignment, 0)},
      {"an object aligned to no power of two", put(alignment, 3)},
      {"an object that is not aligned so", put(alignment, std::uint64_t{1} << 63U)},
      {"a name of other length", put_length(name_length, 100)},
      {"a name of all lengths", put_length(name_length, UINT32_MAX)},
      {"a type of all lengths", put_length(type_length, UINT32_MAX)},
      {"a name twice",
       [](heap_image& file, node_list nodes) {
         auto const name = [&](std::size_t node) { return heap_image::content_begin + nodes[node] + 48; };
         file.put(name(0), file.value<std::array<char, 5>>(name(1))); // "large" and "small"
       }},
  });
}

BOOST_AUTO_TEST_CASE(is_damage_whatever_the_books_say_of_pages) {
  expect_damage({
      {"the root's page is free", put_page(0, free)},
      {"the root's page is a slab", put_page(0, first_class + 39)},
      {"a slab without a beginning", put_page(0, slab_inside)},
      {"a slab of a class that is none", put_page(1, first_class + 40)},
      {"a slab of the last number", put_page(1, UINT8_MAX)},
      {"a page of nodes is free", put_page(1, free)},
      {"a page of nodes is a run", put_page(1, run)},
      {"a slab that is too short", put_page(15, first_class + 39)},
      {"a slab that is too long",
       [](heap_image& file, node_list) {
         file.put(heap_image::books_begin + 576, std::uint8_t{first_class});
         for (std::uint64_t page = 1; page < 16; ++page) {
           file.put(heap_image::books_begin + 576 + page, slab_inside);
         }
         file.put(heap_image::books_begin + (2 * 576), slab_inside);
       }},
  });
}

// Eleven characters double it: 214 stand for 6.8 MB, and those here for more than a machine has.
BOOST_AUTO_TEST_CASE(does_not_make_a_name_of_a_type_as_long_as_it_says) {
  std::string bomb = "1xI1a1pIS0_S0_E";
  constexpr std::string_view digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  for (std::size_t i = 2; i < digits.size(); ++i) {
    auto const part = std::string{"S"} + digits[i] + '_';
    bomb += "S1_I" + part + part + 'E';
  }
  bomb += 'E';
  heap_image file{false};
  auto heap = or_throw(persistent_heap::open(file.path()));
  or_throw(heap.construct<int>(std::string(bomb.size(), 'x')));
  or_throw(heap.commit());
  or_throw(heap.snapshot(file.path().string() + ".copy")); // it is in place then
  auto const node = heap_image::content_begin + nodes_of(file).front();
  or_throw(heap.close());
  auto const of_int = file.value<std::uint32_t>(node + type_length);
  file.put(node + name_length, of_int);
  file.put(node + type_length, static_cast<std::uint32_t>(bomb.size()));
  file.write(node + 48 + of_int, std::as_bytes(std::span{bomb}));
  heap = or_throw(persistent_heap::open(file.path()));
  std::string types;
  heap.for_each_object([&](fmmap::object_info const& one) { types += one.type; });
  BOOST_TEST(types.contains(bomb));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(the_resource_of_a_heap)

BOOST_AUTO_TEST_CASE(gives_nothing_at_all_and_any_alignment_and_refuses_sizes_that_overflow) {
  heap_image const file{false};
  auto heap = or_throw(persistent_heap::open(file.path()));
  auto* const from = heap.resource();
  auto* const nothing = from->allocate(0);
  auto* const other = from->allocate(0);
  BOOST_TEST(nothing != nullptr);
  BOOST_TEST(nothing != other);
  from->deallocate(nothing, 0);
  from->deallocate(other, 0);
  for (std::size_t alignment = 1; alignment <= (std::size_t{128} << 10U); alignment *= 2) {
    auto* const block = from->allocate(100, alignment);
    BOOST_TEST(std::bit_cast<std::uintptr_t>(block) % alignment == 0U);
    from->deallocate(block, 100, alignment);
  }
  for (auto const size : {SIZE_MAX, SIZE_MAX - 4095, SIZE_MAX / 2, std::size_t{1} << 47U}) {
    BOOST_CHECK_EXCEPTION((void)from->allocate(size), fmmap::allocation_error,
                          [](auto const& e) { return e.why() == errc::reservation_exceeded; });
  }
  or_throw(heap.commit());
  BOOST_TEST(or_throw(heap.check()).problems.empty());
}

BOOST_AUTO_TEST_CASE(has_everything_again_when_what_exhausted_it_is_freed) {
  heap_image const file{false};
  auto heap = or_throw(persistent_heap::open(file.path()));
  auto const before = or_throw(heap.check()).allocated_bytes;
  for (std::size_t const size : {std::size_t{16}, std::size_t{5000}, std::size_t{40'000}}) {
    std::vector<void*> blocks;
    BOOST_CHECK_EXCEPTION(
        while (true) { blocks.push_back(heap.resource()->allocate(size)); }, fmmap::allocation_error,
        [](auto const& e) { return e.why() == errc::reservation_exceeded; });
    BOOST_TEST(blocks.size() * size > std::size_t{512} << 10U);
    or_throw(heap.commit());
    for (auto* const block : blocks) {
      heap.resource()->deallocate(block, size);
    }
    BOOST_TEST(or_throw(heap.check()).allocated_bytes == before);
  }
  or_throw(heap.commit());
  BOOST_TEST(or_throw(heap.check()).problems.empty());
}

BOOST_AUTO_TEST_CASE(commits_while_containers_allocate_from_it) {
  heap_image const file{false};
  auto heap = or_throw(persistent_heap::open(file.path()));
  auto& all = *or_throw(heap.find<heap_image::texts>("texts"));
  for (int i = 0; i < 2000; ++i) {
    all[i % 300] = std::string(static_cast<std::size_t>(i % 170), 'x');
    or_throw(heap.resource()->flush());
  }
  or_throw(heap.close());
  heap = or_throw(persistent_heap::open(file.path()));
  BOOST_TEST(or_throw(heap.find<heap_image::texts>("texts"))->size() == 300U);
  BOOST_TEST(or_throw(heap.find<heap_image::texts>("texts"))->at(199).size() == 1999U % 170);
}

BOOST_AUTO_TEST_SUITE_END()
