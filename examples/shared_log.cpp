// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A log that two processes append to and a third one reads, under a lock, while the writers are killed again and again:
// shared_log [FILE] [KILLS]
//
// A kill releases the lock, and may leave half a record at the end of the log. Who has the lock exclusively next cuts it
// off before it appends; who reads stops there. So a record is whole or the last one, whoever is killed when.

#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <expected>
#include <filesystem>
#include <random>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

import fmmap;

namespace {

// Comes before `words` numbers of content.
struct record_header {
  std::uint32_t words;
  std::uint16_t writer;
  std::uint16_t after_a_cut; // 1 when half a record has been cut off before this one was written
  std::uint64_t sequence;    // of its writer
  std::uint64_t checksum;    // of the content and of what is above
};

constexpr std::size_t records_per_batch = 64;

auto checksum_of(record_header const& header, std::span<std::byte const> content) -> std::uint64_t {
  auto sum = header.sequence * 4 + header.writer * 2U + header.after_a_cut;
  for (auto const word : fmmap::records<std::uint64_t>{content}) {
    sum = (sum ^ word) * 0x100'0000'01b3;
  }
  return sum;
}

struct log_state {
  std::size_t records = 0;
  std::size_t cuts = 0;
  std::uint64_t end = 0;                  // of the last whole record
  std::array<std::uint64_t, 2> next = {}; // sequence of each writer
};

// Goes over the whole records that follow those of `known`, and gives each to `look`.
auto go_over(std::span<std::byte const> bytes, log_state known, auto look) -> log_state {
  fmmap::byte_reader log{bytes};
  for (fmmap::or_throw(log.seek(known.end)); auto const header = log.read<record_header>();) {
    auto const content = log.bytes(header->words * sizeof(std::uint64_t));
    if (!content) {
      break; // cut short by a kill
    }
    look(*header, *content);
    ++known.records;
    known.cuts += header->after_a_cut;
    known.next.at(header->writer) = header->sequence + 1;
    known.end = log.position();
  }
  return known;
}

// Ends the program when a record is not as it was written, or one before it is missing.
auto check(std::span<std::byte const> bytes) -> log_state {
  std::array<std::uint64_t, 2> next = {};
  return go_over(bytes, {}, [&](record_header const& header, std::span<std::byte const> content) {
    if (header.writer > 1 || header.sequence != next[header.writer]++ ||
        header.checksum != checksum_of(header, content)) {
      std::printf("TORN: record %llu of writer %u\n", static_cast<unsigned long long>(header.sequence), header.writer);
      std::exit(1);
    }
  });
}

// Appends a batch of records under an exclusive lock, and another, until it is killed.
[[noreturn]] void write_records(char const* path, std::uint16_t writer) {
  log_state state;
  while (true) {
    auto [lock, log] = fmmap::or_throw(fmmap::open_locked(path)); // waits; from here on nobody else writes or reads
    state = go_over(log.bytes(), state, [](auto const&...) {});
    auto const has_half_a_record = log.size() > state.end;
    fmmap::or_throw(log.resize(state.end)); // what a killed writer has left of a record
    for (std::size_t i = 0; i < records_per_batch; ++i) {
      auto const sequence = state.next[writer] + i;
      std::vector<std::uint64_t> const words(10 + sequence % 50, sequence);
      auto const content = std::as_bytes(std::span{words});
      record_header header{.words = static_cast<std::uint32_t>(words.size()),
                           .writer = writer,
                           .after_a_cut = has_half_a_record && i == 0,
                           .sequence = sequence,
                           .checksum = 0};
      header.checksum = checksum_of(header, content);
      fmmap::or_throw(log.append(std::as_bytes(std::span{&header, 1})));
      for (auto const piece : fmmap::chunks(content, 64)) { // a kill between two of them leaves half a record
        fmmap::or_throw(log.append(piece));
      }
    }
  } // closes the file, then releases the lock
}

auto start_writer(char const* path, std::uint16_t writer) -> pid_t {
  auto const process = ::fork();
  if (process == 0) {
    write_records(path, writer);
  }
  if (process < 0) {
    std::perror("fork");
    std::exit(1);
  }
  return process;
}

void end(pid_t writer) {
  ::kill(writer, SIGKILL);
  ::waitpid(writer, nullptr, 0);
}

} // namespace

auto main(int argc, char** argv) -> int {
  auto const* const path = argc > 1 ? argv[1] : "shared_log.data";
  int kills = 40;
  if (argc > 2) {
    std::string_view const text{argv[2]};
    if (std::from_chars(text.data(), text.data() + text.size(), kills).ec != std::errc{} || kills < 1) {
      std::fputs("usage: shared_log [FILE] [KILLS]\n", stderr);
      return 2;
    }
  }
  std::filesystem::remove(path);
  (void)fmmap::or_throw(fmmap::file::create_new(path));
  std::array writers{start_writer(path, 0), start_writer(path, 1)};
  std::mt19937 random{std::random_device{}()};
  std::uniform_int_distribution<int> milliseconds{2, 15};
  std::size_t reads = 0;
  log_state last;
  for (int i = 0; i < kills; ++i) {
    auto const until = std::chrono::steady_clock::now() + std::chrono::milliseconds{milliseconds(random)};
    do {
      auto const [lock, log] = fmmap::or_throw(fmmap::open_locked_for_reading(path));
      auto const state = check(log.bytes());
      if (state.records < last.records) {
        std::printf("LOST: %zu records, %zu before\n", state.records, last.records);
        return 1;
      }
      last = state;
      ++reads;
    } while (std::chrono::steady_clock::now() < until);
    std::this_thread::sleep_for(
        std::chrono::milliseconds{milliseconds(random)}); // into the middle of what a writer does
    auto const victim = static_cast<std::uint16_t>(random() % 2);
    end(writers[victim]);
    writers[victim] = start_writer(path, victim);
  }
  for (auto const writer : writers) {
    end(writer);
  }
  if (last.next[0] == 0 || last.next[1] == 0) {
    std::puts("a writer has never had the lock");
    return 1;
  }
  std::printf("%d kills, %zu records by two writers, %zu reads, %zu half records cut off, 0 torn\n", kills,
              last.records, reads, last.cuts);
  std::filesystem::remove(path);
  return 0;
}
