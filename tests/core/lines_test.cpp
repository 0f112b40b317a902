// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include "support/scratch.hpp"

import fmmap.core;

using fmmap::lines;
using namespace std::string_view_literals;

static_assert(std::ranges::forward_range<lines>);
static_assert(std::ranges::view<lines>);
static_assert(std::ranges::borrowed_range<lines>);
static_assert(std::same_as<std::ranges::range_value_t<lines>, std::string_view>);
static_assert(std::forward_iterator<lines::iterator>);
static_assert(std::sentinel_for<std::default_sentinel_t, lines::iterator>);

namespace {

auto split(std::string_view text) -> std::vector<std::string_view> {
  std::vector<std::string_view> found;
  for (auto const line : lines{text}) {
    found.push_back(line);
  }
  return found;
}

using expected = std::vector<std::string_view>;

} // namespace

BOOST_AUTO_TEST_SUITE(the_lines_of_a_text)

BOOST_AUTO_TEST_CASE(end_with_a_line_feed_with_or_without_a_carriage_return) {
  BOOST_TEST((split("one\ntwo\r\nthree\n") == expected{"one", "two", "three"}));
}

BOOST_AUTO_TEST_CASE(count_a_last_one_without_an_end) {
  BOOST_TEST((split("one\ntwo") == expected{"one", "two"}));
  BOOST_TEST((split("one") == expected{"one"}));
  BOOST_TEST((split("one\r") == expected{"one\r"})); // a carriage return alone ends nothing
  BOOST_TEST((split("\r") == expected{"\r"}));
}

BOOST_AUTO_TEST_CASE(are_none_in_an_empty_text) {
  BOOST_TEST(split("").empty());
  BOOST_TEST((lines{}.begin() == lines{}.end()));
  BOOST_TEST(std::ranges::empty(lines{std::span<std::byte const>{}}));
}

BOOST_AUTO_TEST_CASE(are_empty_between_line_feeds) {
  BOOST_TEST((split("\n\n\n") == expected{"", "", ""}));
  BOOST_TEST((split("\r\n\r\n") == expected{"", ""}));
  BOOST_TEST((split("\n") == expected{""}));
  BOOST_TEST((split("a\n\nb\n") == expected{"a", "", "b"}));
}

BOOST_AUTO_TEST_CASE(keep_every_other_character) {
  BOOST_TEST((split("a\0b\n\0\n"sv) == expected{"a\0b"sv, "\0"sv}));
  BOOST_TEST((split("a\rb\r\r\n") == expected{"a\rb\r"}));
  BOOST_TEST((split("\xff\xfe\n") == expected{"\xff\xfe"}));
}

BOOST_AUTO_TEST_CASE(are_views_of_the_bytes_themselves) {
  std::string const text = "one\ntwo\n";
  auto const found = split(text);
  BOOST_TEST((found[0].data() == text.data()));
  BOOST_TEST((found[1].data() == text.data() + 4));
  auto const bytes = std::as_bytes(std::span{text});
  BOOST_TEST((reinterpret_cast<std::byte const*>((*lines{bytes}.begin()).data()) == bytes.data()));
}

BOOST_AUTO_TEST_CASE(can_be_gone_through_again_and_outlive_the_range) {
  std::string const text = "one\ntwo\nthree";
  auto const found = std::ranges::find(lines{text}, "two"sv); // of a temporary: a borrowed range
  BOOST_TEST(*found == "two");
  auto again = found;
  BOOST_TEST(*again++ == "two");
  BOOST_TEST(*again == "three");
  BOOST_TEST(*found == "two");
  BOOST_TEST((again != found));
  ++again;
  BOOST_TEST((again == std::default_sentinel));
  BOOST_TEST(std::ranges::distance(lines{text}) == 3);
  BOOST_TEST(lines{text}.front() == "one");
  BOOST_TEST((lines::iterator{} == lines::iterator{}));
}

BOOST_AUTO_TEST_CASE(are_found_without_looking_past_the_last_byte) {
  auto const page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  auto* const memory =
      static_cast<char*>(::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  BOOST_REQUIRE(memory != MAP_FAILED);
  BOOST_REQUIRE(::mprotect(memory + page, page, PROT_NONE) == 0); // a byte too far is SIGSEGV
  for (auto const& [text, count] : std::vector<std::pair<std::string_view, std::ptrdiff_t>>{
           {"one\ntwo", 2}, {"one\ntwo\n", 2}, {"one\r", 1}, {"\r\n", 1}, {"\n", 1}, {"x", 1}, {"", 0}}) {
    auto* const begin = memory + page - text.size();
    std::memcpy(begin, text.data(), text.size());
    std::ptrdiff_t found = 0;
    std::size_t characters = 0;
    for (auto const line : lines{std::string_view{begin, text.size()}}) {
      ++found;
      characters += static_cast<std::size_t>(std::ranges::count_if(line, [](char c) { return c != 'q'; }));
    }
    BOOST_TEST(found == count);
    BOOST_TEST(characters <= text.size());
  }
  ::munmap(memory, 2 * page);
}

BOOST_AUTO_TEST_CASE(agree_with_a_search_by_hand_on_any_text) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    auto text = pattern(seed, seed);
    for (auto& c : text) {
      c = "a\n\r\0"[static_cast<unsigned char>(c) % 4];
    }
    expected by_hand;
    for (std::string_view rest{text}; !rest.empty();) {
      auto const feed = rest.find('\n');
      auto line = rest.substr(0, feed);
      rest.remove_prefix(feed == std::string_view::npos ? rest.size() : feed + 1);
      if (feed != std::string_view::npos && line.ends_with('\r')) {
        line.remove_suffix(1);
      }
      by_hand.push_back(line);
    }
    BOOST_TEST((split(text) == by_hand));
  }
}

BOOST_AUTO_TEST_SUITE_END()
