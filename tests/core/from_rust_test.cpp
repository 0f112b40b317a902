// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <limits>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/outcome.hpp"
#include "support/scratch.hpp"

import fmmap.core;

// What somebody who comes from Rust's fmmap or memmap2 does first, in the order of docs/from-rust.md: what the page puts
// beside a Rust function does what the page says.

using fmmap::access;
using fmmap::advice;
using fmmap::byte_range;
using fmmap::durability;
using fmmap::errc;
using fmmap::file;
using fmmap::mapped_file;
using fmmap::mapping;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;

namespace {

constexpr std::size_t page = 4096;

// The bytes of a number as Rust's to_be_bytes gives them, made without the library.
template <class T>
auto most_significant_first(T value) -> std::array<std::byte, sizeof(T)> {
  auto bytes = std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
  if constexpr (std::endian::native == std::endian::little) {
    std::ranges::reverse(bytes);
  }
  return bytes;
}

template <class T>
auto reversed(std::array<std::byte, sizeof(T)> bytes) -> std::array<std::byte, sizeof(T)> {
  std::ranges::reverse(bytes);
  return bytes;
}

// Every way to write and read one number, at an offset aligned to nothing.
template <class T>
void goes_through(mutable_mapped_file& f, T value) {
  constexpr std::uint64_t at = 3;
  auto const here = [&] { return or_throw(f.bytes(at, sizeof(T))); };
  auto const big = most_significant_first(value);
  auto const little = reversed<T>(big);

  or_throw(f.write_be<T>(at, value));
  BOOST_TEST(std::ranges::equal(here(), big));
  BOOST_TEST((or_throw(f.read_be<T>(at)) == value));
  or_throw(f.write_le<T>(at, value));
  BOOST_TEST(std::ranges::equal(here(), little));
  BOOST_TEST((or_throw(f.read_le<T>(at)) == value));
  or_throw(f.write<T>(at, value));
  BOOST_TEST((or_throw(f.read<T>(at)) == value));

  auto writer = or_throw(f.writer({.offset = at}));
  or_throw(writer.write_be<T>(value));
  or_throw(writer.write_le<T>(value));
  or_throw(writer.write<T>(value));
  BOOST_TEST(std::ranges::equal(here(), big));
  auto reader = or_throw(f.reader({.offset = at}));
  BOOST_TEST((or_throw(reader.read_be<T>()) == value));
  BOOST_TEST((or_throw(reader.read_le<T>()) == value));
  BOOST_TEST((or_throw(reader.read<T>()) == value));
  BOOST_TEST(reader.position() == 3 * sizeof(T));

  auto const end = f.size() - sizeof(T) + 1;
  BOOST_TEST(fails(f.read_be<T>(end), errc::out_of_range));
  BOOST_TEST(fails(f.read_le<T>(end), errc::out_of_range));
  BOOST_TEST(fails(f.write_be<T>(end, value), errc::out_of_range));
  BOOST_TEST(fails(f.write_le<T>(end, value), errc::out_of_range));
}

} // namespace

BOOST_AUTO_TEST_SUITE(who_comes_from_rust)

BOOST_AUTO_TEST_CASE(opens_files_by_the_function_that_is_beside_each_of_theirs) {
  scratch const s;
  auto const path = s / "data";
  BOOST_TEST(fails(mapped_file::open(path), std::errc::no_such_file_or_directory));
  BOOST_TEST(fails(mutable_mapped_file::open_existing(path), std::errc::no_such_file_or_directory));
  BOOST_TEST(or_throw(mutable_mapped_file::create(path, {.size = 10})).size() == 10U);
  BOOST_TEST(fails(mutable_mapped_file::create(path), std::errc::file_exists));
  BOOST_TEST(or_throw(mutable_mapped_file::open(path, {.size = 20})).size() == 10U); // as max_size: only what is empty
  BOOST_TEST(or_throw(mutable_mapped_file::open_existing(path)).size() == 10U);
  BOOST_TEST(or_throw(mutable_mapped_file::open(s / "new", {.size = 20})).size() == 20U);
  BOOST_TEST(or_throw(mapped_file::open_executable(path)).is_executable());

  auto copy = or_throw(mutable_mapped_file::open_copy_on_write(path));
  copy.writable_bytes()[0] = std::byte{1};
  BOOST_TEST((copy.as_mapping().access() == access::copy_on_write));
  BOOST_TEST(fails(copy.flush(), errc::copy_on_write));
  BOOST_TEST(fails(copy.resize(5), errc::copy_on_write));
  BOOST_TEST(read_back(path) == std::string(10, '\0'));

  auto again = or_throw(mutable_mapped_file::open(path));
  or_throw(again.resize(0)); // what Options::truncate does
  BOOST_TEST(std::filesystem::file_size(path) == 0U);
}

