// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/outcome.hpp"
#include "support/scratch.hpp"

import fmmap.core;

using fmmap::byte_reader;
using fmmap::byte_writer;
using fmmap::errc;
using fmmap::mapped_file;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;

namespace {

struct record {
  std::uint32_t key;
  std::uint32_t value;
  auto operator==(record const&) const -> bool = default;
};

} // namespace

BOOST_AUTO_TEST_SUITE(a_byte_reader)

BOOST_AUTO_TEST_CASE(reads_values_one_after_the_other) {
  std::string const content{"\x01\x00\x02\x00\x00\x00\x00\x03"
                            "abcdefgh",
                            16};
  byte_reader r{bytes_of(content)};
  BOOST_TEST(r.size() == 16U);
  BOOST_TEST(*r.read_le<std::uint16_t>() == 1U);
  BOOST_TEST(*r.read_le<std::uint32_t>() == 2U);
  BOOST_TEST(*r.read_be<std::uint16_t>() == 3U);
  BOOST_TEST(r.position() == 8U);
  BOOST_TEST(r.remaining() == 8U);
  BOOST_TEST(text_of(r.rest()) == "abcdefgh");
  BOOST_TEST(text_of(or_throw(r.bytes(3))) == "abc");
  BOOST_TEST(*r.read<char>() == 'd');
  or_throw(r.skip(1));
  std::vector<std::byte> two(2);
  or_throw(r.read_exactly(two));
  BOOST_TEST(text_of(two) == "fg");
  std::vector<std::byte> many(10);
  BOOST_TEST(r.read_some(many) == 1U);
  BOOST_TEST(r.at_end());
  BOOST_TEST(r.read_some(many) == 0U);
  or_throw(r.seek(8));
  BOOST_TEST(*r.read<char>() == 'a');
}

BOOST_AUTO_TEST_CASE(stays_where_it_was_when_it_fails) {
  auto const content = pattern(10);
  byte_reader r{bytes_of(content), "name", 1000};
  or_throw(r.seek(7));
  std::vector<std::byte> four(4, std::byte{1});
  auto const failed = r.read_le<std::uint32_t>();
  BOOST_TEST(fails(failed, errc::out_of_range));
  BOOST_TEST(failed.error().path() == "name");
  BOOST_TEST((failed.error().range() == fmmap::byte_range{.offset = 1007, .length = 4}));
  BOOST_TEST(failed.error().message().find("they end at 1010") != std::string::npos);
  BOOST_TEST(fails(r.read_be<std::uint64_t>(), errc::out_of_range));
  BOOST_TEST(fails(r.read<record>(), errc::out_of_range));
  BOOST_TEST(fails(r.bytes(4), errc::out_of_range));
  BOOST_TEST(fails(r.bytes(SIZE_MAX), errc::out_of_range));
  BOOST_TEST(fails(r.read_exactly(four), errc::out_of_range));
  BOOST_TEST((four == std::vector<std::byte>(4, std::byte{1})));
  BOOST_TEST(fails(r.view<std::uint32_t>(1), errc::out_of_range));
  BOOST_TEST(fails(r.view<std::uint32_t>(SIZE_MAX / 2), errc::out_of_range));
  BOOST_TEST(fails(r.skip(4), errc::out_of_range));
  BOOST_TEST(fails(r.skip(SIZE_MAX), errc::out_of_range));
  BOOST_TEST(fails(r.seek(11), errc::out_of_range));
  BOOST_TEST(fails(r.seek(UINT64_MAX), errc::out_of_range));
  BOOST_TEST(r.position() == 7U);
  or_throw(r.seek(10));
  or_throw(r.skip(0));
  BOOST_TEST(or_throw(r.bytes(0)).empty());
}

BOOST_AUTO_TEST_CASE(views_objects_where_they_lie) {
  alignas(8) std::array<record, 3> const records{{{1, 2}, {3, 4}, {5, 6}}};
  byte_reader r{std::as_bytes(std::span{records})};
  BOOST_TEST((or_throw(r.view<record>(1))[0] == records[0]));
  or_throw(r.skip(1));
  BOOST_TEST(fails(r.view<record>(1), errc::misaligned));
  BOOST_TEST(r.position() == 9U);
  or_throw(r.seek(8));
  auto const rest = or_throw(r.view<record>(2));
  BOOST_TEST(rest.data() == &records[1]);
  BOOST_TEST(r.at_end());
  BOOST_TEST(or_throw(r.view<record>(0)).empty());
}

