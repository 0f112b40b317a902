// SPDX-License-Identifier: MIT OR Apache-2.0

#include <boost/test/unit_test.hpp>

#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "support/scratch.hpp"

import fmmap.core;

using fmmap::errc;

BOOST_AUTO_TEST_SUITE(a_mutable_mapped_file)

BOOST_AUTO_TEST_CASE(appends_without_moving_and_leaves_exactly_what_was_appended) {
  scratch const s;
  std::string expected;
  {
    auto f = fmmap::or_throw(fmmap::mutable_mapped_file::create(s / "log", {.reserve = std::size_t{1} << 30}));
    auto const* const base = f.bytes().data();
    for (int i = 0; i < 1000; ++i) {
      auto const message = pattern(100 + static_cast<std::size_t>(i), static_cast<std::uint64_t>(i));
      BOOST_TEST(fmmap::or_throw(f.append(bytes_of(message))) == expected.size());
      expected += message;
    }
    BOOST_TEST((f.bytes().data() == base));
    BOOST_TEST((text_of(f.bytes()) == expected));
    BOOST_TEST(std::filesystem::file_size(s / "log") == expected.size());
    fmmap::or_throw(f.close());
  }
  BOOST_TEST((read_back(s / "log") == expected));
}

BOOST_AUTO_TEST_CASE(grows_and_shrinks_with_zeros_in_between) {
  scratch const s;
  auto f = fmmap::or_throw(fmmap::mutable_mapped_file::create(s / "f", {.size = 10}));
  f.writable_bytes()[9] = std::byte{1};
  fmmap::or_throw(f.resize(100'000));
  BOOST_TEST((f.bytes()[9] == std::byte{1}));
  BOOST_TEST((f.bytes()[99'999] == std::byte{0}));
  fmmap::or_throw(f.resize(5));
  fmmap::or_throw(f.resize(20, fmmap::durability::data));
  BOOST_TEST((f.bytes()[9] == std::byte{0}));
  BOOST_TEST(std::filesystem::file_size(s / "f") == 20U);
}

BOOST_AUTO_TEST_SUITE_END()