BOOST_AUTO_TEST_CASE(has_files_in_memory_that_do_what_files_do) {
  auto memory = or_throw(mutable_mapped_file::in_memory("label", 0, {.reserve = 1U << 20}));
  or_throw(memory.append(bytes_of("from a slice")));
  or_throw(memory.resize(20));
  BOOST_TEST(memory.text() == std::string_view("from a slice\0\0\0\0\0\0\0\0", 20));
  BOOST_TEST(fails(memory.flush(), errc::not_durable));
  auto const frozen = or_throw(std::move(memory).freeze());
  BOOST_TEST(frozen.text().starts_with("from a slice"));
  BOOST_TEST(or_throw(frozen.to_vector()).size() == 20U);

  scratch const s;
  auto unnamed = or_throw(mutable_mapped_file::temporary(s.folder(), {.size = 5}));
  or_throw(unnamed.write_exactly(0, bytes_of("abcde")));
  BOOST_TEST(unnamed.text() == "abcde");
  BOOST_TEST(std::filesystem::is_empty(s.folder()));
}

BOOST_AUTO_TEST_CASE(takes_over_a_file_that_is_open) {
  scratch const s;
  auto const path = s.file("data", "abc");
  auto const descriptor = or_throw(or_throw(file::open(path)).release());
  auto const reading = or_throw(mapped_file::adopt(or_throw(file::adopt(descriptor, path.native()))));
  BOOST_TEST(reading.text() == "abc");
  auto writing = or_throw(mutable_mapped_file::adopt(or_throw(file::open(path, {.access = access::read_write}))));
  or_throw(writing.append(bytes_of("d")));
  BOOST_TEST(read_back(path) == "abcd");
}

BOOST_AUTO_TEST_CASE(reads_with_a_length_that_may_be_short_or_may_not) {
  scratch const s;
  auto const content = pattern(100);
  auto const f = or_throw(mapped_file::open(s.file("data", content)));
  BOOST_TEST(f.size() == 100U);
  BOOST_TEST(!f.empty());
  BOOST_TEST(text_of(f.bytes()) == content);
  BOOST_TEST(text_of(or_throw(f.bytes(10, 5))) == content.substr(10, 5));
  BOOST_TEST(f.text() == content);
  BOOST_TEST(f.path() == (s / "data").native());
  BOOST_TEST(or_throw(f.metadata()).size == 100U);
  BOOST_TEST(!f.is_executable());

  std::vector<std::byte> out(30);
  BOOST_TEST(f.read_at(90, out) == 10U);
  BOOST_TEST(f.read_at(100, out) == 0U);
  BOOST_TEST(f.read_at(1000, out) == 0U);
  or_throw(f.read_exactly(70, out));
  BOOST_TEST(text_of(out) == content.substr(70));
  BOOST_TEST(fails(f.read_exactly(71, out), errc::out_of_range));
  BOOST_TEST(text_of(or_throw(f.to_vector())) == content);
  BOOST_TEST(text_of(or_throw(f.to_vector({.offset = 3, .length = 4}))) == content.substr(3, 4));

  or_throw(f.copy_to(s / "all"));
  or_throw(f.copy_to(s / "part", {.offset = 3, .length = 4}, {.level = durability::data}));
  BOOST_TEST(read_back(s / "all") == content);
  BOOST_TEST(read_back(s / "part") == content.substr(3, 4));
  BOOST_TEST(fails(f.copy_to(s / "all"), std::errc::file_exists));
}

