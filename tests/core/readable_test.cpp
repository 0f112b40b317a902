// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/stat.h>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::errc;
using fmmap::file_view;
using fmmap::mapped_file;
using fmmap::mutable_mapped_file;
using fmmap::number;
using fmmap::or_throw;
using fmmap::plain_data;

namespace {

enum class colour : unsigned char { red };
struct record {
  std::uint64_t key;
  double value;
  auto operator==(record const&) const -> bool = default;
};
struct no_default {
  explicit no_default(int n) : value{n} {}
  int value;
};

} // namespace

static_assert(number<char> && number<std::int8_t> && number<std::uint64_t> && number<std::size_t> && number<char32_t>);
static_assert(number<__int128> && number<unsigned __int128> && number<float> && number<double>);
static_assert(!number<bool> && !number<long double> && !number<colour> && !number<int const> && !number<int*>);
static_assert(plain_data<record> && plain_data<colour> && plain_data<int> && plain_data<no_default> &&
              plain_data<std::array<int, 3>>);
static_assert(!plain_data<bool> && !plain_data<int*> && !plain_data<int record::*> && !plain_data<std::string> &&
              !plain_data<int[3]> && !plain_data<int&> && !plain_data<int const> && !plain_data<void>);
static_assert(std::is_empty_v<fmmap::readable>);

namespace {

// The three classes that read, opened over the same content; a file of 300 bytes is read by a view, not mapped.
template <class Check>
void for_each_reader(std::string_view content, Check check) {
  scratch const s;
  auto const path = s.file("data", content);
  auto const mapped = or_throw(mapped_file::open(path));
  auto const writable = or_throw(mutable_mapped_file::open_existing(path));
  auto const view = or_throw(file_view::open(path));
  auto const mapped_view = or_throw(file_view::open(path, {.map_above = 0}));
  BOOST_TEST_CONTEXT("mapped_file") { check(mapped); }
  BOOST_TEST_CONTEXT("mutable_mapped_file") { check(writable); }
  BOOST_TEST_CONTEXT("file_view, read") { check(view); }
  BOOST_TEST_CONTEXT("file_view, mapped") { check(mapped_view); }
}

// What the bytes at `at` are as a number, byte by byte.
template <class T>
auto composed(std::string_view bytes, std::size_t at, std::endian order) -> T {
  std::array<unsigned char, sizeof(T)> raw{};
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    auto const from = order == std::endian::native ? i : sizeof(T) - 1 - i;
    raw[i] = static_cast<unsigned char>(bytes[at + from]);
  }
  return std::bit_cast<T>(raw);
}

