// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory_resource>
#include <new>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"
#include "support/seed.hpp"

import fmmap.core;
import fmmap.pmr;

// A process that commits as fast as it can, and closes the heap or is killed again and again, beside others that read.

using fmmap::commit_durability;
using fmmap::errc;
using fmmap::or_throw;
using fmmap::persistent_heap;

namespace {

using monotonic = std::chrono::steady_clock;
using numbers = std::pmr::vector<std::uint64_t>;
using texts = std::pmr::map<std::uint64_t, std::pmr::string>;

constexpr std::size_t reader_count = 4;
constexpr std::uint64_t text_count = 200;
constexpr fmmap::heap_options options{.reserve = 16 << 20, .journal_size = 256 << 10};

// How long it goes on at least; a minute where FMMAP_THOROUGH is set.
auto duration() -> std::chrono::seconds {
  return std::chrono::seconds{std::getenv("FMMAP_THOROUGH") != nullptr ? 60 : 2};
}

// All that a commit has follows from its number, and lies on many pages.
auto size_of(std::uint64_t number) -> std::size_t { return 4'000 + (number % 7 * 1'000); }
auto element_of(std::uint64_t number, std::size_t index) -> std::uint64_t { return (number * 1'000'003) + index; }
auto text_of(std::uint64_t number, std::uint64_t key) -> std::string {
  return std::string(20 + ((number + key) % 60), static_cast<char>('a' + (((number * 7) + key) % 26)));
}

struct objects {
  std::uint64_t* number;
  numbers* elements;
  texts* by_key;

  explicit objects(persistent_heap& heap)
      : number{or_throw(heap.find_or_construct<std::uint64_t>("number"))},
        elements{or_throw(heap.find_or_construct<numbers>("elements"))},
        by_key{or_throw(heap.find_or_construct<texts>("texts"))} {}

  void change_to(std::uint64_t next) const {
    *number = next;
    elements->resize(size_of(next));
    for (std::size_t i = 0; i < elements->size(); ++i) {
      (*elements)[i] = element_of(next, i);
    }
    by_key->erase(next - 1);
    for (auto key = next; key < next + text_count; ++key) {
      (*by_key)[key] = text_of(next, key);
    }
  }
};

// The number of the commit that a heap shows; nothing where it shows a mixture.
auto commit_seen(persistent_heap const& heap) -> std::optional<std::uint64_t> {
  auto const number = *or_throw(heap.find<std::uint64_t const>("number"));
  auto const& elements = *or_throw(heap.find<numbers const>("elements"));
  auto const& by_key = *or_throw(heap.find<texts const>("texts"));
  auto is_whole = elements.size() == size_of(number) && by_key.size() == text_count;
  for (std::size_t i = 0; is_whole && i < elements.size(); ++i) {
    is_whole = elements[i] == element_of(number, i);
  }
  auto key = number;
  for (auto const& [at, text] : by_key) {
    is_whole = is_whole && at == key && text == std::string_view{text_of(number, key)};
    ++key;
  }
  return is_whole && or_throw(heap.check()).problems.empty() ? std::optional{number} : std::nullopt;
}

// What one process counts and others look at.
struct counts {
  struct reader {
    std::atomic<std::uint64_t> reads;
    std::atomic<std::uint64_t> excluded;
    std::atomic<std::uint64_t> torn;
    std::atomic<std::uint64_t> lost; // not the last commit that returned, nor the one under way
  };
  std::atomic<std::uint64_t> committed; // the number of the last commit that has returned
  std::atomic<std::uint64_t> commits;
  std::atomic<std::uint64_t> openings;
  std::atomic<std::uint64_t> excluded; // of writers
  std::array<reader, reader_count> readers;
};

// Whether it was long enough. Where others keep the processors busy, it is when everybody has had a turn.
auto is_over(counts const& all, monotonic::time_point begin) -> bool {
  constexpr auto longest = std::chrono::seconds{120};
  auto const passed = monotonic::now() - begin;
  auto const had_turns =
      all.openings > 1 && std::ranges::all_of(all.readers, [](auto const& one) { return one.reads > 0; });
  return passed >= longest || (passed >= duration() && had_turns);
}

