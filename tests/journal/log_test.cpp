// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/damage.hpp"
#include "support/outcome.hpp"
#include "support/scratch.hpp"
#include "support/seed.hpp"

#include "support/small_disk.hpp"

#include "journal/journaled.hpp"
#include "support/sealing.hpp"

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

// `text` with another first byte.
auto with_first(std::string text, char first) -> std::string {
  text[0] = first;
  return text;
}

// For codes that std::errc does not have.
auto fails_with(fmmap::result<void> const& outcome, int code) -> bool {
  return !outcome && outcome.error().code().value() == code;
}

auto count_of(os::call which) -> std::ptrdiff_t { return std::ranges::count(seam::calls(), which); }

// A file whose only committed transaction lies behind the content, as a crash leaves it.
auto with_one_spilled(scratch const& s) -> std::string {
  auto const path = create(s / "data", 2);
  journaled file{path};
  seam::armed const table;
  seam::fail(os::call::pwrite, EIO, 1, 1); // the second one is the first in place
  BOOST_TEST(fails(file.commit(text(1), level::power), std::errc::io_error));
  return read_back(path);
}

// What a reader of the file finds, which writes nothing.
class examined {
public:
  explicit examined(std::filesystem::path const& path)
      : file_{os::open(os::working_directory, path.c_str(), {}, 0).value()},
        log_{or_throw(journal::log::examine({.cached = file_, .direct = file_, .path = path.string()}))} {}
  examined(examined const&) = delete;
  auto operator=(examined const&) -> examined& = delete;
  ~examined() { (void)os::close(file_); }

  [[nodiscard]] auto log() const -> journal::log const& { return log_; }

private:
  os::descriptor file_;
  journal::log log_;
};

struct unapplied_change {
  std::uint64_t page; // of the content
  std::uint64_t lines;
  std::string content;

  auto operator==(unapplied_change const&) const -> bool = default;
};

auto unapplied_of(journal::log const& log) -> std::vector<unapplied_change> {
  std::vector<unapplied_change> found;
  log.for_each_unapplied([&](std::uint64_t number, std::uint64_t lines, std::span<std::byte const> content) {
    found.push_back({.page = number - (log.content_begin() / journal::page_bytes),
                     .lines = lines,
                     .content = std::string{text_of(content)}});
  });
  return found;
}

// All of the content, page by page.
auto changes_to(std::string const& text) -> std::vector<unapplied_change> {
  std::vector<unapplied_change> all;
  for (std::size_t i = 0; i < content_pages; ++i) {
    all.push_back(
        {.page = i, .lines = UINT64_MAX, .content = text.substr(i * journal::page_bytes, journal::page_bytes)});
  }
  return all;
}

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

BOOST_AUTO_TEST_CASE(keeps_a_transaction_of_no_level_in_memory_until_a_later_one_is_written) {
  scratch const s;
  auto const path = create(s / "data", 64);
  {
    journaled file{path};
    seam::armed const table;
    or_throw(file.commit(text(1), level::none));
    BOOST_TEST(seam::calls().empty());
    or_throw(file.log().apply());
    BOOST_TEST(file.content() == blank()); // it is not durable
  }
  BOOST_TEST(content_of(path) == blank());
  for (auto const wanted : {level::process, level::power}) {
    auto const before = content_of(path);
    auto const first = with_first(text(2), wanted == level::power ? 'p' : 'q');
    auto const last = with_first(first, 'x');
    {
      journaled file{path};
      or_throw(file.commit(first, level::none));
      or_throw(file.commit(last, wanted)); // of one line
      BOOST_TEST(file.content() == before);
    }
    BOOST_TEST(content_of(path) == last);
  }
  {
    journaled file{path};
    or_throw(file.commit(text(3), level::none));
    or_throw(file.log().checkpoint());
    BOOST_TEST(file.content() == text(3));
  }
  BOOST_TEST(content_of(path) == text(3));
}