template <class T>
auto same_bytes(T const& a, T const& b) -> bool {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <class T>
void check_number(std::string_view content, auto const& from) {
  for (std::size_t at = 0; at + sizeof(T) <= content.size(); ++at) {
    if (!same_bytes(*from.template read_le<T>(at), composed<T>(content, at, std::endian::little)) ||
        !same_bytes(*from.template read_be<T>(at), composed<T>(content, at, std::endian::big)) ||
        !same_bytes(*from.template read<T>(at), composed<T>(content, at, std::endian::native))) {
      BOOST_ERROR("another number of " << sizeof(T) << " bytes at " << at);
      return;
    }
  }
  for (std::uint64_t const at : {content.size() - sizeof(T) + 1, content.size(), std::size_t{UINT64_MAX}}) {
    BOOST_TEST(fails(from.template read_le<T>(at), errc::out_of_range));
    BOOST_TEST(fails(from.template read_be<T>(at), errc::out_of_range));
    BOOST_TEST(fails(from.template read<T>(at), errc::out_of_range));
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(readable_numbers)

BOOST_AUTO_TEST_CASE(of_every_width_and_order_are_read_at_every_offset) {
  auto const content = pattern(300);
  for_each_reader(content, [&](auto const& from) {
    check_number<std::int8_t>(content, from);
    check_number<std::uint8_t>(content, from);
    check_number<std::int16_t>(content, from);
    check_number<std::uint16_t>(content, from);
    check_number<std::int32_t>(content, from);
    check_number<std::uint32_t>(content, from);
    check_number<std::int64_t>(content, from);
    check_number<std::uint64_t>(content, from);
    check_number<std::size_t>(content, from);
    check_number<std::ptrdiff_t>(content, from);
    check_number<__int128>(content, from);
    check_number<unsigned __int128>(content, from);
    check_number<float>(content, from);
    check_number<double>(content, from);
  });
}

BOOST_AUTO_TEST_CASE(are_what_a_person_expects) {
  for_each_reader(std::string_view{"\x01\x02\x03\x04\x05\x06\x07\x08\0\0\x80\x3f", 12}, [](auto const& from) {
    BOOST_TEST(*from.template read_be<std::uint32_t>(0) == 0x0102'0304U);
    BOOST_TEST(*from.template read_le<std::uint32_t>(0) == 0x0403'0201U);
    BOOST_TEST(*from.template read_le<float>(8) == 1.0F);
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(readable_objects)

BOOST_AUTO_TEST_CASE(are_copied_out_aligned_or_not) {
  record const wanted{.key = 42, .value = 2.5};
  std::string content(40, '\0');
  std::memcpy(content.data() + 3, &wanted, sizeof wanted);
  for_each_reader(content, [&](auto const& from) {
    BOOST_TEST((*from.template read<record>(3) == wanted));
    BOOST_TEST(fails(from.template read<record>(25), errc::out_of_range));
    BOOST_TEST(from.template read<no_default>(0).has_value());
  });
}

BOOST_AUTO_TEST_CASE(are_viewed_where_they_lie) {
  std::vector<record> const wanted{{.key = 1, .value = 1.5}, {.key = 2, .value = 2.5}, {.key = 3, .value = 3.5}};
  std::string const content{reinterpret_cast<char const*>(wanted.data()), wanted.size() * sizeof(record)};
  for_each_reader(content, [&](auto const& from) {
    auto const all = or_throw(from.template view<record>());
    BOOST_TEST((std::vector<record>(all.begin(), all.end()) == wanted));
    BOOST_TEST(reinterpret_cast<std::byte const*>(all.data()) == from.bytes().data());
    BOOST_TEST((or_throw(from.template view<record>(16, 2))[1] == wanted[2]));
    BOOST_TEST(or_throw(from.template view<record>(48)).empty());
    BOOST_TEST(or_throw(from.template view<record>(48, 0)).empty());
    BOOST_TEST(fails(from.template view<record>(16, 3), errc::out_of_range));
    BOOST_TEST(fails(from.template view<record>(8), errc::out_of_range)); // two and a half
    BOOST_TEST(fails(from.template view<record>(49), errc::out_of_range));
    BOOST_TEST(fails(from.template view<record>(49, 0), errc::out_of_range));
    BOOST_TEST(
        fails(from.template view<record>(0, std::numeric_limits<std::size_t>::max() / 16 + 2), errc::out_of_range));
    BOOST_TEST(fails(from.template view<record>(UINT64_MAX, 1), errc::out_of_range));
    auto const crooked = from.template view<record>(1, 1);
    BOOST_TEST(fails(crooked, errc::misaligned));
    BOOST_TEST((crooked.error().range() == fmmap::byte_range{.offset = 1, .length = 16}));
    BOOST_TEST(crooked.error().path() == from.path());
    BOOST_TEST(or_throw(from.template view<char>(1, 47)).size() == 47U);
    BOOST_TEST(or_throw(from.template view<record>(1, 0)).empty()); // none of them is misaligned
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(readable_bytes)

BOOST_AUTO_TEST_CASE(are_viewed_copied_and_read_in_parts) {
  auto const content = pattern(300);
  for_each_reader(content, [&](auto const& from) {
    BOOST_TEST(from.text() == content);
    BOOST_TEST(from.size() == 300U);
    BOOST_TEST(!from.empty());
    BOOST_TEST(text_of(or_throw(from.bytes(11, 100))) == content.substr(11, 100));
    BOOST_TEST(or_throw(from.bytes(300, 0)).empty());
    BOOST_TEST(fails(from.bytes(0, fmmap::to_end), errc::out_of_range)); // a length that came from the file, perhaps
    BOOST_TEST(fails(from.template view<char>(0, fmmap::to_end), errc::out_of_range));
    std::vector<std::byte> buffer(50);
    BOOST_TEST(from.read_at(290, buffer) == 10U);
    BOOST_TEST(text_of(buffer).substr(0, 10) == content.substr(290));
    BOOST_TEST(from.read_at(300, buffer) == 0U);
    BOOST_TEST(from.read_at(UINT64_MAX, buffer) == 0U);
    or_throw(from.read_exactly(250, buffer));
    BOOST_TEST(text_of(buffer) == content.substr(250));
    std::vector<std::byte> untouched(50, std::byte{1});
    BOOST_TEST(fails(from.read_exactly(251, untouched), errc::out_of_range));
    BOOST_TEST((untouched == std::vector<std::byte>(50, std::byte{1})));
    BOOST_TEST(text_of(or_throw(from.to_vector())) == content);
    BOOST_TEST(text_of(or_throw(from.to_vector({.offset = 5, .length = 7}))) == content.substr(5, 7));
    BOOST_TEST(or_throw(from.to_vector({.offset = 300})).empty());
    for (fmmap::byte_range const past : {fmmap::byte_range{.offset = 301},
                                         {.offset = 0, .length = 301},
                                         {.offset = 299, .length = 2},
                                         {.offset = UINT64_MAX, .length = 1},
                                         {.offset = UINT64_MAX},
                                         {.offset = 1, .length = SIZE_MAX - 1}}) {
      BOOST_TEST(fails(from.to_vector(past), errc::out_of_range));
      BOOST_TEST(fails(from.reader(past), errc::out_of_range));
      BOOST_TEST(fails(from.copy_to("never", past), errc::out_of_range));
      BOOST_TEST(fails(from.bytes(past.offset, past.length), errc::out_of_range));
    }
    BOOST_TEST(!std::filesystem::exists("never"));
  });
}

BOOST_AUTO_TEST_CASE(of_an_empty_file_are_none) {
  for_each_reader("", [](auto const& from) {
    BOOST_TEST(from.empty());
    BOOST_TEST(from.text().empty());
    BOOST_TEST(or_throw(from.bytes(0, 0)).empty());
    BOOST_TEST(or_throw(from.template view<record>()).empty());
    BOOST_TEST(or_throw(from.to_vector()).empty());
    BOOST_TEST(or_throw(from.reader()).at_end());
    BOOST_TEST(fails(from.template read<char>(0), errc::out_of_range));
    scratch const s;
    or_throw(from.copy_to(s / "copy"));
    BOOST_TEST(std::filesystem::file_size(s / "copy") == 0U);
  });
}

BOOST_AUTO_TEST_CASE(are_copied_to_a_new_file) {
  auto const content = pattern(300);
  for_each_reader(content, [&](auto const& from) {
    scratch const s;
    or_throw(from.copy_to(s / "copy", {.offset = 11, .length = 100},
                          {.permissions = 0700, .level = fmmap::durability::data}));
    BOOST_TEST(read_back(s / "copy") == content.substr(11, 100));
    struct stat status{};
    BOOST_TEST(::stat((s / "copy").c_str(), &status) == 0);
    BOOST_TEST((status.st_mode & 07777U) == 0700U);
    auto const again = from.copy_to(s / "copy");
    BOOST_TEST(fails(again, std::errc::file_exists));
    BOOST_TEST(again.error().path() == (s / "copy").native());
    BOOST_TEST(read_back(s / "copy") == content.substr(11, 100));
    BOOST_TEST(fails(from.copy_to(s / "no" / "copy"), std::errc::no_such_file_or_directory));
    BOOST_TEST(fails(from.copy_to(std::filesystem::path{std::string{"a\0b", 3}}), std::errc::invalid_argument));
  });
}

BOOST_AUTO_TEST_CASE(that_are_gone_leave_no_copy_behind) {
  scratch const s;
  auto const path = s.file("data", pattern(10 * 4096));
  auto const m = or_throw(mapped_file::open(path));
  std::filesystem::resize_file(path, 4096);
  BOOST_TEST(fails(m.copy_to(s / "copy"), std::errc::bad_address));
  BOOST_TEST(!std::filesystem::exists(s / "copy"));
  or_throw(m.copy_to(s / "copy", {.offset = 0, .length = 4096}));
}

BOOST_AUTO_TEST_CASE(are_copied_as_they_are_in_memory) {
  scratch const s;
  auto m = or_throw(mutable_mapped_file::open_copy_on_write(s.file("data", pattern(100))));
  m.writable_bytes()[7] = std::byte{7};
  or_throw(m.copy_to(s / "copy"));
  BOOST_TEST(read_back(s / "copy")[7] == 7);
  BOOST_TEST(read_back(s / "data") == pattern(100));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(readable_errors)

BOOST_AUTO_TEST_CASE(name_the_file_the_bytes_and_what_there_is) {
  for_each_reader(pattern(300), [](auto const& from) {
    auto const error = from.template read_le<std::uint32_t>(298).error();
    BOOST_TEST(error.operation() == "read");
    BOOST_TEST(error.path() == from.path());
    BOOST_TEST(error.path().ends_with("/data"));
    BOOST_TEST((error.range() == fmmap::byte_range{.offset = 298, .length = 4}));
    BOOST_TEST(error.message().find("there are 300 bytes") != std::string::npos);
  });
}

namespace {

template <class Reader>
void check_closed(Reader const& from) {
  BOOST_TEST(!from.is_open());
  BOOST_TEST(from.size() == 0U);
  BOOST_TEST(from.text().empty());
  BOOST_TEST(from.path().empty());
  BOOST_TEST(fails(from.bytes(0, 0), errc::closed));
  BOOST_TEST(fails(from.template read<char>(0), errc::closed));
  BOOST_TEST(fails(from.template read_le<int>(0), errc::closed));
  BOOST_TEST(fails(from.template view<int>(0, 1), errc::closed));
  BOOST_TEST(fails(from.template view<int>(0, 0), errc::closed));
  BOOST_TEST(fails(from.template view<int>(), errc::closed));
  BOOST_TEST(fails(from.to_vector(), errc::closed));
  BOOST_TEST(fails(from.reader(), errc::closed));
  BOOST_TEST(fails(from.copy_to("never"), errc::closed));
}

} // namespace

BOOST_AUTO_TEST_CASE(say_when_the_handle_is_closed) {
  check_closed(mapped_file{});
  check_closed(mutable_mapped_file{});
  check_closed(file_view{});
  for_each_reader(pattern(300), [](auto const& from) {
    auto copy = or_throw(std::remove_cvref_t<decltype(from)>::open(from.path()));
    auto const moved = std::move(copy);
    BOOST_TEST(moved.is_open());
    check_closed(copy); // NOLINT(bugprone-use-after-move): that is the question
  });
}

BOOST_AUTO_TEST_SUITE_END()
