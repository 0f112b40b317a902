// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What every benchmark program shares: how it is started, how rows of bars.json are registered, data to work on, and
// system calls that end the program when they fail.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <system_error>

#include <benchmark/benchmark.h>

namespace bench {

struct settings {
  std::filesystem::path folder; // where data files go
  bool smoke = false;           // the smallest sizes, once: only that it runs
};

// Of this run of the program.
auto current() noexcept -> settings const&;

// One way of doing what a row measures. Its name is "ours", "peer" or, for a peer that is shown beside, its own.
struct variant {
  char const* name;
  void (*run)(benchmark::State&);
};

enum class pace : unsigned char {
  fast, // up to microseconds, never waiting: many iterations a repetition, measured in the thread's processor time
  slow, // milliseconds and more: a repetition is one iteration, which the variant times with a `stopwatch`
};

void add_row(std::string_view id, pace speed, std::initializer_list<variant> variants);

// Runs what `add_rows` registers, as the command line says: [--smoke] [--dir DIR], and Google Benchmark's options.
auto run(int argc, char** argv, void (*add_rows)()) -> int;

// `full`, or `tiny` in a smoke run.
auto sized(std::size_t full, std::size_t tiny) -> std::size_t;

// The path of a file of `size` bytes, not all alike, that is in the page cache as reading it from the disk leaves it.
auto cached_file(std::size_t size) -> std::filesystem::path;

// Whether data in the folder can be made durable; where not, the benchmark is skipped with the reason.
auto is_durable(benchmark::State& state) -> bool;

// Waits until nothing is left to be written on the folder's file system, so that a measurement starts at rest.
void settle();

// Passes on what a system call returned, unless it failed: that ends the program.
template <class T>
auto checked(T value, char const* what) -> T {
  if (value == static_cast<T>(-1)) {
    throw std::system_error{errno, std::generic_category(), what};
  }
  return value;
}

// Times an iteration from its construction to `stop`.
class stopwatch {
public:
  explicit stopwatch(benchmark::State& state);
  void stop();

private:
  benchmark::State* state_;
  std::int64_t start_;
};

// Tells beside the time how much more memory than at its construction the process held at most, pages of files it maps
// included.
class peak_memory {
public:
  peak_memory();
  void tell(benchmark::State& state) const;

private:
  double before_;
};

} // namespace bench
