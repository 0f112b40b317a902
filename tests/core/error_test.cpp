// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cerrno>
#include <expected>
#include <future>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include <boost/test/unit_test.hpp>

import fmmap.core;

using fmmap::errc;
using fmmap::error;

static_assert(sizeof(error) <= 16);
static_assert(std::is_nothrow_copy_constructible_v<error>);
static_assert(std::is_nothrow_move_constructible_v<error>);
static_assert(std::is_nothrow_move_assignable_v<error>);
static_assert(std::is_error_code_enum_v<errc>);
static_assert(std::is_base_of_v<std::system_error, fmmap::system_error>);

namespace {

auto sample() -> error {
  return error::make({ENOENT, std::system_category()}, "map", "data.bin",
                     fmmap::byte_range{.offset = 8192, .length = 100}, "create it first");
}

} // namespace

BOOST_AUTO_TEST_SUITE(an_error)

BOOST_AUTO_TEST_CASE(a_name_neither_ends_the_message_nor_begins_a_line) {
  using namespace std::string_view_literals;
  auto const why = fmmap::error::make(std::make_error_code(std::errc::io_error), "open", "a\0b\nc\x7f"sv);
  BOOST_TEST(why.path() == "a\0b\nc\x7f"sv);
  BOOST_TEST(why.message() == R"(cannot open "a\x00b\x0ac\x7f": Input/output error)");
}

BOOST_AUTO_TEST_CASE(says_what_failed_on_what_and_why_in_one_sentence) {
  BOOST_TEST(sample().message() ==
             "cannot map 100 bytes at 8192 of \"data.bin\": No such file or directory; create it first");
  BOOST_TEST(error::make(errc::copy_on_write, "flush", "log").message() ==
             "cannot flush \"log\": a copy-on-write mapping never reaches its file");
  BOOST_TEST(error::make(errc::out_of_range, "map", "log", fmmap::byte_range{.offset = 7}).message() ==
             "cannot map bytes from 7 on of \"log\": the range reaches past the end");
}

BOOST_AUTO_TEST_CASE(keeps_its_parts) {
  auto const why = sample();
  BOOST_TEST(why.code().value() == ENOENT);
  BOOST_TEST(why.operation() == "map");
  BOOST_TEST(why.path() == "data.bin");
  BOOST_TEST((why.range() == fmmap::byte_range{.offset = 8192, .length = 100}));
}

BOOST_AUTO_TEST_CASE(equals_codes_of_the_standard_and_of_fmmap) {
  BOOST_TEST((sample() == std::errc::no_such_file_or_directory));
  BOOST_TEST((sample() != std::errc::file_exists));
  BOOST_TEST((sample() != errc::out_of_range));
  BOOST_TEST((error::make(errc::closed, "read") == errc::closed));
  BOOST_TEST((std::error_code{errc::closed}.category() == fmmap::errc_category()));
}

BOOST_AUTO_TEST_CASE(keeps_the_code_of_any_category) {
  auto const why = error::make(std::make_error_code(std::future_errc::no_state), "wait");
  BOOST_TEST((why.code() == std::future_errc::no_state));
  auto const generic = error::make(std::make_error_code(std::errc::io_error), "read");
  BOOST_TEST((generic == std::errc::io_error));
}

BOOST_AUTO_TEST_CASE(shares_its_details_with_copies_and_leaves_nothing_in_what_it_moved_from) {
  auto first = sample();
  auto const copy = first;
  auto const moved = std::move(first);
  BOOST_TEST(copy.message() == moved.message());
  first = copy;
  BOOST_TEST(first.path() == "data.bin");
  auto const& itself = first;
  first = itself;
  BOOST_TEST(first.path() == "data.bin");
}

BOOST_AUTO_TEST_CASE(of_any_category_can_be_asked_after_it_was_moved_from) {
  auto from = error::make(std::make_error_code(std::future_errc::no_state), "wait");
  auto const to = std::move(from);
  BOOST_TEST((to.code() == std::future_errc::no_state));
  BOOST_TEST((from == errc::closed));
  BOOST_TEST(!from.message().empty());
}

BOOST_AUTO_TEST_CASE(has_a_sentence_for_every_code_of_fmmap) {
  for (int code = 1; code <= static_cast<int>(errc::already_run); ++code) {
    auto const message = fmmap::errc_category().message(code);
    BOOST_TEST(!message.starts_with("unknown"));
  }
  BOOST_TEST(fmmap::errc_category().message(9999).starts_with("unknown"));
  BOOST_TEST(std::string_view{fmmap::errc_category().name()} == "fmmap");
}

BOOST_AUTO_TEST_CASE(is_thrown_by_or_throw_with_everything_it_knows) {
  fmmap::result<int> const failed = std::unexpected(sample());
  try {
    fmmap::or_throw(failed);
    BOOST_FAIL("did not throw");
  } catch (std::system_error const& e) {
    BOOST_TEST(std::string_view{e.what()} == sample().message());
    BOOST_TEST(e.code().value() == ENOENT);
    BOOST_TEST(dynamic_cast<fmmap::system_error const&>(e).why().path() == "data.bin");
  }
  BOOST_TEST(fmmap::or_throw(fmmap::result<int>{42}) == 42);
  fmmap::or_throw(fmmap::result<void>{});
}

BOOST_AUTO_TEST_SUITE_END()