BOOST_AUTO_TEST_CASE(writes_what_is_contiguous_in_the_ring_at_once) {
  scratch const s;
  auto const path = create(s / "data", 64);
  auto last = blank();
  {
    journaled file{path};
    auto const commit = [&](std::size_t count, level wanted) {
      for (; count > 0; --count) {
        last[0] = static_cast<char>(last[0] + 1);
        or_throw(file.commit(last, wanted));
      }
    };
    seam::armed const table;
    commit(20, level::process);
    BOOST_TEST(count_of(os::call::pwrite) == 20);
    commit(1, level::power); // and with it those before
    BOOST_TEST(count_of(os::call::pwritev2) == 1);
    commit(10, level::none);
    commit(1, level::process);
    BOOST_TEST(count_of(os::call::pwrite) == 21);
    commit(30, level::none); // 62 of 64 pages
    commit(2, level::none);
    BOOST_TEST(count_of(os::call::pwritev2) == 1);
    commit(1, level::power); // no room: after a checkpoint, which writes them all, and the header
    BOOST_TEST(count_of(os::call::pwritev2) == 4);
  }
  BOOST_TEST(content_of(path) == last);
}

BOOST_AUTO_TEST_CASE(writes_what_goes_round_in_the_ring_in_two_pieces) {
  scratch const s;
  auto const path = create(s / "data", 8);
  auto last = blank();
  {
    journaled file{path};
    for (int i = 0; i < 6; ++i) {
      last[0] = static_cast<char>(last[0] + 1);
      or_throw(file.commit(last, level::power));
    }
    or_throw(file.log().checkpoint());
    seam::armed const table;
    for (int i = 0; i < 5; ++i) {
      last[0] = static_cast<char>(last[0] + 1);
      or_throw(file.commit(last, i < 4 ? level::none : level::power));
    }
    BOOST_TEST(count_of(os::call::pwritev2) == 2);
    BOOST_TEST(seam::calls().size() == 2U);
  }
  BOOST_TEST(content_of(path) == last);
}

BOOST_AUTO_TEST_CASE(counts_what_it_does) {
  scratch const s;
  journaled file{create(s / "data", 3)};
  BOOST_TEST(file.log().stats().commits == 0U);
  BOOST_TEST(file.log().stats().journal_bytes == 0U);
  BOOST_TEST(file.log().stats().checkpoints == 0U);
  auto last = with_first(blank(), 'x');
  or_throw(file.commit(last, level::none));
  BOOST_TEST(file.log().stats().journal_bytes == 0U);
  last[0] = 'y';
  or_throw(file.commit(last, level::process));
  BOOST_TEST(file.log().stats().journal_bytes == 2 * journal::page_bytes);
  or_throw(file.commit(text(1), level::power)); // four pages behind the content, one of the ring, the first two again
  BOOST_TEST(file.log().stats().journal_bytes == (2 + 4 + 3) * journal::page_bytes);
  BOOST_TEST(file.log().stats().commits == 3U);
  BOOST_TEST(file.log().stats().checkpoints == 1U);
}

