// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Takes its input for records, references and other bytes in the file of a journal, makes all checksums right, and compares
// what a reader finds, what opening leaves, and what opening leaves that is interrupted and done again.

#include <algorithm>
#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "script.hpp"

#include "support/sealing.hpp"

import fmmap.core;
import fmmap.journal;
import fmmap.os;

namespace {

namespace journal = fmmap::journal;

using journal::page_bytes;
using bytes = std::vector<std::byte>;

constexpr std::size_t ring_pages = 8;
constexpr std::size_t content_pages = 4;
constexpr std::size_t spilled_pages = 12;
constexpr auto content_begin = journal::ring_begin + (ring_pages * page_bytes);
constexpr auto file_end = content_begin + (content_pages * page_bytes);
constexpr auto spill_at = file_end + page_bytes;
constexpr std::uint64_t salt = 5;
constexpr rlim_t longest_file = rlim_t{64} << 20U;               // whatever a header says
constexpr std::uint64_t compared_bytes = std::uint64_t{1} << 20; // of the file at the most

// --- The file ---------------------------------------------------------------------------------------------------------

auto memory_file() -> int {
  static auto const file = [] {
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit const limit{.rlim_cur = longest_file, .rlim_max = longest_file};
    require(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    return ::memfd_create("journal", MFD_CLOEXEC);
  }();
  require(file >= 0);
  return file;
}

void write_file(bytes const& all) {
  require(::ftruncate(memory_file(), 0) == 0);
  require(::pwrite(memory_file(), all.data(), all.size(), 0) == static_cast<ssize_t>(all.size()));
}

auto read_file(std::uint64_t from, std::uint64_t to) -> bytes {
  bytes all(static_cast<std::size_t>(std::max(from, std::min(to, compared_bytes)) - from));
  require(::pread(memory_file(), all.data(), all.size(), static_cast<off_t>(from)) >= 0);
  return all;
}

auto journaled() -> journal::journaled_file {
  auto const file = fmmap::os::descriptor{memory_file()};
  return {.cached = file, .direct = file, .path = "journal"};
}

// --- What an input makes of it ----------------------------------------------------------------------------------------

void put(bytes& to, std::uint64_t at, std::span<std::byte const> what) {
  auto const begin = std::min<std::uint64_t>(at, to.size());
  auto const count = std::min<std::uint64_t>(what.size(), to.size() - begin);
  std::ranges::copy(what.first(count), to.begin() + static_cast<std::ptrdiff_t>(begin));
}

template <class T>
void put(bytes& to, std::uint64_t at, T const& value) {
  put(to, at, std::as_bytes(std::span{&value, 1}));
}

auto header(std::uint64_t generation, std::uint64_t sequence) -> journal::slot {
  journal::slot one;
  one.about = {.magic = journal::header_magic,
               .checksum = 0,
               .generation = generation,
               .salt = salt,
               .sequence = sequence,
               .tail = 0,
               .ring_bytes = ring_pages * page_bytes,
               .file_bytes = file_end,
               .spill_at = spill_at,
               .closed = generation % 2};
  return one;
}

// Complete, about some lines of some pages, the next one or another.
auto make_record(script& input, std::uint64_t& sequence) -> journal::transaction {
  constexpr std::uint64_t first = content_begin / page_bytes;
  std::array<std::byte, page_bytes> content{};
  journal::transaction made;
  for (auto changes = input.byte() % 8U; changes > 0; --changes) {
    content.fill(std::byte{input.byte()});
    auto const page = input.byte();
    auto const lines = input.number<std::uint64_t>();
    made.change(page < 128 ? first + (page % content_pages) : std::uint64_t{page} % 32, lines, content);
  }
  auto const usual = input.byte();
  auto about = header(0, 0).about;
  about.salt = usual % 16 == 1 ? input.byte() : salt;
  made.seal(about, usual % 16 == 2 ? input.byte() : sequence++, file_end - (usual % 16 == 3 ? page_bytes : 0));
  return made;
}

void change_once(bytes& file, script& input, std::uint64_t& sequence, std::uint64_t& head) {
  auto const what = input.byte() % 6;
  auto const elsewhere = journal::ring_begin + (input.byte() % ring_pages * page_bytes);
  switch (what) {
  case 0:
  case 1: {
    auto const made = make_record(input, sequence);
    auto const at = what == 0 ? journal::ring_begin + head : elsewhere;
    put(file, at, std::as_bytes(made.pages()));
    head = (head + made.size_in_ring()) % (ring_pages * page_bytes);
    break;
  }
  case 2: {
    auto const made = make_record(input, sequence);
    put(file, spill_at, std::as_bytes(made.pages()));
    put(file, journal::ring_begin + head, journal::reference_to(made.view(), spill_at));
    head = (head + page_bytes) % (ring_pages * page_bytes);
    break;
  }
  case 3: {
    auto const slot = (input.byte() % 2) * page_bytes;
    put(file, slot + (input.byte() % (sizeof(journal::header) / 8) * 8), input.number<std::uint64_t>());
    break;
  }
  case 4:
    put(file, elsewhere + (input.byte() * 8U), input.number<std::uint64_t>());
    break;
  default:
    put(file, elsewhere + (input.byte() * 8U), std::as_bytes(input.take(input.byte())));
    break;
  }
}

auto make_file(script& input) -> bytes {
  bytes file(spill_at + (spilled_pages * page_bytes));
  std::uint64_t sequence = input.byte() % 4 == 0 ? UINT64_MAX : 9;
  std::uint64_t head = 0;
  put(file, 0, header(1, sequence));
  put(file, page_bytes, header(2, sequence));
  for (auto changes = input.byte() % 16U; changes > 0; --changes) {
    change_once(file, input, sequence, head);
  }
  auto const all = std::span{file};
  seal_header(all.first<page_bytes>());
  seal_header(all.subspan<page_bytes, page_bytes>());
  seal_ring(all.subspan(journal::ring_begin, ring_pages * page_bytes));
  if (input.byte() % 4 == 0) {
    file.resize(input.number<std::uint16_t>() * std::size_t{16} % (file.size() + 1));
  }
  return file;
}

// --- What is compared -------------------------------------------------------------------------------------------------

struct found {
  std::uint64_t content_begin;
  std::uint64_t sequence;
  std::uint64_t file_bytes;
  bytes content;

  auto operator==(found const&) const -> bool = default;
};

auto found_by(journal::log const& log) -> found {
  return {.content_begin = log.content_begin(),
          .sequence = log.sequence(),
          .file_bytes = log.file_bytes(),
          .content = read_file(log.content_begin(), log.file_bytes())};
}

// What a reader sees: what is in place, and over it what is in records. Those may be about pages that the last one does not
// have any more.
auto examine() -> fmmap::result<found> {
  auto const log = journal::log::examine(journaled());
  if (!log) {
    return std::unexpected(log.error());
  }
  auto seen = found_by(*log);
  log->for_each_unapplied([&](std::uint64_t page, std::uint64_t lines, std::span<std::byte const> content) {
    require(page * page_bytes >= log->content_begin() && page < log->spill_at() / page_bytes);
    journal::for_each_line(lines, content, [&](std::size_t line, std::span<std::byte const> now) {
      auto const at = (page * page_bytes) + (line * journal::line_bytes) - log->content_begin();
      if (at < seen.content.size()) {
        put(seen.content, at, now);
      }
    });
  });
  return seen;
}

auto open() -> fmmap::result<found> {
  auto const log = journal::log::open(journaled());
  if (!log) {
    return std::unexpected(log.error());
  }
  return found_by(*log);
}

// Makes header and journal as they were, as if the header had not been written.
void interrupt(bytes const& before, found const& opened) {
  auto const restore = [&](std::uint64_t from, std::uint64_t to) {
    auto const part = std::span{before}.first(std::min<std::uint64_t>(to, before.size())).subspan(from);
    require(::pwrite(memory_file(), part.data(), part.size(), static_cast<off_t>(from)) ==
            static_cast<ssize_t>(part.size()));
  };
  restore(0, opened.content_begin);
  restore(std::min<std::uint64_t>(opened.file_bytes, before.size()), before.size());
}

void commit_one_more(found const& last) {
  auto log = fmmap::or_throw(journal::log::open(journaled()));
  if (last.content.size() < page_bytes) {
    return;
  }
  journal::transaction more;
  std::array<std::byte, page_bytes> content{};
  content.fill(std::byte{0x77});
  more.change(log.content_begin() / page_bytes, 1, content);
  fmmap::or_throw(log.commit(std::move(more), journal::level::process, log.file_bytes()));
  auto const seen = fmmap::or_throw(open());
  require(seen.content.front() == std::byte{0x77} && seen.sequence == last.sequence + 1);
}

void compare(bytes const& before) {
  auto const seen = examine();
  require(read_file(0, before.size()) == before);
  auto const opened = open();
  if (!opened) {
    require(!seen || opened.error() == std::errc::file_too_large);
    return;
  }
  require(seen.has_value() && *seen == *opened);
  require(open() == *opened);
  if (before.size() >=
      opened->file_bytes) { // else a slot with a longer journal may count that the file was too short for
    interrupt(before, *opened);
    require(open() == *opened);
  }
  commit_one_more(fmmap::or_throw(open()));
}

} // namespace

extern "C" auto LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) -> int {
  script input{{data, size}};
  auto const file = make_file(input);
  write_file(file);
  compare(file);
  return 0;
}