BOOST_AUTO_TEST_CASE(reads_and_writes_numbers_of_every_type_in_both_byte_orders) {
  auto f = or_throw(mutable_mapped_file::in_memory("numbers", 100));
  goes_through<std::int8_t>(f, -100);
  goes_through<std::uint8_t>(f, 200);
  goes_through<std::int16_t>(f, -12345);
  goes_through<std::uint16_t>(f, 54321);
  goes_through<std::int32_t>(f, -1234567890);
  goes_through<std::uint32_t>(f, 0xdeadbeef);
  goes_through<std::int64_t>(f, std::numeric_limits<std::int64_t>::min() + 1);
  goes_through<std::uint64_t>(f, 0x0123'4567'89ab'cdef);
  goes_through<std::ptrdiff_t>(f, -5);
  goes_through<std::size_t>(f, std::numeric_limits<std::size_t>::max() - 1);
  goes_through<__int128>(f, -(static_cast<__int128>(1) << 100) + 7);
  goes_through<unsigned __int128>(f, (static_cast<unsigned __int128>(0x0123'4567'89ab'cdef) << 64) + 42);
  goes_through<float>(f, -1.5e10F);
  goes_through<double>(f, 3.25e-200);
}

BOOST_AUTO_TEST_CASE(writes_over_bytes_and_makes_a_file_longer_only_by_name) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "data", {.size = 10}));
  BOOST_TEST(f.write_at(7, bytes_of("abcdef")) == 3U);
  BOOST_TEST(f.write_at(10, bytes_of("abcdef")) == 0U);
  BOOST_TEST(fails(f.write_exactly(7, bytes_of("abcdef")), errc::out_of_range));
  or_throw(f.write_exactly(0, bytes_of("0123456")));
  BOOST_TEST(f.text() == "0123456abc");
  or_throw(f.writable_bytes(1, 2)).front() = std::byte{'x'};
  BOOST_TEST(fails(f.writable_bytes(9, 2), errc::out_of_range));
  or_throw(f.zero({.offset = 3, .length = 2}));
  or_throw(f.fill({.offset = 8}, std::byte{'-'}));
  BOOST_TEST(f.text() == std::string_view("0x2\0\0"
                                          "56a--",
                                          10));
  BOOST_TEST(f.size() == 10U);

  BOOST_TEST(or_throw(f.append(bytes_of("more"))) == 10U);
  or_throw(f.resize(12));
  BOOST_TEST((or_throw(f.flush()) == durability::data));
  BOOST_TEST((or_throw(f.flush({.offset = 1, .length = 3})) == durability::data));
  BOOST_TEST((or_throw(f.flush(fmmap::whole, durability::started)) >= durability::started));
  BOOST_TEST((or_throw(or_throw(f.stage_flush({.offset = 1, .length = 3})).run()) == durability::data));
  or_throw(f.resize(8, durability::data)); // what close_with_truncate does
  or_throw(f.close());
  BOOST_TEST(read_back(s / "data") == std::string_view("0x2\0\0"
                                                       "56a",
                                                       8));
}

BOOST_AUTO_TEST_CASE(removes_freezes_and_goes_on) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "data", {.size = 3}));
  BOOST_TEST(!f.removes_on_close());
  f.set_remove_on_close(true);
  BOOST_TEST(f.removes_on_close());
  f.set_remove_on_close(false);
  or_throw(f.write_exactly(0, bytes_of("abc")));
  auto frozen = or_throw(std::move(f).freeze());
  BOOST_TEST(frozen.text() == "abc");
  BOOST_TEST(fails(f.append(bytes_of("d")), errc::closed));
  or_throw(frozen.remove());
  BOOST_TEST(!std::filesystem::exists(s / "data"));
  BOOST_TEST(frozen.text() == "abc"); // still mapped
  BOOST_TEST(!frozen.removes_on_close());
  or_throw(frozen.close());

  auto again = or_throw(mutable_mapped_file::create(s / "data", {.size = 3}));
  or_throw(again.remove());
  or_throw(again.close());
  BOOST_TEST(std::filesystem::is_empty(s.folder()));
}

