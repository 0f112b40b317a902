// SPDX-License-Identifier: MIT OR Apache-2.0
//
// fmmap.lock beside the system calls it stands for, and beside other locks of files.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <vector>

#include <benchmark/benchmark.h>
#include <boost/interprocess/sync/file_lock.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "raw.hpp"
#include "support.hpp"

import fmmap.core;
import fmmap.lock;

namespace {

using clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// --- Locks of a file, each with `lock` and `unlock` -------------------------------------------------------------------

auto writable(std::filesystem::path const& path) -> fmmap::file {
  return fmmap::or_throw(fmmap::file::open(path, {.access = fmmap::access::read_write}));
}

// The wait is without a limit.
template <fmmap::lock_kind Kind>
class by_fmmap {
public:
  explicit by_fmmap(std::filesystem::path const& path)
      : lock_{fmmap::or_throw(fmmap::file_lock::create(writable(path), fmmap::whole, Kind))} {}
  void lock() { lock_.lock(); }
  void unlock() { lock_.unlock(); }

private:
  fmmap::file_lock lock_;
};

std::size_t competitor = 0; // the number of this process among those that compete

enum class waiting : unsigned char { in_the_system, by_polling, the_first_by_polling };

template <waiting How>
class by_fmmap_with_limit {
public:
  explicit by_fmmap_with_limit(std::filesystem::path const& path)
      : lock_{fmmap::or_throw(fmmap::file_lock::create(writable(path)))} {
    if (How == waiting::by_polling || (How == waiting::the_first_by_polling && competitor == 0)) {
      fmmap::or_throw(fmmap::set_lock_signal(0));
    }
  }
  void lock() {
    if (!fmmap::or_throw(lock_.acquire_for(fmmap::lock_mode::exclusive, 10s))) {
      throw std::runtime_error{"the lock could not be had for 10 seconds"};
    }
  }
  void unlock() { lock_.unlock(); }

private:
  fmmap::file_lock lock_;
};

class by_fcntl {
public:
  explicit by_fcntl(std::filesystem::path const& path)
      : file_{bench::checked(::open(path.c_str(), O_RDWR | raw::open_flags), "open")} {}
  by_fcntl(by_fcntl const&) = delete;
  auto operator=(by_fcntl const&) -> by_fcntl& = delete;
  ~by_fcntl() { ::close(file_); }
  void lock() { change(F_WRLCK); }
  void unlock() { change(F_UNLCK); }

private:
  void change(short type) {
    struct flock all{};
    all.l_type = type;
    all.l_whence = SEEK_SET;
    bench::checked(::fcntl(file_, F_OFD_SETLK, &all), "fcntl");
  }

