// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <cstdint>
#include <limits>
#include <optional>

#include <boost/test/unit_test.hpp>

import fmmap.os;

namespace os = fmmap::os;

namespace {

constexpr auto largest = std::numeric_limits<std::uint64_t>::max();
constexpr std::array<std::uint64_t, 4> units{1, 512, 4096, 2097152};

// Numbers around the edges of units and of the type.
constexpr std::array<std::uint64_t, 21> edges{0,
                                              1,
                                              511,
                                              512,
                                              513,
                                              4095,
                                              4096,
                                              4097,
                                              8192,
                                              2097151,
                                              2097152,
                                              2097153,
                                              (1ULL << 32) - 1,
                                              1ULL << 32,
                                              (1ULL << 63) - 4096,
                                              1ULL << 63,
                                              largest - 4097,
                                              largest - 4096,
                                              largest - 4095,
                                              largest - 1,
                                              largest};

} // namespace

BOOST_AUTO_TEST_SUITE(page_arithmetic)

BOOST_AUTO_TEST_CASE(rounding_down_gives_the_last_multiple_at_or_below) {
  for (auto const unit : units) {
    for (auto const value : edges) {
      auto const down = os::round_down(value, unit);
      BOOST_TEST(down % unit == 0U);
      BOOST_TEST(down <= value);
      BOOST_TEST(value - down < unit);
    }
  }
}

BOOST_AUTO_TEST_CASE(rounding_up_gives_the_first_multiple_at_or_above_or_nothing_when_there_is_none) {
  for (auto const unit : units) {
    for (auto const value : edges) {
      auto const up = os::round_up(value, unit);
      auto const exists = value <= os::round_down(largest, unit);
      BOOST_TEST(up.has_value() == exists);
      if (up) {
        BOOST_TEST(*up % unit == 0U);
        BOOST_TEST(*up >= value);
        BOOST_TEST(*up - value < unit);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_range_fits_exactly_when_its_end_neither_wraps_nor_passes_the_size) {
  for (auto const offset : edges) {
    for (auto const length : edges) {
      for (auto const size : edges) {
        auto const end = static_cast<unsigned __int128>(offset) + length;
        BOOST_TEST(os::fits(offset, length, size) == (end <= size));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(outward_holds_the_range_and_inward_lies_within_it) {
  for (auto const unit : units) {
    for (auto const begin : edges) {
      for (auto const end : edges) {
        if (begin > end) {
          continue;
        }
        os::interval const bytes{.begin = begin, .end = end};
        if (begin != end && os::round_up(end, unit)) { // else its last unit does not exist
          auto const out = os::outward(bytes, unit);
          BOOST_TEST(out.begin <= begin);
          BOOST_TEST(out.end >= end);
          BOOST_TEST(begin - out.begin < unit);
          BOOST_TEST(out.end - end < unit);
          BOOST_TEST(out.begin % unit == 0U);
          BOOST_TEST(out.end % unit == 0U);
        }
        auto const in = os::inward(bytes, unit);
        BOOST_TEST(in.begin >= begin);
        BOOST_TEST(in.end <= end);
        if (!in.empty()) {
          BOOST_TEST(in.begin % unit == 0U);
          BOOST_TEST(in.end % unit == 0U);
          BOOST_TEST(in.begin - begin < unit);
          BOOST_TEST(end - in.end < unit);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(an_empty_range_stays_empty_in_both_directions) {
  BOOST_TEST(os::outward({.begin = 5, .end = 5}, 4096).empty());
  BOOST_TEST(os::inward({.begin = 5, .end = 5}, 4096).empty());
  BOOST_TEST(os::inward({.begin = 1, .end = 4096}, 4096).empty());
}

BOOST_AUTO_TEST_CASE(the_gap_leads_to_the_first_address_that_matches) {
  for (auto const address : edges) {
    for (auto const offset : edges) {
      auto const gap = os::gap_to_congruent(address, offset, 2097152);
      BOOST_TEST(gap < 2097152U);
      BOOST_TEST((address + gap - offset) % 2097152 == 0U); // modulo 2^64, which 2 MiB divides
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