// The larger ring is read in several parts when it is opened.
BOOST_AUTO_TEST_CASE(takes_any_number_of_transactions_in_a_small_ring) {
  for (auto const ring_pages : {std::size_t{7}, std::size_t{300}}) {
    scratch const s{memory_folder()};
    std::mt19937 random{seed()};
    auto const path = create(s / "data", ring_pages);
    auto expected = blank();
    for (int opening = 0; opening < 20; ++opening) {
      journaled file{path};
      BOOST_TEST(file.content() == expected);
      for (auto left = random() % (ring_pages + 33); left > 0; --left) {
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

BOOST_AUTO_TEST_CASE(tells_what_is_not_in_place_in_the_order_of_the_transactions) {
  scratch const s;
  journaled file{create(s / "data", 64)};
  BOOST_TEST(unapplied_of(file.log()).empty());
  or_throw(file.commit(text(1), level::power));
  auto const last = with_first(text(1), 'x');
  or_throw(file.commit(last, level::none));
  auto expected = changes_to(text(1));
  std::ranges::copy(changes_to(last), std::back_inserter(expected)); // none is in place, so all of them again
  BOOST_TEST((unapplied_of(file.log()) == expected));
  or_throw(file.log().apply());
  BOOST_TEST((unapplied_of(file.log()) == changes_to(last)));
  or_throw(file.log().checkpoint());
  BOOST_TEST(unapplied_of(file.log()).empty());
}

BOOST_AUTO_TEST_CASE(keeps_a_line_unapplied_until_it_is_in_place) {
  scratch const s;
  journaled file{create(s / "data", 64)};
  auto const first = file.log().content_begin() / journal::page_bytes;
  or_throw(file.commit(text(1), level::power));
  auto writes = 0;
  seam::armed const table;
  seam::observe([&](seam::observation const& seen) {
    if (seen.which == os::call::pwrite && !seen.over) {
      BOOST_TEST(file.log().unapplied_lines(first + static_cast<std::uint64_t>(writes)) == UINT64_MAX);
      ++writes;
    }
  });
  or_throw(file.log().apply());
  seam::observe({});
  BOOST_TEST(writes == static_cast<int>(content_pages));
  for (std::size_t i = 0; i < content_pages; ++i) {
    BOOST_TEST(file.log().unapplied_lines(first + i) == 0U);
  }
}

// As one thread of a heap finds out what has changed while another one commits.
BOOST_AUTO_TEST_CASE(tells_another_thread_of_every_line_that_it_would_not_find_in_place) {
  scratch const s{memory_folder()};
  auto const path = create(s / "data", 7);
  journaled file{path};
  auto const page = file.log().content_begin() / journal::page_bytes;
  std::atomic<std::uint64_t> committed = 0;
  std::atomic<std::uint64_t> missed = 0;
  std::atomic<bool> over = false;
  std::thread other{[&] {
    std::ifstream in{path, std::ios::binary};
    while (!over) {
      auto const least = committed.load();
      if ((file.log().unapplied_lines(page) & 1) == 0) {
        std::uint64_t found = 0;
        in.seekg(static_cast<std::streamoff>(page * journal::page_bytes));
        in.read(reinterpret_cast<char*>(&found), sizeof found);
        missed += found < least ? 1 : 0;
      }
    }
  }};
  auto last = blank();
  for (std::uint64_t i = 1; i <= 3000; ++i) {
    std::memcpy(last.data(), &i, sizeof i);
    or_throw(file.commit(last, i % 2 == 0 ? level::power : level::none));
    committed = i;
    or_throw(file.log().apply());
  }
  over = true;
  other.join();
  BOOST_TEST(missed == 0U);
}

BOOST_AUTO_TEST_CASE(is_not_written_to_where_its_header_is_not_accepted) {
  scratch const s;
  auto const before = with_one_record(s);
  auto const file = os::open(os::working_directory, (s / "data").c_str(), {.write = true}, 0).value();
  auto const refused = fmmap::error::make(fmmap::errc::incompatible, "open", "data");
  auto const opened = journal::log::open({.cached = file, .direct = file, .path = "data"},
                                         [&](journal::log const& found) -> fmmap::result<void> {
                                           BOOST_TEST(found.file_bytes() == before.size());
                                           return std::unexpected(refused);
                                         });
  (void)os::close(file);
  BOOST_TEST((!opened && opened.error() == fmmap::errc::incompatible));
  BOOST_TEST((read_back(s / "data") == before));
  BOOST_TEST(content_of(s / "data") == text(1));
}

BOOST_AUTO_TEST_CASE(is_examined_without_a_write) {
  scratch const s;
  auto const path = create(s / "data", 64);
  auto const last = with_first(text(1), 'x');
  {
    journaled file{path};
    or_throw(file.commit(text(1), level::power));
    or_throw(file.commit(last, level::process));
  }
  auto const before = read_back(path);
  {
    seam::armed const table;
    examined const found{path};
    for (auto const made : seam::calls()) {
      BOOST_TEST((made == os::call::openat || made == os::call::fstat || made == os::call::pread), os::name_of(made));
    }
    auto expected = changes_to(text(1));
    std::ranges::copy(changes_to(last), std::back_inserter(expected));
    BOOST_TEST((unapplied_of(found.log()) == expected));
    BOOST_TEST(found.log().sequence() == 2U);
    BOOST_TEST(found.log().file_bytes() == before.size());
    BOOST_TEST(found.log().unapplied_lines(found.log().content_begin() / journal::page_bytes) == UINT64_MAX);
  }
  BOOST_TEST(read_back(path) == before);
  BOOST_TEST(content_of(path) == last); // its records are all there
}

BOOST_AUTO_TEST_CASE(is_made_as_long_as_its_header_says_and_no_longer_than_where_records_spill) {
  scratch const s;
  auto const path = create(s / "data");
  auto last = blank();
  {
    journaled file{path};
    last[0] = 'x';
    or_throw(file.commit(last, level::power));
  }
  auto const size = std::filesystem::file_size(path);
  auto const content_begin = size - content_bytes;
  std::filesystem::resize_file(path, content_begin);
  {
    journaled const file{path};
    BOOST_TEST(file.content() == last);
    BOOST_TEST(std::filesystem::file_size(path) == size);
    BOOST_TEST(blocks_of(path) < size); // blocks are its owner's to put there
    BOOST_TEST(file.log().spill_at() == size + (2 * journal::page_bytes));
  }
  std::filesystem::resize_file(path, size + journal::page_bytes); // its owner has begun to make it longer
  BOOST_TEST(journaled{path}.log().file_bytes() == size);
  BOOST_TEST(std::filesystem::file_size(path) == size + journal::page_bytes);
  std::filesystem::resize_file(path, size + (3 * journal::page_bytes));
  BOOST_TEST(journaled{path}.log().file_bytes() == size);
  BOOST_TEST(std::filesystem::file_size(path) == size);
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
  for (auto const slot : {std::size_t{0}, journal::page_bytes}) {
    for (std::size_t at = 0; at < journal::page_bytes; at += at < 80 ? 1 : 97) {
      auto damaged = whole;
      flip(damaged, slot + at);
      write_back(path, damaged);
      BOOST_TEST(content_of(path) == text(1), "the content after damage at " << slot + at);
    }
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

// Of two that were under way when power failed only the second may be on the disk.
BOOST_AUTO_TEST_CASE(takes_a_record_for_none_that_follows_a_lost_one_once_another_has_its_place) {
  scratch const s;
  auto const path = create(s / "data");
  {
    journaled file{path};
    or_throw(file.commit(with_first(blank(), 'x'), level::process));
    or_throw(file.commit(with_first(blank(), 'y'), level::process));
  }
  auto without = read_back(path);
  without.replace(journal::ring_begin, journal::page_bytes, journal::page_bytes, '\0');
  write_back(path, without);
  BOOST_TEST(content_of(path) == blank());
  or_throw(journaled{path}.commit(with_first(blank(), 'z'), level::power)); // where the first was
  BOOST_TEST(read_back(path).substr(journal::ring_begin + journal::page_bytes, journal::page_bytes) ==
             without.substr(journal::ring_begin + journal::page_bytes, journal::page_bytes));
  BOOST_TEST(content_of(path) == with_first(blank(), 'z'));
}

BOOST_AUTO_TEST_CASE(finds_a_transaction_that_lies_behind_the_content) {
  scratch const s;
  auto const whole = with_one_spilled(s);
  BOOST_TEST(whole.size() == journal::ring_begin + ((2 + content_pages + 2 + 4) * journal::page_bytes));
  {
    examined const found{s / "data"};
    BOOST_TEST((unapplied_of(found.log()) == changes_to(text(1))));
  }
  BOOST_TEST(read_back(s / "data") == whole);
  BOOST_TEST(content_of(s / "data") == text(1));
  BOOST_TEST(std::filesystem::file_size(s / "data") ==
             journal::ring_begin + ((2 + content_pages) * journal::page_bytes));
}

auto examine(std::filesystem::path const& path, std::uint64_t most) -> fmmap::result<journal::log> {
  auto const file = os::open(os::working_directory, path.c_str(), {}, 0).value();
  auto found = journal::log::examine({.cached = file, .direct = file, .path = path.string()}, most);
  (void)os::close(file);
  return found;
}

BOOST_AUTO_TEST_CASE(reads_no_more_of_records_than_it_may) {
  scratch const s;
  (void)with_one_spilled(s);
  BOOST_TEST((examine(s / "data", journal::page_bytes).error() == std::errc::message_size));
  BOOST_TEST(examine(s / "data", 16 * journal::page_bytes).has_value());

  auto const two = create(s / "two", 64);
  {
    journaled file{two};
    or_throw(file.commit(with_first(blank(), 'a'), level::power));
    or_throw(file.commit(with_first(blank(), 'b'), level::power));
  }
  constexpr std::uint64_t one_line =
      sizeof(journal::record_header) + sizeof(journal::change_header) + journal::line_bytes;
  BOOST_TEST((examine(two, (2 * one_line) - 1).error() == std::errc::message_size));
  BOOST_TEST(examine(two, 2 * one_line).has_value());

  auto const path = create(s / "other", 1024);
  auto const current = examine(path, 0).value().current().about;
  constexpr std::uint64_t much = std::uint64_t{2} << 20;
  journal::record_header const header{.magic = journal::record_magic,
                                      .checksum = 0,
                                      .salt = current.salt,
                                      .sequence = current.sequence,
                                      .length = much,
                                      .file_bytes = current.file_bytes};
  write_at(path, journal::ring_begin, {reinterpret_cast<char const*>(&header), sizeof header});
  BOOST_TEST((examine(path, much - 1).error() == std::errc::message_size));
  BOOST_TEST(examine(path, much).has_value()); // and it is none
}

BOOST_AUTO_TEST_CASE(takes_a_transaction_that_is_damaged_behind_the_content_for_none) {
  scratch const s;
  auto const whole = with_one_spilled(s);
  auto const spilled = whole.size() - (4 * journal::page_bytes);
  auto const content = whole.substr(journal::ring_begin + (2 * journal::page_bytes), content_bytes);
  auto const is_none = [&](std::string const& damaged, std::size_t at) {
    write_back(s / "data", damaged);
    BOOST_TEST(content_of(s / "data") == content, "the content after damage at " << at);
    BOOST_TEST(std::filesystem::file_size(s / "data") < spilled);
  };
  for (std::size_t at = 0; at < content_bytes; at += at < 100 ? 7 : 997) {
    auto damaged = whole;
    flip(damaged, spilled + at);
    is_none(damaged, spilled + at);
  }
  for (std::size_t at = 0; at < sizeof(journal::reference); ++at) {
    auto damaged = whole;
    flip(damaged, journal::ring_begin + at);
    is_none(damaged, journal::ring_begin + at);
  }
  is_none(whole.substr(0, spilled + journal::page_bytes), 0);
  is_none(whole.substr(0, spilled - 1), 0);
}

// Whoever can write the file can make checksums that are right.
BOOST_AUTO_TEST_CASE(reads_nothing_but_a_record_behind_the_content_whatever_a_reference_says) {
  scratch const s;
  auto const whole = with_one_spilled(s);
  auto const spilled = whole.size() - (4 * journal::page_bytes);
  auto const content = whole.substr(journal::ring_begin + (2 * journal::page_bytes), content_bytes);
  journal::reference genuine{};
  std::memcpy(&genuine, whole.data() + journal::ring_begin, sizeof genuine);
  auto const forge = [&](auto change) {
    auto about = genuine;
    change(about);
    about.about.checksum =
        journal::checksum(std::as_bytes(std::span{&about, 1}).subspan(offsetof(journal::record_header, salt)));
    auto forged = whole;
    std::memcpy(forged.data() + journal::ring_begin, &about, sizeof about);
    write_back(s / "data", forged);
    return content_of(s / "data");
  };
  BOOST_TEST(forge([](auto&) {}) == text(1)); // the test does what it means to
  for (auto const offset : {std::uint64_t{0}, journal::ring_begin, spilled - journal::page_bytes,
                            spilled + journal::page_bytes, UINT64_MAX}) {
    BOOST_TEST(forge([&](auto& r) { r.offset = offset; }) == content, "the content after a reference to " << offset);
  }
  for (auto const length : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{4096}, genuine.length - 1,
                            genuine.length + 1, std::uint64_t{1} << 52, UINT64_MAX}) {
    BOOST_TEST(forge([&](auto& r) { r.length = length; }) == content, "the content after a length of " << length);
  }
  BOOST_TEST(forge([](auto& r) { ++r.checksum; }) == content);
}

// Whoever can write the file can make checksums that are right.
BOOST_AUTO_TEST_CASE(never_writes_outside_the_content_whatever_a_record_says) {
  scratch const s;
  auto const whole = with_one_record(s);
  auto const content_begin = (journal::ring_begin / journal::page_bytes) + content_pages + 1;
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

namespace {

// The file with a record of these changes, instead of the one that it has in its ring.
auto with_record(std::string file, std::vector<unapplied_change> const& changes, std::int64_t more_bytes = 0)
    -> std::string {
  auto* const record = file.data() + journal::ring_begin;
  auto about = journal::value_at<journal::record_header>(bytes_of({record, sizeof(journal::record_header)}));
  std::string body;
  for (auto const& one : changes) {
    journal::change_header const header{.page = one.page, .lines = one.lines};
    body.append(reinterpret_cast<char const*>(&header), sizeof header).append(one.content);
  }
  about.length = sizeof about + body.size() + static_cast<std::uint64_t>(more_bytes);
  std::memcpy(record, &about, sizeof about);
  std::ranges::copy(body, record + sizeof about);
  seal_record(std::as_writable_bytes(std::span{file}).subspan(journal::ring_begin));
  return file;
}

constexpr std::uint64_t first_page = (journal::ring_begin / journal::page_bytes) + content_pages + 1;

auto line_of(char letter) -> std::string { return std::string(journal::line_bytes, letter); }

} // namespace

BOOST_AUTO_TEST_CASE(takes_the_last_of_the_changes_of_a_line_in_one_record) {
  scratch const s;
  auto const whole = with_one_record(s);
  write_back(s / "data", with_record(whole, {{first_page, 3, line_of('a') + line_of('b')},
                                             {first_page + 1, 1, line_of('c')},
                                             {first_page, 2, line_of('d')}}));
  auto const content = content_of(s / "data");
  BOOST_TEST(content.substr(0, 2 * journal::line_bytes) == line_of('a') + line_of('d'));
  BOOST_TEST(content.substr(journal::page_bytes, journal::line_bytes) == line_of('c'));
}

// Each would take memory for a part of the file of which it says nothing.
BOOST_AUTO_TEST_CASE(takes_a_record_with_a_change_without_lines_for_none) {
  scratch const s;
  auto const whole = with_one_record(s);
  write_back(s / "data", with_record(whole, {{first_page, 1, line_of('a')}, {first_page + 1, 0, ""}}));
  BOOST_TEST(content_of(s / "data") == blank());
}

BOOST_AUTO_TEST_CASE(takes_a_record_that_lies_about_its_length_for_none) {
  scratch const s;
  auto const whole = with_one_record(s);
  for (auto const more : {std::int64_t{-64}, std::int64_t{-1}, std::int64_t{1}, std::int64_t{16}, std::int64_t{64},
                          std::int64_t{1} << 40, std::int64_t{INT64_MAX} / 2}) {
    write_back(s / "data", with_record(whole, {{first_page, 1, line_of('a')}}, more));
    BOOST_TEST(content_of(s / "data") == blank(), "the content after a record that is longer by " << more);
  }
  write_back(s / "data", with_record(whole, {{first_page, 1, line_of('a')}}));
  BOOST_TEST(content_of(s / "data").starts_with(line_of('a'))); // the test does what it means to
}

// As after a crash before the header was written.
BOOST_AUTO_TEST_CASE(has_the_same_content_when_its_records_are_found_twice) {
  scratch const s;
  auto const before = with_one_record(s);
  BOOST_TEST(content_of(s / "data") == text(1));
  auto after = read_back(s / "data");
  after.replace(0, journal::ring_begin, before, 0, journal::ring_begin);
  write_back(s / "data", after);
  BOOST_TEST(content_of(s / "data") == text(1));
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

// Nothing has happened then, and the journal goes on.
BOOST_AUTO_TEST_CASE(commits_other_transactions_when_there_are_no_blocks_for_a_long_one) {
  for (auto const code : {ENOSPC, EDQUOT, EFBIG}) {
    for (auto const written : {0U, 1U}) { // pages before the disk is full
      scratch const s;
      auto const path = create(s / "data", 2);
      auto last = with_first(blank(), 'x');
      {
        journaled file{path};
        auto const size = std::filesystem::file_size(path);
        or_throw(file.commit(last, level::process));
        {
          seam::armed const table;
          seam::shorten(os::call::pwrite, journal::page_bytes);
          seam::fail(os::call::pwrite, code, 1, written);
          BOOST_TEST(fails_with(file.commit(text(1), level::power), code));
        }
        BOOST_TEST(std::filesystem::file_size(path) == size);
        BOOST_TEST(file.log().sequence() == 1U);
        BOOST_TEST(file.log().stats().commits == 1U);
        BOOST_TEST(unapplied_of(file.log()).size() == 1U);
        last[journal::line_bytes] = 'y';
        or_throw(file.commit(last, level::power));
        or_throw(file.commit(text(2), level::power)); // behind the content again
        last = with_first(text(2), 'z');
        or_throw(file.commit(last, level::process));
      }
      BOOST_TEST(content_of(path) == last);
    }
  }
}

BOOST_AUTO_TEST_CASE(commits_other_transactions_on_a_disk_that_is_full) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    auto const path = create(disk / "data", 2);
    auto last = text(1);
    {
      journaled file{path};
      or_throw(file.commit(last, level::power)); // puts blocks behind all of the content
      fill_to_the_last_block(disk);
      auto const full = file.commit(text(2), level::power);
      found.expect(fails(full, std::errc::no_space_on_device), "a transaction without blocks fails for that");
      last[0] = 'x';
      or_throw(file.commit(last, level::power));
    }
    found.expect(content_of(path) == last, "a later one is committed");
  });
}

// What the sync is about may as well be a page of the content.
BOOST_AUTO_TEST_CASE(does_nothing_more_when_the_sync_of_a_long_transaction_fails_for_want_of_blocks) {
  scratch const s;
  auto const path = create(s / "data", 2);
  {
    journaled file{path};
    {
      seam::armed const table;
      seam::fail(os::call::fdatasync, ENOSPC, 1);
      BOOST_TEST(fails(file.commit(text(1), level::power), std::errc::no_space_on_device));
    }
    BOOST_TEST(fails(file.commit(blank(), level::power), std::errc::no_space_on_device));
    BOOST_TEST(fails(file.log().checkpoint(), std::errc::no_space_on_device));
  }
  BOOST_TEST(content_of(path) == blank());
}

BOOST_AUTO_TEST_CASE(has_a_long_transaction_or_has_it_not_whichever_call_fails) {
  auto outcomes = std::set<bool>{};
  for (std::uint64_t nth = 1;; ++nth) {
    scratch const s{memory_folder()};
    auto const path = create(s / "data", 2);
    auto const before = with_first(blank(), 'x');
    auto is_over = false;
    {
      journaled file{path};
      or_throw(file.commit(before, level::process));
      seam::armed const table;
      seam::fail_nth(nth, EIO);
      auto const done = file.commit(text(1), level::process);
      is_over = seam::calls().size() < nth;
      BOOST_TEST(done.has_value() == is_over);
    }
    auto const found = content_of(path);
    BOOST_TEST((found == text(1) || (found == before && !is_over)));
    outcomes.insert(found == text(1));
    if (is_over) {
      break;
    }
  }
  BOOST_TEST(outcomes.size() == 2U);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_journal_without_direct_io)

BOOST_AUTO_TEST_CASE(works_through_the_page_cache) {
  scratch const s;
  auto const path = create(s / "data", 2);
  auto const last = with_first(text(1), 'x');
  {
    auto const file = os::open(os::working_directory, path.c_str(), {.write = true}, 0).value();
    auto log = or_throw(journal::log::open({.cached = file, .direct = file, .path = path.string()}));
    for (auto const& next : {text(1), last}) {
      journal::transaction all;
      for (std::size_t i = 0; i < (next == last ? 1 : content_pages); ++i) {
        all.change((log.content_begin() / journal::page_bytes) + i, next == last ? 1 : UINT64_MAX,
                   bytes_of(next).subspan(i * journal::page_bytes).first<journal::page_bytes>());
      }
      or_throw(log.commit(std::move(all), level::power, log.file_bytes()));
    }
    BOOST_TEST(os::close(file).has_value());
  }
  BOOST_TEST(content_of(path) == last);
}

BOOST_AUTO_TEST_CASE(does_without_it_when_the_first_write_or_read_is_refused) {
  for (auto const refused : {os::call::pwrite, os::call::pwritev2, os::call::pread}) {
    scratch const s;
    auto const path = s / "data";
    seam::armed const table;
    seam::fail(refused, EINVAL, 1);
    (void)create(path, 2);
    seam::fail(refused, EINVAL, 1);
    auto const last = with_first(text(1), 'x');
    {
      journaled file{path};
      or_throw(file.commit(text(1), level::power));
      or_throw(file.commit(last, level::process));
    }
    BOOST_TEST(seam::injected() == (refused == os::call::pread ? 1U : 2U),
               os::name_of(refused)); // create reads nothing
    BOOST_TEST(content_of(path) == last, os::name_of(refused));
  }
}

BOOST_AUTO_TEST_CASE(fails_for_other_reasons_and_when_it_is_refused_again) {
  scratch const s;
  auto const path = create(s / "data", 2);
  seam::armed const table;
  for (auto const& [code, times] : {std::pair{EIO, 1}, std::pair{EINVAL, 2}}) {
    journaled file{path};
    seam::fail(os::call::pwritev2, code, static_cast<std::uint64_t>(times));
    BOOST_TEST(fails_with(file.commit(with_first(blank(), 'x'), level::power), code));
    BOOST_TEST(fails_with(file.log().apply(), code));
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_journal_that_is_closed)

namespace {

// How often an opening drops what memory has.
auto drops_of(std::filesystem::path const& path) -> std::ptrdiff_t {
  seam::armed const table;
  journaled const file{path};
  return std::ranges::count(seam::calls(), os::call::posix_fadvise);
}

} // namespace

BOOST_AUTO_TEST_CASE(has_in_memory_what_is_on_the_disk) {
  scratch const s;
  auto const path = create(s / "data", 2);
  {
    journaled file{path};
    or_throw(file.commit(text(1), level::process));
    or_throw(file.log().close());
  }
  BOOST_TEST(drops_of(path) == 0);
  BOOST_TEST(content_of(path) == text(1)); // the header of the closing is about the same records
}

BOOST_AUTO_TEST_CASE(drops_what_memory_has_when_it_was_not) {
  scratch const s;
  auto const path = create(s / "data", 2);
  {
    journaled file{path};
    or_throw(file.log().close());
  }
  {
    journaled const file{path}; // which ends in the middle
  }
  BOOST_TEST(drops_of(path) == 1);
}

BOOST_AUTO_TEST_CASE(is_not_noted_after_an_error) {
  scratch const s;
  auto const path = create(s / "data", 2);
  {
    seam::armed const table;
    journaled file{path};
    or_throw(file.commit(with_first(blank(), 'x'), level::power));
    seam::fail(os::call::fdatasync, EIO, 1);
    BOOST_TEST(fails_with(file.log().checkpoint(), EIO));
    auto const before = seam::calls().size();
    or_throw(file.log().close());
    BOOST_TEST(seam::calls().size() == before);
  }
  auto const bytes = read_back(path);
  for (std::size_t slot = 0; slot < journal::slot_count; ++slot) {
    auto const header = journal::value_at<journal::header>(bytes_of(bytes).subspan(slot * journal::page_bytes));
    BOOST_TEST(header.closed == 0U);
  }
}

BOOST_AUTO_TEST_SUITE_END()