  int file_;
};

class by_flock {
public:
  explicit by_flock(std::filesystem::path const& path)
      : file_{bench::checked(::open(path.c_str(), O_RDWR | raw::open_flags), "open")} {}
  by_flock(by_flock const&) = delete;
  auto operator=(by_flock const&) -> by_flock& = delete;
  ~by_flock() { ::close(file_); }
  void lock() { bench::checked(::flock(file_, LOCK_EX | LOCK_NB), "flock"); }
  void unlock() { bench::checked(::flock(file_, LOCK_UN), "flock"); }

private:
  int file_;
};

class by_interprocess {
public:
  explicit by_interprocess(std::filesystem::path const& path) : lock_{path.c_str()} {}
  void lock() { lock_.lock(); }
  void unlock() { lock_.unlock(); }

private:
  boost::interprocess::file_lock lock_;
};

auto locked_file() -> std::filesystem::path { return bench::cached_file(4096); }

// --- lock.uncontended -------------------------------------------------------------------------------------------------

template <class Lock>
void uncontended(benchmark::State& state) {
  Lock lock{locked_file()};
  for (auto _ : state) {
    lock.lock();
    lock.unlock();
  }
}

// --- lock.fairness ----------------------------------------------------------------------------------------------------

constexpr std::size_t processes = 8;
constexpr auto hold = 50us;
constexpr timespec pause{.tv_sec = 0, .tv_nsec = 100'000};

// What one process has had of the lock.
struct share {
  std::size_t locks = 0;
  std::array<std::int64_t, 65'536> waits; // nanoseconds; the last is of the lock that came too late, if one did
  bool ended = false;
};

struct outcome {
  double smallest = 0;
  double largest = 0;
  double p99_wait = 0;
  double longest_wait = 0;
};

void spin_until(clock::time_point when) {
  while (clock::now() < when) {
  }
}

// Takes the lock again and again, as long as the run lasts.
template <class Lock>
void compete(share& mine, clock::time_point begin, clock::time_point end) {
  Lock lock{locked_file()};
  while (clock::now() < begin) {
    ::usleep(100);
  }
  for (auto asked = clock::now(); asked < end; asked = clock::now()) {
    std::size_t const round = mine.locks;
    {
      std::scoped_lock const guard{lock};
      auto const had = clock::now();
      mine.waits.at(round) = std::chrono::nanoseconds{std::min(had, end) - asked}.count();
      if (had >= end) {
        break;
      }
      ++mine.locks;
      spin_until(had + hold);
    }
    (void)::nanosleep(&pause, nullptr); // asleep: it is the lock that they compete for, and not the processors
  }
  mine.ended = true;
}

// Memory that forked processes share with this one.
class shares {
public:
  shares()
      : shares_{static_cast<share*>(
            ::mmap(nullptr, sizeof(share) * processes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))} {
    bench::checked(reinterpret_cast<std::intptr_t>(shares_), "mmap");
    std::uninitialized_default_construct_n(shares_, processes);
  }
  shares(shares const&) = delete;
  auto operator=(shares const&) -> shares& = delete;
  ~shares() { ::munmap(shares_, sizeof(share) * processes); }

  [[nodiscard]] auto all() const -> std::span<share> { return {shares_, processes}; }

private:
  share* shares_;
};

template <class Lock>
auto compete_all() -> outcome {
  shares const had;
  auto const begin = clock::now() + 50ms;
  auto const end = begin + (bench::current().smoke ? 20ms : 1500ms);
  (void)locked_file();
  for (auto& one : had.all()) {
    if (bench::checked(::fork(), "fork") == 0) {
      competitor = static_cast<std::size_t>(&one - had.all().data());
      try {
        compete<Lock>(one, begin, end);
      } catch (...) {
        ::_exit(1);
      }
      ::_exit(0);
    }
  }
  for (std::size_t i = 0; i < processes; ++i) {
    bench::checked(::wait(nullptr), "wait");
  }
  std::vector<std::int64_t> waits;
  for (auto const& one : had.all()) {
    if (!one.ended) {
      throw std::runtime_error{"a process that competed for the lock has failed"};
    }
    waits.insert(waits.end(), one.waits.begin(), one.waits.begin() + static_cast<std::ptrdiff_t>(one.locks));
    waits.push_back(one.waits.at(one.locks)); // 0, where all came in time
  }
  std::ranges::sort(waits);
  auto const [smallest, largest] = std::ranges::minmax(had.all(), {}, &share::locks);
  return {.smallest = static_cast<double>(smallest.locks),
          .largest = static_cast<double>(largest.locks),
          .p99_wait = static_cast<double>(waits[waits.size() * 99 / 100]),
          .longest_wait = static_cast<double>(waits.back())};
}

// The runs of one lock. The n-th repetitions of those who measure its smallest and its largest share are of the same run.
template <class Lock>
auto run_of(std::size_t& repetition) -> outcome const& {
  static std::vector<outcome> runs;
  if (repetition == runs.size()) {
    runs.push_back(compete_all<Lock>());
  }
  return runs.at(repetition++);
}

enum class measured : unsigned char { smallest, largest };

template <class Lock, measured What>
void fairness(benchmark::State& state) {
  static std::size_t repetition = 0;
  for (auto _ : state) {
    bench::stopwatch time{state};
    auto const& run = run_of<Lock>(repetition);
    time.stop();
    if (What == measured::largest) {
      state.counters["value"] = run.largest;
      continue;
    }
    state.counters["value"] = run.smallest;
    state.counters["largest"] = run.largest;
    state.counters["p99_wait_ns"] = run.p99_wait;
    state.counters["longest_wait_ns"] = run.longest_wait;
  }
}

// --- The rows ---------------------------------------------------------------------------------------------------------

void add_rows() {
  using bench::add_row;
  using bench::pace;
  using ours = by_fmmap<fmmap::lock_kind::open_file_description>;
  using ours_by_flock = by_fmmap<fmmap::lock_kind::flock>;
  add_row("lock.uncontended", pace::fast,
          {{"ours", uncontended<ours>},
           {"peer", uncontended<by_fcntl>},
           {"ours with flock", uncontended<ours_by_flock>},
           {"flock(2)", uncontended<by_flock>},
           {"Boost.Interprocess", uncontended<by_interprocess>}});
  add_row("lock.fairness", pace::slow,
          {{"ours", fairness<ours, measured::smallest>},
           {"peer", fairness<ours, measured::largest>},
           {"ours with a limit", fairness<by_fmmap_with_limit<waiting::in_the_system>, measured::smallest>},
           {"ours by polling", fairness<by_fmmap_with_limit<waiting::by_polling>, measured::smallest>},
           {"one that polls", fairness<by_fmmap_with_limit<waiting::the_first_by_polling>, measured::smallest>},
           {"ours with flock", fairness<ours_by_flock, measured::smallest>},
           {"Boost.Interprocess", fairness<by_interprocess, measured::smallest>}});
}

} // namespace

auto main(int argc, char** argv) -> int { return bench::run(argc, argv, add_rows); }
