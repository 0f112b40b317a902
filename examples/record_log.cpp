// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A log of fixed records in a growing mapped file, whose writer is killed again and again: record_log [FILE] [KILLS]
//
// Each writer reopens the log, goes on where it ends, appends, flushes and only then acknowledges. After each kill the
// log is read back: every acknowledged record has to be there, in order, and before a record that the kill tore apart
// nothing but whole ones.

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

#include <sys/wait.h>
#include <unistd.h>

import fmmap;

namespace {

struct record {
  std::uint64_t sequence;
  std::uint64_t payload[6];
  std::uint64_t checksum;
};

constexpr std::uint64_t records_per_flush = 64;

auto make_record(std::uint64_t sequence) -> record {
  record r{.sequence = sequence, .payload = {}, .checksum = sequence};
  for (auto& word : r.payload) {
    word = r.checksum * 0x9e37'79b9'7f4a'7c15 + 1;
    r.checksum ^= word;
  }
  return r;
}

auto open_log(char const* path) -> fmmap::mutable_mapped_file {
  return fmmap::or_throw(fmmap::mutable_mapped_file::open(path, {.reserve = std::size_t{1} << 30}));
}

// Appends until it is killed, and tells each record it has flushed down the pipe.
[[noreturn]] void write_records(char const* path, int acknowledge) {
  auto log = open_log(path);
  auto const torn = log.size() % sizeof(record); // the one record a kill can interrupt
  fmmap::or_throw(log.resize(log.size() - torn));
  for (auto next = log.size() / sizeof(record);; ++next) {
    auto const r = make_record(next);
    fmmap::or_throw(log.append(std::as_bytes(std::span{&r, 1})));
    if ((next + 1) % records_per_flush == 0) {
      fmmap::or_throw(log.flush());
      if (::write(acknowledge, &next, sizeof next) != sizeof next) {
        std::_Exit(1);
      }
    }
  }
}

// How many correct records the log holds; ends the program when a whole one is not.
auto count_records(char const* path) -> std::uint64_t {
  auto const log = fmmap::or_throw(fmmap::mapped_file::open(path));
  std::uint64_t count = 0;
  record r;
  while (log.read_at(count * sizeof r, std::as_writable_bytes(std::span{&r, 1})) == sizeof r) {
    auto const expected = make_record(count);
    if (std::memcmp(&r, &expected, sizeof r) != 0) {
      std::printf("DAMAGED: record %llu\n", static_cast<unsigned long long>(count));
      std::exit(1);
    }
    ++count;
  }
  return count;
}

// Runs one writer for a random time. Returns how many records it had acknowledged when it was killed, or 0.
auto run_and_kill(char const* path, std::chrono::microseconds time) -> std::uint64_t {
  int ends[2];
  if (::pipe(ends) != 0) {
    std::perror("pipe");
    std::exit(1);
  }
  auto const writer = ::fork();
  if (writer == 0) {
    ::close(ends[0]);
    write_records(path, ends[1]);
  }
  ::close(ends[1]);
  std::this_thread::sleep_for(time);
  ::kill(writer, SIGKILL);
  ::waitpid(writer, nullptr, 0);
  std::uint64_t last = 0;
  std::uint64_t acknowledged = 0;
  while (::read(ends[0], &last, sizeof last) == sizeof last) {
    acknowledged = last + 1;
  }
  ::close(ends[0]);
  return acknowledged;
}

} // namespace

auto main(int argc, char** argv) -> int {
  auto const* const path = argc > 1 ? argv[1] : "record_log.data";
  int kills = 50;
  if (argc > 2) {
    std::string_view const text{argv[2]};
    if (std::from_chars(text.data(), text.data() + text.size(), kills).ec != std::errc{} || kills < 1) {
      std::fputs("usage: record_log [FILE] [KILLS]\n", stderr);
      return 2;
    }
  }
  std::filesystem::remove(path);
  std::mt19937 random{std::random_device{}()};
  std::uniform_int_distribution<int> milliseconds{5, 40};
  std::uint64_t acknowledged = 0;
  for (int i = 0; i < kills; ++i) {
    auto const told = run_and_kill(path, std::chrono::milliseconds{milliseconds(random)});
    acknowledged = told > acknowledged ? told : acknowledged;
    if (!std::filesystem::exists(path)) {
      continue; // killed before it created the log
    }
    if (auto const found = count_records(path); found < acknowledged) {
      std::printf("LOST: %llu records acknowledged, %llu found after kill %d\n",
                  static_cast<unsigned long long>(acknowledged), static_cast<unsigned long long>(found), i + 1);
      return 1;
    }
  }
  if (acknowledged == 0) {
    std::puts("no writer lived long enough to acknowledge a record");
    return 1;
  }
  std::printf("%d kills, %d reopens, %llu records acknowledged, 0 lost\n", kills, kills,
              static_cast<unsigned long long>(acknowledged));
  std::filesystem::remove(path);
  return 0;
}