// In memory that a process shares with its children.
class shared_counts {
public:
  shared_counts() {
    auto* const memory =
        ::mmap(nullptr, sizeof(counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); // all zeros
    if (memory == MAP_FAILED) {
      throw std::runtime_error("mmap");
    }
    all_ = new (memory) counts{};
  }
  shared_counts(shared_counts const&) = delete;
  auto operator=(shared_counts const&) -> shared_counts& = delete;
  ~shared_counts() { ::munmap(all_, sizeof(counts)); }

  auto operator*() const -> counts& { return *all_; }
  auto operator->() const -> counts* { return all_; }

private:
  counts* all_;
};

// Tries until it is not excluded; nothing when it is over.
template <class Open>
auto open_when_free(Open open, counts const& all, monotonic::time_point begin, std::atomic<std::uint64_t>& excluded)
    -> std::optional<persistent_heap> {
  while (!is_over(all, begin)) {
    auto opened = open();
    if (opened) {
      return std::move(*opened);
    }
    if (opened.error() != errc::in_use) {
      throw fmmap::system_error{opened.error()};
    }
    ++excluded;
    std::this_thread::sleep_for(std::chrono::microseconds{200});
  }
  return {};
}

// Opens the heap, commits so often, and closes it.
auto write(std::filesystem::path const& path, counts& all, std::uint64_t times, monotonic::time_point begin) -> int {
  auto heap = open_when_free([&] { return persistent_heap::open(path); }, all, begin, all.excluded);
  if (!heap) {
    return 0;
  }
  ++all.openings;
  if (!commit_seen(*heap)) {
    return 1;
  }
  objects const in{*heap};
  for (auto number = *in.number + 1; times > 0; ++number, --times) {
    in.change_to(number);
    or_throw(heap->commit(number % 16 == 0 ? commit_durability::power : commit_durability::process));
    all.committed = number;
    ++all.commits;
  }
  or_throw(heap->close());
  return 0;
}

// Looks at the heap again and again, and leaves it alone for twice as long as that takes.
auto read(std::filesystem::path const& path, counts const& all, counts::reader& mine, monotonic::time_point begin)
    -> int {
  while (auto heap = open_when_free([&] { return persistent_heap::open_read_only(path); }, all, begin, mine.excluded)) {
    auto const opened = monotonic::now();
    auto const committed = all.committed.load(); // no writer has the heap now
    auto const seen = commit_seen(*heap);
    mine.torn += seen ? 0 : 1;
    mine.lost += seen && (*seen == committed || *seen == committed + 1) ? 0 : 1;
    ++mine.reads;
    or_throw(heap->close());
    std::this_thread::sleep_for(2 * (monotonic::now() - opened));
  }
  return 0;
}

void create(std::filesystem::path const& path, counts& all) {
  auto heap = or_throw(persistent_heap::create(path, options));
  objects const in{heap};
  for (std::uint64_t key = 0; key < text_count; ++key) {
    in.by_key->emplace(key, "");
  }
  in.change_to(1);
  or_throw(heap.commit());
  all.committed = 1;
}

// One writer after the other, of which every second one is killed; returns how many were.
auto run_writers(std::filesystem::path const& path, counts& all, monotonic::time_point begin) -> int {
  std::mt19937 random{seed()};
  auto killed = 0;
  for (auto is_to_be_killed = false; !is_over(all, begin); is_to_be_killed = !is_to_be_killed) {
    auto const times = is_to_be_killed ? UINT64_MAX : 1 + (random() % 300);
    auto const child = start_child([&] { return write(path, all, times, begin); });
    if (is_to_be_killed) {
      std::this_thread::sleep_for(std::chrono::milliseconds{random() % 100});
      ::kill(child, SIGKILL);
    }
    auto const ended = end_of(child);
    BOOST_TEST((ended == 0 || (is_to_be_killed && ended == -SIGKILL)), "a writer ended with " << ended);
    killed += ended == -SIGKILL ? 1 : 0;
  }
  return killed;
}

} // namespace

BOOST_AUTO_TEST_SUITE(readers_beside_a_writer, *boost::unit_test::enable_if<!thread_sanitized>())

BOOST_AUTO_TEST_CASE(see_one_whole_commit_each_time_or_are_told_that_it_is_in_use) {
  scratch const folder;
  auto const path = folder / "heap";
  shared_counts const all;
  create(path, *all);
  auto const begin = monotonic::now();
  std::vector<pid_t> readers;
  for (auto& mine : all->readers) {
    readers.push_back(start_child([&] { return read(path, *all, mine, begin); }));
  }
  auto const killed = run_writers(path, *all, begin);
  for (auto const reader : readers) {
    BOOST_TEST(end_of(reader) == 0);
  }
  std::uint64_t reads = 0;
  std::uint64_t excluded = 0;
  for (auto const& each : all->readers) {
    BOOST_TEST(each.torn == 0U);
    BOOST_TEST(each.lost == 0U);
    BOOST_TEST(each.reads > 0U);
    reads += each.reads;
    excluded += each.excluded;
  }
  BOOST_TEST(all->openings > 1U);
  std::cout << duration().count() << " s: " << all->commits << " commits in " << all->openings << " openings, "
            << killed << " writers killed, " << all->excluded << " times excluded; " << reads << " reads by "
            << reader_count << " readers, " << excluded << " times excluded\n";
}

BOOST_AUTO_TEST_SUITE_END()
