// SPDX-License-Identifier: MIT OR Apache-2.0

#include <boost/test/unit_test.hpp>

#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "support/scratch.hpp"

import fmmap.core;

using fmmap::access;
using fmmap::errc;

BOOST_AUTO_TEST_SUITE(a_mapping)

BOOST_AUTO_TEST_CASE(shows_the_bytes_of_any_range_of_a_file) {
  scratch const s;
  auto const content = pattern(20000);
  auto const path = s.file("data", content);
  auto const f = fmmap::or_throw(fmmap::file::open(path));
  for (std::uint64_t const offset : {0U, 1U, 4095U, 4096U, 4097U, 19999U, 20000U}) {
    for (std::size_t const length : {0U, 1U, 4095U, 4096U, 4097U, 8192U}) {
      auto const m = fmmap::mapping::map(f, {.range = {.offset = offset, .length = length}});
      BOOST_TEST_CONTEXT("offset " << offset << " length " << length) {
        if (offset + length > content.size()) {
          BOOST_REQUIRE(!m);
          BOOST_TEST((m.error() == errc::out_of_range));
        } else {
          BOOST_REQUIRE(m.has_value());
          BOOST_TEST(text_of(m->bytes()) == std::string_view{content}.substr(offset, length));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(grows_inside_its_reservation_without_moving) {
  auto m = fmmap::or_throw(fmmap::mapping::anonymous(100, {.reserve = std::size_t{1} << 30}));
  auto const* const base = m.bytes().data();
  for (std::size_t size = 100; size < (std::size_t{1} << 22); size *= 2) {
    fmmap::or_throw(m.resize(size));
    m.writable_bytes()[size - 1] = std::byte{1};
  }
  BOOST_TEST((m.bytes().data() == base));
  fmmap::or_throw(m.resize(10));
  fmmap::or_throw(m.resize(5000));
  BOOST_TEST((m.bytes()[4999] == std::byte{0}));
}

BOOST_AUTO_TEST_SUITE_END()
