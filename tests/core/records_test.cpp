// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <iterator>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/scratch.hpp"

import fmmap.core;

using fmmap::chunks;
using fmmap::errc;
using fmmap::records;

namespace {

struct record {
  std::uint64_t key;
  std::uint64_t value;
  auto operator==(record const&) const -> bool = default;
};

std::vector<record> const some{{1, 10}, {2, 20}, {3, 30}, {4, 40}};

// Their bytes behind one more, so that none is aligned, and three that are no record.
auto crooked() -> std::vector<std::byte> {
  std::vector<std::byte> memory(1 + some.size() * sizeof(record) + 3, std::byte{0xee});
  std::memcpy(memory.data() + 1, some.data(), some.size() * sizeof(record));
  return memory;
}

auto texts(chunks const& pieces) -> std::vector<std::string> {
  std::vector<std::string> found;
  for (auto const piece : pieces) {
    found.emplace_back(text_of(piece));
  }
  return found;
}

} // namespace

static_assert(std::ranges::random_access_range<records<record>> && std::ranges::sized_range<records<record>>);
static_assert(std::ranges::borrowed_range<records<record>> && std::ranges::view<records<record>>);
static_assert(std::ranges::forward_range<chunks> && std::ranges::borrowed_range<chunks> && std::ranges::view<chunks>);
static_assert(std::ranges::sized_range<chunks>);

BOOST_AUTO_TEST_SUITE(records_of_bytes)

BOOST_AUTO_TEST_CASE(are_copied_out_in_order_whatever_their_alignment) {
  auto const memory = crooked();
  records<record> const all{std::span{memory}.subspan(1)};
  BOOST_TEST(all.size() == 4U);
  BOOST_TEST((std::vector<record>(all.begin(), all.end()) == some));
  BOOST_TEST((all[2] == some[2]));
  BOOST_TEST((all.front() == some.front() && all.back() == some.back()));
  BOOST_TEST(text_of(all.rest()) == "\xee\xee\xee");
  std::size_t count = 0;
  for (record const& r : records<record>(std::span{memory}.subspan(1))) {
    count += r == some[count] ? 1 : 0;
  }
  BOOST_TEST(count == 4U);
}

BOOST_AUTO_TEST_CASE(can_be_searched_and_walked_backwards) {
  auto const memory = crooked();
  records<record> const all{std::span{memory}.subspan(1)};
  auto const found = std::ranges::lower_bound(all, 3U, {}, &record::key);
  BOOST_TEST((*found).value == 30U);
  BOOST_TEST((found - all.begin() == 2));
  BOOST_TEST((found[-1] == some[1]));
  BOOST_TEST((*(1 + found) == some[3]));
  BOOST_TEST((*(found - 2) == some[0]));
  BOOST_TEST((all.begin() < found && found <= all.end()));
  auto at = all.end();
  BOOST_TEST((*--at == some[3]));
  BOOST_TEST((*at-- == some[3]));
  BOOST_TEST((*at == some[2]));
  at -= 2;
  BOOST_TEST((*at++ == some[0]));
  BOOST_TEST((*at == some[1]));
  auto reversed = all | std::views::reverse;
  BOOST_TEST(((*reversed.begin()) == some[3]));
}

BOOST_AUTO_TEST_CASE(are_none_where_there_is_not_one_whole) {
  BOOST_TEST(records<record>{}.empty());
  std::array<std::byte, 15> const few{};
  records<record> const none{few};
  BOOST_TEST(none.empty());
  BOOST_TEST(none.rest().size() == 15U);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(chunks_of_bytes)

BOOST_AUTO_TEST_CASE(are_of_one_length_but_the_last) {
  BOOST_TEST((texts({bytes_of("abcdefgh"), 3}) == std::vector<std::string>{"abc", "def", "gh"}));
  BOOST_TEST((texts({bytes_of("abcdef"), 3}) == std::vector<std::string>{"abc", "def"}));
  BOOST_TEST((texts({bytes_of("ab"), 3}) == std::vector<std::string>{"ab"}));
  BOOST_TEST((texts({bytes_of("ab"), SIZE_MAX}) == std::vector<std::string>{"ab"}));
  BOOST_TEST(texts({bytes_of(""), 3}).empty());
  BOOST_TEST(texts({}).empty());
  BOOST_TEST((chunks{bytes_of("abcdefgh"), 3}).size() == 3U);
  BOOST_TEST((chunks{bytes_of("abcdef"), 3}).size() == 2U);
  BOOST_TEST((chunks{bytes_of(""), 3}).size() == 0U);
  chunks const all{bytes_of("abcdef"), 4};
  auto at = all.begin();
  BOOST_TEST(text_of(*at++) == "abcd");
  BOOST_TEST((at != all.begin()));
  BOOST_TEST(text_of(*at) == "ef");
  BOOST_TEST((++at == all.end()));
}

BOOST_AUTO_TEST_CASE(have_at_least_one_byte) {
  BOOST_CHECK_EXCEPTION((chunks{bytes_of("ab"), 0}), fmmap::system_error,
                        [](auto const& e) { return e.why() == errc::invalid_options; });
}

BOOST_AUTO_TEST_SUITE_END()