BOOST_AUTO_TEST_CASE(goes_over_a_window_with_a_reader_and_a_writer) {
  scratch const s;
  auto f = or_throw(mutable_mapped_file::create(s / "data", {.size = 100}));
  auto writer = or_throw(f.writer({.offset = 20, .length = 30}));
  or_throw(writer.write_exactly(bytes_of("one\ntwo\nthree")));
  BOOST_TEST(writer.position() == 13U);
  BOOST_TEST(writer.remaining() == 17U);
  BOOST_TEST(writer.rest().size() == 17U);
  BOOST_TEST(writer.write_some(bytes_of(pattern(40))) == 17U);
  BOOST_TEST(writer.at_end());
  BOOST_TEST(writer.write_some(bytes_of("x")) == 0U);
  BOOST_TEST(fails(writer.write_exactly(bytes_of("x")), errc::out_of_range));
  BOOST_TEST((f.bytes()[49] != std::byte{0}));
  BOOST_TEST((f.bytes()[50] == std::byte{0}));

  auto reader = or_throw(f.reader({.offset = 20, .length = 30}));
  BOOST_TEST(reader.size() == 30U);
  BOOST_TEST(text_of(reader.read_until(std::byte{'\n'})) == "one\n");
  std::array<std::byte, 3> word{};
  or_throw(reader.read_exactly(word));
  BOOST_TEST(text_of(word) == "two");
  or_throw(reader.skip(1));
  BOOST_TEST(text_of(or_throw(reader.bytes(5))) == "three");
  BOOST_TEST(reader.position() == 13U);
  BOOST_TEST(reader.remaining() == 17U);
  BOOST_TEST(reader.rest().size() == 17U);
  std::array<std::byte, 40> rest{};
  BOOST_TEST(reader.read_some(rest) == 17U);
  BOOST_TEST(reader.at_end());
  BOOST_TEST(fails(reader.skip(1), errc::out_of_range));
  or_throw(reader.seek(8));
  BOOST_TEST(text_of(or_throw(reader.bytes(5))) == "three");
  or_throw(reader.seek(30));
  BOOST_TEST(fails(reader.seek(31), errc::out_of_range));
  BOOST_TEST(fails(f.reader({.offset = 101}), errc::out_of_range));
}

BOOST_AUTO_TEST_CASE(goes_over_lines_records_and_chunks) {
  scratch const s;
  auto const f = or_throw(mapped_file::open(s.file("data", std::string_view{"\1\0\2\0\3\0x", 7})));
  fmmap::records<std::uint16_t> const numbers{f.bytes()};
  BOOST_TEST(numbers.size() == 3U);
  BOOST_TEST(text_of(numbers.rest()) == "x");
  if constexpr (std::endian::native == std::endian::little) {
    BOOST_TEST(std::ranges::equal(numbers, std::array{1, 2, 3}));
    BOOST_TEST(std::ranges::equal(or_throw(f.view<std::uint16_t>(0, 3)), std::array{1, 2, 3}));
  }
  BOOST_TEST(fails(f.view<std::uint16_t>(), errc::out_of_range)); // the last one is not whole
  BOOST_TEST(fmmap::chunks(f.bytes(), 3).size() == 3U);
  BOOST_TEST(std::ranges::distance(fmmap::lines(std::string_view{"a\nb\n"})) == 2);
}

