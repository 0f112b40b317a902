// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Writing the bytes of a mutable_mapped_file in memory.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/outcome.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::errc;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

namespace {

constexpr std::size_t page = 4096;

struct record {
  std::uint64_t key;
  double value;
};

struct opened {
  explicit opened(std::size_t size) : content(size, '.'), path{s.file("data", content)} {
    file = or_throw(mutable_mapped_file::open_existing(path));
  }

  scratch s;
  std::string content;
  std::filesystem::path path;
  mutable_mapped_file file;
};

template <class T>
void check_number(T value) {
  opened f{40};
  auto const round_trip = [&](std::uint64_t at) {
    or_throw(f.file.write_le<T>(at, value));
    auto const low = f.file.read_le<T>(at);
    auto const first = f.file.bytes()[at];
    or_throw(f.file.write_be<T>(at, value));
    auto const high = f.file.read_be<T>(at);
    auto const last = f.file.bytes()[at + sizeof(T) - 1];
    or_throw(f.file.write<T>(at, value));
    return std::memcmp(&*low, &value, sizeof value) == 0 && std::memcmp(&*high, &value, sizeof value) == 0 &&
           first == last && *f.file.read<T>(at) == value;
  };
  for (std::uint64_t at = 0; at + sizeof(T) <= 40; ++at) {
    BOOST_TEST(round_trip(at), sizeof(T) << " bytes at " << at);
  }
  for (std::uint64_t const at : {40 - sizeof(T) + 1, std::size_t{40}, std::size_t{UINT64_MAX}}) {
    BOOST_TEST(fails(f.file.write_le<T>(at, value), errc::out_of_range));
    BOOST_TEST(fails(f.file.write_be<T>(at, value), errc::out_of_range));
    BOOST_TEST(fails(f.file.write<T>(at, value), errc::out_of_range));
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(writing_values)

BOOST_AUTO_TEST_CASE(puts_numbers_of_every_width_and_order_where_they_belong) {
  check_number<std::int8_t>(-3);
  check_number<std::uint16_t>(0x1234);
  check_number<std::int32_t>(-123'456);
  check_number<std::uint64_t>(0x0123'4567'89ab'cdef);
  check_number<unsigned __int128>(static_cast<unsigned __int128>(0x0123'4567'89ab'cdef) << 64U | 0xfedc'ba98U);
  check_number<float>(1.5F);
  check_number<double>(-2.5);
}

BOOST_AUTO_TEST_CASE(puts_objects_and_bytes_where_they_belong) {
  opened f{100};
  record const wanted{.key = 7, .value = 0.5};
  or_throw(f.file.write<record>(3, wanted));
  f.content.replace(3, sizeof wanted, reinterpret_cast<char const*>(&wanted), sizeof wanted);
  or_throw(f.file.write_exactly(50, bytes_of("bytes")));
  f.content.replace(50, 5, "bytes");
  BOOST_TEST(f.file.write_at(97, bytes_of("abcdef")) == 3U);
  f.content.replace(97, 3, "abc");
  BOOST_TEST(f.file.write_at(100, bytes_of("x")) == 0U);
  or_throw(f.file.writable_bytes(60, 4))[1] = std::byte{'!'};
  f.content[61] = '!';
  or_throw(f.file.writable_view<std::uint32_t>(64, 2))[1] = 0x6161'6161;
  f.content.replace(68, 4, "aaaa");
  BOOST_TEST(read_back(f.path) == f.content);
}

BOOST_AUTO_TEST_CASE(refuses_what_does_not_fit_and_writes_nothing) {
  opened f{100};
  BOOST_TEST(fails(f.file.write_exactly(96, bytes_of("12345")), errc::out_of_range));
  BOOST_TEST(fails(f.file.write_exactly(UINT64_MAX, bytes_of("1")), errc::out_of_range));
  BOOST_TEST(fails(f.file.write<record>(90, {}), errc::out_of_range));
  BOOST_TEST(fails(f.file.fill({.offset = 99, .length = 2}, std::byte{1}), errc::out_of_range));
  BOOST_TEST(fails(f.file.zero({.offset = 101}), errc::out_of_range));
  BOOST_TEST(fails(f.file.writable_bytes(100, 1), errc::out_of_range));
  BOOST_TEST(fails(f.file.writable_view<record>(), errc::out_of_range)); // six and a quarter
  BOOST_TEST(fails(f.file.writable_view<std::uint32_t>(2, 1), errc::misaligned));
  or_throw(f.file.write_exactly(100, {}));
  or_throw(f.file.fill({.offset = 100}, std::byte{1}));
  BOOST_TEST(read_back(f.path) == f.content);
  auto const error = f.file.write_le<std::uint32_t>(98, 1).error();
  BOOST_TEST(error.path() == f.path.native());
  BOOST_TEST((error.range() == fmmap::byte_range{.offset = 98, .length = 4}));
}

BOOST_AUTO_TEST_CASE(is_refused_while_protection_keeps_it_out) {
  opened f{100};
  or_throw(f.file.protect(fmmap::access::read_only));
  BOOST_TEST(fails(f.file.write<char>(0, 'x'), errc::read_only));
  BOOST_TEST(fails(f.file.write_le<int>(0, 1), errc::read_only));
  BOOST_TEST(fails(f.file.write_exactly(0, bytes_of("x")), errc::read_only));
  BOOST_TEST(fails(f.file.fill(fmmap::whole, std::byte{1}), errc::read_only));
  BOOST_TEST(fails(f.file.zero(fmmap::whole), errc::read_only));
  BOOST_TEST(fails(f.file.writable_bytes(0, 1), errc::read_only));
  BOOST_TEST(fails(f.file.writable_view<char>(), errc::read_only));
  BOOST_TEST(f.file.write_at(0, bytes_of("x")) == 0U);
  or_throw(f.file.protect(fmmap::access::read_write));
  or_throw(f.file.write<char>(0, 'x'));
}

BOOST_AUTO_TEST_CASE(is_refused_on_a_closed_handle) {
  mutable_mapped_file closed;
  BOOST_TEST(fails(closed.write<char>(0, 'x'), errc::closed));
  BOOST_TEST(fails(closed.write_exactly(0, {}), errc::closed));
  BOOST_TEST(fails(closed.fill(fmmap::whole, std::byte{1}), errc::closed));
  BOOST_TEST(fails(closed.writer(), errc::closed));
  BOOST_TEST(fails(closed.writable_bytes(0, 0), errc::closed));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(filling)

BOOST_AUTO_TEST_CASE(sets_exactly_the_bytes_of_its_range) {
  opened f{5 * (std::size_t{1} << 20) + 100};
  for (fmmap::byte_range const range : {fmmap::byte_range{.offset = 0, .length = 10},
                                        {.offset = page - 1, .length = 2},
                                        {.offset = 11, .length = 3 * (std::size_t{1} << 20)},
                                        {.offset = (std::size_t{1} << 20) - 1, .length = 2},
                                        {.offset = 5 * (std::size_t{1} << 20)}}) {
    auto const length = std::min(range.length, f.content.size() - range.offset);
    or_throw(f.file.fill(range, std::byte{0xff}));
    f.content.replace(range.offset, length, length, '\xff');
    BOOST_TEST((read_back(f.path) == f.content));
  }
  or_throw(f.file.zero({.offset = 1, .length = 2 * page}));
  f.content.replace(1, 2 * page, 2 * page, '\0');
  BOOST_TEST((read_back(f.path) == f.content));
}

BOOST_AUTO_TEST_CASE(does_not_undo_a_cut_by_somebody_else) {
  opened f{4 * page};
  std::filesystem::resize_file(f.path, page);
  BOOST_TEST(fails(f.file.fill({.offset = page, .length = page}, std::byte{1}), std::errc::bad_address));
  BOOST_TEST(std::filesystem::file_size(f.path) == page);
}

BOOST_AUTO_TEST_CASE(puts_blocks_behind_holes) {
  scratch const s;
  auto const path = s.file("data", "");
  std::filesystem::resize_file(path, 64 * page);
  auto m = or_throw(mutable_mapped_file::open_existing(path));
  or_throw(m.fill({.offset = 8 * page, .length = 8 * page}, std::byte{1}));
  auto const blocks = or_throw(m.metadata()).allocated_bytes;
  BOOST_TEST(blocks >= 8 * page);
  BOOST_TEST(blocks < 64 * page);
}

BOOST_AUTO_TEST_CASE(works_in_memory_only_and_where_nothing_can_be_allocated_or_brought_in) {
  scratch const s;
  auto const path = s.file("data", pattern(3 * page));
  auto cow = or_throw(mutable_mapped_file::open_copy_on_write(path));
  or_throw(cow.fill({.offset = 1, .length = 2 * page}, std::byte{7}));
  BOOST_TEST((cow.bytes()[page] == std::byte{7}));
  BOOST_TEST(read_back(path) == pattern(3 * page));
  seam::armed const seam;
  seam::fail(os::call::fallocate, EOPNOTSUPP);
  seam::fail(os::call::madvise, EINVAL);
  auto m = or_throw(mutable_mapped_file::open_existing(path));
  or_throw(m.fill({.offset = 1, .length = 2 * page}, std::byte{7}));
  BOOST_TEST(read_back(path) == pattern(3 * page).replace(1, 2 * page, 2 * page, '\7'));
}

BOOST_AUTO_TEST_CASE(that_finds_no_space_writes_nothing) {
  opened f{3 * page};
  seam::armed const seam;
  seam::fail(os::call::fallocate, ENOSPC, 1);
  BOOST_TEST(fails(f.file.fill(fmmap::whole, std::byte{1}), std::errc::no_space_on_device));
  BOOST_TEST(read_back(f.path) == f.content);
  seam::fail(os::call::madvise, EFAULT, 1);
  auto const failed = f.file.fill({.offset = 5}, std::byte{1});
  BOOST_TEST(fails(failed, std::errc::bad_address));
  BOOST_TEST((failed.error().range() == fmmap::byte_range{.offset = 5, .length = 3 * page - 5}));
  BOOST_TEST(read_back(f.path) == f.content);
}

BOOST_AUTO_TEST_SUITE_END()
