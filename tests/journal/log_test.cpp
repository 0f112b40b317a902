// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "journal/journaled.hpp"
#include "support/outcome.hpp"
#include "support/scratch.hpp"
#include "support/seed.hpp"

import fmmap.core;
import fmmap.journal;
import fmmap.os;

namespace journal = fmmap::journal;
namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

using fmmap::or_throw;
using journal::level;

namespace {

constexpr std::size_t content_pages = 3;
constexpr std::size_t content_bytes = content_pages * journal::page_bytes;

auto text(std::uint64_t seed) -> std::string { return pattern(content_bytes, seed); }

auto blank() -> std::string { return std::string(content_bytes, '\0'); }

// With a ring that holds one transaction of everything.
auto create(std::filesystem::path const& path, std::size_t ring_pages = content_pages + 1) -> std::filesystem::path {
  (void)journaled{path, ring_pages, content_pages};
  return path;
}

void write_back(std::filesystem::path const& path, std::string_view bytes) {
  std::ofstream{path, std::ios::binary}.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void flip(std::string& bytes, std::size_t at) { bytes[at] = static_cast<char>(bytes[at] ^ 0x10); }

// A file whose only committed transaction lies in the ring and nowhere else.
auto with_one_record(scratch const& s) -> std::string {
  auto const path = create(s / "data");
  or_throw(journaled{path}.commit(text(1), level::power));
  return read_back(path);
}

auto content_of(std::filesystem::path const& path) -> std::string { return journaled{path}.content(); }

} // namespace

BOOST_AUTO_TEST_SUITE(a_journaled_file)

BOOST_AUTO_TEST_CASE(is_blank_at_first_and_its_content_lies_behind_the_ring) {
  scratch const s;
  journaled file{create(s / "data")};
  BOOST_TEST(file.content() == blank());
  BOOST_TEST(file.log().content_begin() == (2 + content_pages + 1) * journal::page_bytes);
  BOOST_TEST(file.log().file_bytes() == std::filesystem::file_size(s / "data"));
  BOOST_TEST(file.log().sequence() == 0U);
}

BOOST_AUTO_TEST_CASE(keeps_what_its_owner_has_put_into_the_header) {
  scratch const s;
  auto const bytes = pattern(journal::owner_bytes, 5);
  {
    std::ofstream{s / "data"};
    auto const file = os::open(os::working_directory, (s / "data").c_str(), {.write = true}, 0).value();
    constexpr auto no_content = 3 * journal::page_bytes;
    auto made = journal::log::create({.cached = file, .direct = file, .path = "data"}, journal::page_bytes, no_content,
                                     no_content, bytes_of(bytes).first<journal::owner_bytes>());
    BOOST_TEST(made.has_value());
    BOOST_TEST(os::close(file).has_value());
  }
  journaled opened{s / "data"};
  BOOST_TEST(text_of(opened.log().of_owner()) == bytes);
  or_throw(opened.log().checkpoint());
  BOOST_TEST(text_of(journaled{s / "data"}.log().of_owner()) == bytes);
}

BOOST_AUTO_TEST_CASE(has_a_transaction_once_it_is_opened_again) {
  for (auto const wanted : {level::process, level::power}) {
    scratch const s;
    auto const path = create(s / "data");
    {
      journaled file{path};
      or_throw(file.commit(text(1), wanted));
      BOOST_TEST(file.content() == blank()); // not yet in place
    }
    BOOST_TEST(content_of(path) == text(1));
  }
}

BOOST_AUTO_TEST_CASE(applies_only_what_is_durable) {
  scratch const s;
  journaled file{create(s / "data", 64)};
  or_throw(file.commit(text(1), level::process));
  or_throw(file.log().apply());
  BOOST_TEST(file.content() == blank());
  or_throw(file.commit(text(2), level::power)); // and the one before it with it
  or_throw(file.log().apply());
  BOOST_TEST(file.content() == text(2));
}

BOOST_AUTO_TEST_CASE(takes_a_transaction_that_the_ring_cannot_hold_and_is_as_long_as_before) {
  for (auto const wanted : {level::none, level::process, level::power}) {
    scratch const s;
    auto const path = create(s / "data", content_pages);
    auto last = text(1);
    {
      journaled file{path};
      auto const size = std::filesystem::file_size(path);
      auto little = blank();
      little[0] = 'x';
      or_throw(file.commit(little, level::process));
      or_throw(file.commit(last, wanted));
      BOOST_TEST(file.content() == last); // in place at once
      BOOST_TEST(std::filesystem::file_size(path) == size);
      last[0] = 'y';
      or_throw(file.commit(last, level::power));
    }
    BOOST_TEST(content_of(path) == last);
  }
}

BOOST_AUTO_TEST_CASE(takes_any_number_of_transactions_in_a_small_ring) {
  scratch const s{memory_folder()};
  std::mt19937 random{seed()};
  auto const path = create(s / "data", 7);
  auto expected = blank();
  for (int opening = 0; opening < 20; ++opening) {
    journaled file{path};
    BOOST_TEST(file.content() == expected);
    for (auto left = random() % 40; left > 0; --left) {
      for (auto lines = random() % 100; lines > 0; --lines) {
        auto const line = random() % (content_bytes / journal::line_bytes);
        expected.replace(line * journal::line_bytes, journal::line_bytes, pattern(journal::line_bytes, random()));
      }
      or_throw(file.commit(expected, random() % 3 == 0 ? level::power : level::process));
      if (random() % 4 == 0) {
        or_throw(file.log().apply());
      }
    }
  }
  BOOST_TEST(content_of(path) == expected);
}

BOOST_AUTO_TEST_CASE(keeps_a_record_that_fills_the_ring_until_a_checkpoint) {
  scratch const s;
  auto const path = create(s / "data");
  auto last = blank();
  {
    journaled file{path};
    last[0] = 'x';
    or_throw(file.commit(last, level::power)); // one page, so that the next checkpoint is not at the ring's beginning
    or_throw(file.log().checkpoint());
    last = text(1);
    or_throw(file.commit(last, level::power)); // the whole ring
    or_throw(file.log().apply());              // in place, and not durably so
    last[0] = 'y';
    or_throw(file.commit(last, level::power));
  }
  BOOST_TEST(content_of(path) == last);
}

BOOST_AUTO_TEST_CASE(commits_a_line_that_changes_and_changes_back_before_it_is_in_place) {
  scratch const s;
  auto const path = create(s / "data", 64);
  {
    journaled file{path};
    or_throw(file.commit(text(1), level::process));
    BOOST_TEST(file.log().unapplied_lines(file.log().content_begin() / journal::page_bytes) == UINT64_MAX);
    BOOST_TEST(file.log().unapplied_lines(0) == 0U);
    or_throw(file.commit(blank(), level::process)); // as the file still is
  }
  BOOST_TEST(content_of(path) == blank());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_journal_on_a_damaged_disk)

BOOST_AUTO_TEST_CASE(does_without_either_slot_of_the_header) {
  scratch const s;
  auto const path = create(s / "data");
  {
    journaled file{path};
    or_throw(file.commit(text(1), level::power));
    or_throw(file.log().checkpoint());
  }
  auto const whole = read_back(path);
  for (std::size_t at = 0; at < 2 * journal::page_bytes; at += at % journal::page_bytes < 80 ? 1 : 97) {
    auto damaged = whole;
    flip(damaged, at);
    write_back(path, damaged);
    BOOST_TEST(content_of(path) == text(1), "the content after damage at " << at);
  }
}

BOOST_AUTO_TEST_CASE(is_refused_when_both_slots_are_damaged) {
  scratch const s;
  auto const path = create(s / "data");
  auto damaged = read_back(path);
  flip(damaged, 100);
  flip(damaged, journal::page_bytes + 100);
  write_back(path, damaged);
  BOOST_CHECK_EXCEPTION(journaled{path}, fmmap::system_error, [&](fmmap::system_error const& e) {
    return e.why() == std::errc::bad_message && e.why().path() == path.string();
  });
}

BOOST_AUTO_TEST_CASE(is_refused_when_the_file_is_cut_off_in_the_ring_or_before) {
  scratch const s;
  auto const path = create(s / "data");
  for (auto const size : {0U, 1U, 63U, 64U, 4095U, 4096U, 8191U, 8192U, 8193U, 20'480U}) {
    auto const whole = read_back(path);
    std::filesystem::resize_file(path, size);
    BOOST_CHECK_THROW(journaled{path}, fmmap::system_error);
    write_back(path, whole);
  }
}

BOOST_AUTO_TEST_CASE(takes_a_damaged_record_for_none) {
  scratch const s;
  auto const whole = with_one_record(s);
  for (std::size_t at = 0; at < journal::page_bytes + 200; at += at < 300 ? 1 : 61) {
    auto damaged = whole;
    flip(damaged, journal::ring_begin + at);
    write_back(s / "data", damaged);
    BOOST_TEST(content_of(s / "data") == blank(), "the content after damage at " << at);
  }
  write_back(s / "data", whole);
  BOOST_TEST(content_of(s / "data") == text(1));
}

BOOST_AUTO_TEST_CASE(takes_a_record_of_another_time_of_the_file_for_none) {
  scratch const s;
  auto const with_record = with_one_record(s);
  auto const path = s / "data";
  (void)content_of(path);     // applies it
  auto now = read_back(path); // the header has another salt
  auto const ring = journal::ring_begin;
  now.replace(ring, journal::page_bytes, with_record, ring, journal::page_bytes);
  write_back(path, now);
  auto other = blank();
  other[7] = 'x';
  or_throw(journaled{path}.commit(other, level::power));
  BOOST_TEST(content_of(path) == other);
}

// Whoever can write the file can make checksums that are right.
BOOST_AUTO_TEST_CASE(never_writes_outside_the_content_whatever_a_record_says) {
  scratch const s;
  auto const whole = with_one_record(s);
  auto const content_begin = journal::ring_begin / journal::page_bytes + content_pages + 1;
  for (auto const page : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, content_begin - 1,
                          content_begin + content_pages, std::uint64_t{1} << 52, UINT64_MAX}) {
    auto forged = whole;
    auto* const record = forged.data() + journal::ring_begin;
    journal::record_header about{};
    std::memcpy(&about, record, sizeof about);
    std::memcpy(record + sizeof about, &page, sizeof page);
    about.checksum = journal::checksum(
        bytes_of(std::string_view{record, about.length}).subspan(offsetof(journal::record_header, salt)));
    std::memcpy(record, &about, sizeof about);
    write_back(s / "data", forged);
    BOOST_TEST(content_of(s / "data") == blank(), "the content after a record about page " << page);
    BOOST_TEST(std::filesystem::file_size(s / "data") == whole.size());
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_journal_whose_system_calls_fail)

BOOST_AUTO_TEST_CASE(does_nothing_more_until_it_is_opened_again) {
  for (auto const failing : {os::call::pwritev2, os::call::fdatasync, os::call::pwrite}) {
    scratch const s;
    auto const path = create(s / "data");
    std::optional<journaled> file{path};
    or_throw(file->commit(text(1), level::power));
    {
      seam::armed const table;
      seam::fail(failing, EIO, 1);
      auto failed = file->log().checkpoint();
      if (failed) {
        failed = file->commit(text(2), level::power);
      }
      BOOST_TEST(fails(failed, std::errc::io_error), os::name_of(failing));
      auto const calls = seam::calls().size();
      BOOST_TEST(fails(file->log().checkpoint(), std::errc::io_error));
      BOOST_TEST(fails(file->log().apply(), std::errc::io_error));
      BOOST_TEST(seam::calls().size() == calls); // no call is made
      BOOST_TEST(fails(file->commit(text(3), level::power), std::errc::io_error));
    }
    file.reset();
    auto const found = content_of(path);
    BOOST_TEST((found == text(1) || found == text(2)));
  }
}

BOOST_AUTO_TEST_CASE(goes_on_after_short_transfers_and_signals) {
  scratch const s;
  auto const path = create(s / "data");
  {
    journaled file{path};
    seam::armed const table;
    seam::shorten(os::call::pwritev2, journal::page_bytes);
    seam::shorten(os::call::pwrite, 40);
    seam::fail(os::call::pwrite, EINTR, 3, 1);
    or_throw(file.commit(text(1), level::power));
    or_throw(file.log().checkpoint());
  }
  {
    seam::armed const table;
    seam::shorten(os::call::pread, journal::page_bytes);
    seam::fail(os::call::pread, EINTR, 2, 1);
    BOOST_TEST(content_of(path) == text(1));
  }
}

BOOST_AUTO_TEST_SUITE_END()