BOOST_AUTO_TEST_CASE(asks_for_what_the_system_knows_of_a_file) {
  scratch const s;
  auto const f = or_throw(mapped_file::open(s.file("data", pattern(3 * page))));
  auto const about = or_throw(f.metadata());
  BOOST_TEST(about.size == 3 * page);
  BOOST_TEST(about.links == 1U);
  BOOST_TEST(about.block_size > 0U);
  BOOST_TEST((about.type == fmmap::file_type::regular));
  BOOST_TEST((about.modified <= about.status_changed));
  BOOST_TEST((!about.created || *about.created <= about.modified));
  BOOST_TEST((about.identity == f.identity()));
}

BOOST_AUTO_TEST_CASE(opens_and_syncs_plain_files_and_directories) {
  scratch const s;
  auto made = or_throw(file::create_new(s / "data", {.sync_directory = true}));
  or_throw(made.write_at(0, bytes_of("abc")));
  or_throw(made.write_at(or_throw(made.size()), bytes_of("def"))); // instead of a handle that appends
  BOOST_TEST(read_back(s / "data") == "abcdef");
  BOOST_TEST(fails(file::create_new(s / "data"), std::errc::file_exists));
  auto const reading = or_throw(file::open(s / "data"));
  BOOST_TEST((reading.access() == access::read_only));
  auto writing = or_throw(file::open(s / "data", {.access = access::read_write, .create = true}));
  or_throw(writing.resize(0)); // instead of opening it truncated
  BOOST_TEST(or_throw(reading.size()) == 0U);

  auto directory = or_throw(file::open(s.folder(), {.any_type = true}));
  BOOST_TEST((or_throw(directory.sync(durability::all)) == durability::all));
}

BOOST_AUTO_TEST_CASE(finds_what_memmap2_has_in_mappings) {
  scratch const s;
  auto const path = s.file("data", pattern(4 * page));
  auto f = or_throw(file::open(path, {.access = access::read_write}));
  auto const reading = or_throw(mapping::map(f, {.range = {.offset = 5, .length = 100}}));
  BOOST_TEST(reading.size() == 100U);
  BOOST_TEST(reading.file_offset() == 5U);
  auto writing = or_throw(mapping::map(f, {.access = access::read_write, .reserve = 1U << 20, .populate = true}));
  writing.writable_bytes()[5] = std::byte{1};
  BOOST_TEST((reading.bytes().front() == std::byte{1}));
  or_throw(writing.flush());
  or_throw(writing.advise(advice::sequential));
  or_throw(writing.advise(advice::will_need, {.offset = page, .length = page}));
  for (auto const what : {advice::normal, advice::random, advice::dont_fork, advice::do_fork, advice::mergeable,
                          advice::unmergeable, advice::huge_page, advice::no_huge_page, advice::dont_dump,
                          advice::do_dump, advice::populate_read, advice::populate_write, advice::dont_need}) {
    auto const taken = writing.advise(what);
    BOOST_TEST((taken.has_value() || taken.error() == std::errc::invalid_argument), fmmap::to_string(what));
  }
  or_throw(writing.discard({.offset = page, .length = page}));
  BOOST_TEST((writing.bytes()[page] == std::byte{0}));
  BOOST_TEST(or_throw(writing.lock_memory({.offset = 0, .length = page})).bytes().size() == page);
  or_throw(f.resize(6 * page));
  or_throw(writing.resize(6 * page)); // in the reservation, where it lies
  or_throw(writing.reserve(1U << 21));
  BOOST_TEST(writing.capacity() >= 1U << 21);
  or_throw(writing.protect(access::read_only));
  BOOST_TEST(writing.writable_bytes().empty());
  or_throw(writing.protect(access::read_only, true));
  BOOST_TEST(writing.is_executable());
  or_throw(writing.protect(access::read_write));

  auto const kept = or_throw(writing.share({.offset = 5, .length = 1}));
  or_throw(writing.close());
  BOOST_TEST((kept.bytes().front() == std::byte{1}));
  auto anonymous = or_throw(mapping::anonymous(page, {.stack = true, .no_reserve = true}));
  anonymous.writable_bytes()[0] = std::byte{1};
  BOOST_TEST(or_throw(anonymous.residency()).resident_bytes == page);
}

BOOST_AUTO_TEST_SUITE_END()