BOOST_AUTO_TEST_CASE(reads_up_to_a_delimiter) {
  byte_reader r{bytes_of("one\ntwo\n\nlast")};
  auto const next = [&] { return text_of(r.read_until(std::byte{'\n'})); };
  BOOST_TEST(next() == "one\n");
  BOOST_TEST(next() == "two\n");
  BOOST_TEST(next() == "\n");
  BOOST_TEST(next() == "last");
  BOOST_TEST(next() == "");
}

BOOST_AUTO_TEST_CASE(of_nothing_is_at_its_end) {
  byte_reader r;
  BOOST_TEST(r.at_end());
  BOOST_TEST(fails(r.read<char>(), errc::out_of_range));
  BOOST_TEST(r.read_until(std::byte{0}).empty());
  or_throw(r.seek(0));
  or_throw(r.skip(0));
}

BOOST_AUTO_TEST_CASE(of_a_file_counts_from_the_start_of_its_range) {
  scratch const s;
  auto const content = pattern(100);
  auto const m = or_throw(mapped_file::open(s.file("data", content)));
  auto r = or_throw(m.reader({.offset = 20, .length = 30}));
  BOOST_TEST(r.position() == 0U);
  BOOST_TEST(r.remaining() == 30U);
  BOOST_TEST(*r.read<char>() == content[20]);
  or_throw(r.seek(29));
  auto const failed = r.read<std::uint16_t>();
  BOOST_TEST(failed.error().path() == m.path());
  BOOST_TEST((failed.error().range() == fmmap::byte_range{.offset = 49, .length = 2}));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_byte_writer)

BOOST_AUTO_TEST_CASE(writes_values_one_after_the_other) {
  std::vector<std::byte> memory(20, std::byte{'.'});
  byte_writer w{memory};
  or_throw(w.write_le<std::uint16_t>(0x6261));
  or_throw(w.write_be<std::uint32_t>(0x63646566));
  or_throw(w.write<char>('g'));
  or_throw(w.write_exactly(bytes_of("hi")));
  or_throw(w.skip(1));
  BOOST_TEST(w.write_some(bytes_of("0123456789abc")) == 10U);
  BOOST_TEST(w.at_end());
  BOOST_TEST(w.write_some(bytes_of("x")) == 0U);
  BOOST_TEST(text_of(memory) == "abcdefghi.0123456789");
  or_throw(w.seek(2));
  w.rest().front() = std::byte{'C'};
  BOOST_TEST(text_of(memory).substr(0, 4) == "abCd");
}

BOOST_AUTO_TEST_CASE(writes_nothing_when_it_fails) {
  std::vector<std::byte> memory(10, std::byte{'.'});
  byte_writer w{memory, "name"};
  or_throw(w.seek(8));
  auto const failed = w.write_le<std::uint32_t>(1);
  BOOST_TEST(fails(failed, errc::out_of_range));
  BOOST_TEST(failed.error().operation() == "write");
  BOOST_TEST(fails(w.write_be<std::uint64_t>(1), errc::out_of_range));
  BOOST_TEST(fails(w.write<record>({1, 2}), errc::out_of_range));
  BOOST_TEST(fails(w.write_exactly(bytes_of("abc")), errc::out_of_range));
  BOOST_TEST(w.position() == 8U);
  BOOST_TEST(text_of(memory) == "..........");
}

BOOST_AUTO_TEST_CASE(of_a_file_never_makes_it_longer) {
  scratch const s;
  auto m = or_throw(mutable_mapped_file::open_existing(s.file("data", std::string(10, '.'))));
  auto w = or_throw(m.writer({.offset = 7}));
  or_throw(w.write_exactly(bytes_of("xyz")));
  BOOST_TEST(fails(w.write<char>('!'), errc::out_of_range));
  BOOST_TEST(read_back(s / "data") == ".......xyz");
  BOOST_TEST(fails(m.writer({.offset = 11}), errc::out_of_range));
  or_throw(m.protect(fmmap::access::read_only));
  BOOST_TEST(fails(m.writer(), errc::read_only));
}

BOOST_AUTO_TEST_SUITE_END()
