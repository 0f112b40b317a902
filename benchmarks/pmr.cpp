// SPDX-License-Identifier: MIT OR Apache-2.0
//
// fmmap.pmr beside other allocators over mappings, and beside those of ordinary memory.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <memory_resource>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <boost/interprocess/allocators/allocator.hpp>
#include <boost/interprocess/containers/map.hpp>
#include <boost/interprocess/managed_mapped_file.hpp>

#include <dlfcn.h>
#include <sys/mman.h>

#include "support.hpp"

import fmmap.core;
import fmmap.pmr;

namespace {

namespace ip = boost::interprocess;
using clock = std::chrono::steady_clock;

constexpr std::size_t mib = std::size_t{1} << 20;

// --- Memory resources, each made anew for a variant -------------------------------------------------------------------

struct in_memory {
  std::unique_ptr<fmmap::mapped_resource> made =
      fmmap::or_throw(fmmap::mapped_resource::anonymous({.reserve = 1024 * mib}));
  auto get() -> std::pmr::memory_resource* { return made.get(); }
};

struct in_a_file {
  std::unique_ptr<fmmap::mapped_resource> made = fmmap::or_throw(fmmap::mapped_resource::temporary(
      bench::current().folder, {.reserve = 1024 * mib, .page_size = fmmap::page_size::prefer_huge}));
  auto get() -> std::pmr::memory_resource* { return made.get(); }
};

struct new_delete {
  auto get() -> std::pmr::memory_resource* { return std::pmr::new_delete_resource(); }
};

struct unsynchronized_pool {
  std::pmr::unsynchronized_pool_resource made;
  auto get() -> std::pmr::memory_resource* { return &made; }
};

struct synchronized_pool {
  std::pmr::synchronized_pool_resource made;
  auto get() -> std::pmr::memory_resource* { return &made; }
};

// Loaded for itself alone: linked, it would take the place of malloc in the whole program.
class mimalloc_library {
public:
  static auto get() -> mimalloc_library const& {
    static mimalloc_library const loaded;
    return loaded;
  }

  int (*version)();
  bool (*manage)(void*, std::size_t, bool, bool, bool, int, bool, int*);
  void* (*heap_in_arena)(int);
  void* (*allocate)(void*, std::size_t, std::size_t);
  void (*free)(void*);

private:
  mimalloc_library() {
    auto* const library = ::dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      throw std::runtime_error{"SKIP: libmimalloc.so.2 was not found: apt-get install libmimalloc2.0"};
    }
    find(library, version, "mi_version");
    find(library, manage, "mi_manage_os_memory_ex");
    find(library, heap_in_arena, "mi_heap_new_in_arena");
    find(library, allocate, "mi_heap_malloc_aligned");
    find(library, free, "mi_free");
  }

  template <class Function>
  static void find(void* library, Function*& function, char const* name) {
    function = reinterpret_cast<Function*>(::dlsym(library, name));
    if (function == nullptr) {
      throw std::runtime_error{std::string{"SKIP: libmimalloc has no "} + name};
    }
  }
};

// An arena is never given back, so there is one.
class mimalloc_arena final : public std::pmr::memory_resource {
public:
  static auto get() -> std::pmr::memory_resource* {
    static mimalloc_arena made;
    return &made;
  }

private:
  static constexpr std::size_t segment = 32 * mib;

  mimalloc_arena() {
    auto const size = 256 * mib;
    auto const memory =
        bench::checked(reinterpret_cast<std::intptr_t>(::mmap(nullptr, size + segment, PROT_READ | PROT_WRITE,
                                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)),
                       "mmap");
    auto const address = (static_cast<std::uintptr_t>(memory) + segment - 1) / segment * segment;
    int arena = 0;
    if (!library_.manage(reinterpret_cast<void*>(address), size, true, false, true, -1, true, &arena)) {
      throw std::runtime_error{"mimalloc did not take the arena"};
    }
    heap_ = library_.heap_in_arena(arena);
  }

  auto do_allocate(std::size_t size, std::size_t alignment) -> void* override {
    auto* const block = library_.allocate(heap_, size, alignment);
    return block != nullptr ? block : throw std::bad_alloc{};
  }
  void do_deallocate(void* block, std::size_t, std::size_t) override { library_.free(block); }
  auto do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool override { return this == &other; }

  mimalloc_library const& library_ = mimalloc_library::get();
  void* heap_ = nullptr;
};

struct mimalloc {
  auto get() -> std::pmr::memory_resource* { return mimalloc_arena::get(); }
};

// A file of Boost.Interprocess's, gone with the object.
struct managed_file {
  std::filesystem::path path = bench::current().folder / "managed";
  ip::managed_mapped_file made;

  managed_file() : made{ip::create_only, clean(path).c_str(), bench::sized(256, 16) * mib} {}
  managed_file(managed_file const&) = delete;
  auto operator=(managed_file const&) -> managed_file& = delete;
  ~managed_file() { std::filesystem::remove(path); }

  static auto clean(std::filesystem::path const& old) -> std::filesystem::path const& {
    std::filesystem::remove(old);
    return old;
  }
};

class managed_resource final : public std::pmr::memory_resource {
  auto do_allocate(std::size_t size, std::size_t) -> void* override { return file_.made.allocate(size); }
  void do_deallocate(void* block, std::size_t, std::size_t) override { file_.made.deallocate(block); }
  auto do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool override { return this == &other; }

  managed_file file_;
};

struct interprocess {
  managed_resource made;
  auto get() -> std::pmr::memory_resource* { return &made; }
};

// --- pmr.churn --------------------------------------------------------------------------------------------------------

// 50 000 objects, of which each step frees one and allocates another: 94 of 100 have 16 to 127 bytes, the others up to 1.5 KiB.
class churn {
public:
  churn(std::pmr::memory_resource& from, unsigned seed) : from_{from}, objects_(bench::sized(50'000, 500)) {
    std::mt19937 random{seed};
    auto const size = [&] { return random() % 100 < 94 ? 16 + random() % 112 : 128 + random() % (1536 - 128); };
    for (auto& step : steps_) {
      step = {.object = static_cast<std::uint32_t>(random() % objects_.size()),
              .size = static_cast<std::uint32_t>(size())};
    }
    for (auto& object : objects_) {
      object.allocate(from_, size());
    }
  }
  churn(churn const&) = delete;
  auto operator=(churn const&) -> churn& = delete;
  ~churn() {
    for (auto& object : objects_) {
      object.deallocate(from_);
    }
  }

  void step() {
    auto const& next = steps_[at_++ % steps_.size()];
    auto& object = objects_[next.object];
    object.deallocate(from_);
    object.allocate(from_, next.size);
  }

private:
  struct object {
    std::uint64_t* memory = nullptr;
    std::size_t size = 0;

    // Who allocates, writes: what a first touch costs is part of it.
    void allocate(std::pmr::memory_resource& from, std::size_t bytes) {
      size = bytes;
      memory = static_cast<std::uint64_t*>(from.allocate(bytes));
      *memory = bytes;
    }
    void deallocate(std::pmr::memory_resource& to) const { to.deallocate(memory, size); }
  };
  struct change {
    std::uint32_t object;
    std::uint32_t size;
  };

  std::pmr::memory_resource& from_;
  std::vector<object> objects_;
  std::array<change, 1 << 16> steps_;
  std::size_t at_ = 0;
};

template <class Resource>
void churn_alone(benchmark::State& state) {
  try {
    bench::peak_memory const memory;
    Resource resource;
    auto const work = std::make_unique<churn>(*resource.get(), 1);
    for (int i = 0; i < 100'000; ++i) {
      work->step();
    }
    for (auto _ : state) {
      work->step();
    }
    memory.tell(state);
    if constexpr (std::is_same_v<Resource, mimalloc>) {
      state.counters["mi_version"] = mimalloc_library::get().version();
    }
  } catch (std::runtime_error const& why) {
    state.SkipWithError(why.what());
  }
}

// How long `threads` of them take for so many steps each, in seconds, from the moment at which all of them have begun.
auto churn_together(std::pmr::memory_resource& resource, unsigned threads, std::size_t steps) -> double {
  std::vector<double> seconds(threads);
  std::atomic<unsigned> ready{0};
  std::vector<std::jthread> working;
  for (unsigned i = 0; i < threads; ++i) {
    working.emplace_back([&, i] {
      auto const work = std::make_unique<churn>(resource, i + 1);
      for (std::size_t step = 0; step < steps / 10; ++step) {
        work->step();
      }
      ready.fetch_add(1);
      while (ready < threads) {
      }
      auto const start = clock::now();
      for (std::size_t step = 0; step < steps; ++step) {
        work->step();
      }
      seconds[i] = std::chrono::duration<double>{clock::now() - start}.count();
      ready.fetch_add(1);
      while (ready < 2 * threads) { // both go on until both have been measured
        work->step();
      }
    });
  }
  working.clear();
  return *std::ranges::max_element(seconds);
}

// How many times as much two threads get done in the same time.
template <class Resource>
void churn_gain(benchmark::State& state) {
  auto const steps = bench::sized(2'000'000, 1'000);
  for (auto _ : state) {
    Resource resource;
    bench::stopwatch time{state};
    auto const alone = churn_together(*resource.get(), 1, steps);
    auto const together = churn_together(*resource.get(), 2, steps);
    time.stop();
    state.counters["value"] = 2 * alone / together;
  }
}

// --- pmr.map ----------------------------------------------------------------------------------------------------------

auto keys() -> std::vector<std::uint64_t> const& {
  static auto const made = [] {
    std::vector<std::uint64_t> random(bench::sized(1'000'000, 1'000));
    std::mt19937_64 source{7};
    std::ranges::generate(random, std::ref(source));
    return random;
  }();
  return made;
}

struct std_map_in_a_file {
  in_a_file file;
  std::pmr::map<std::uint64_t, std::uint64_t> map{file.get()};
};

// The nodes one after the other in pages of 2 MiB, and nothing spent on allocating: what the map itself takes.
struct std_map_in_a_buffer {
  fmmap::mapping memory =
      fmmap::or_throw(fmmap::mapping::anonymous(128 * mib, {.page_size = fmmap::page_size::prefer_huge}));
  std::pmr::monotonic_buffer_resource buffer{memory.writable_bytes().data(), memory.size(),
                                             std::pmr::null_memory_resource()};
  std::pmr::map<std::uint64_t, std::uint64_t> map{&buffer};
};

struct interprocess_map {
  using entry = std::pair<std::uint64_t const, std::uint64_t>;
  using allocator = ip::allocator<entry, ip::managed_mapped_file::segment_manager>;

  managed_file file;
  ip::map<std::uint64_t, std::uint64_t, std::less<>, allocator> map{allocator{file.made.get_segment_manager()}};
};

template <class Map>
void fill(Map& map) {
  for (auto const key : keys()) {
    map.map.emplace(key, key);
  }
}

template <class Map>
void map_insert(benchmark::State& state) {
  for (auto _ : state) {
    bench::peak_memory const memory;
    Map map;
    bench::stopwatch time{state};
    fill(map);
    time.stop();
    memory.tell(state);
  }
}

// Filled once for all repetitions.
template <class Map>
auto filled() -> Map& {
  static auto const made = [] {
    auto map = std::make_unique<Map>();
    fill(*map);
    return map;
  }();
  return *made;
}

template <class Map>
void map_find(benchmark::State& state) {
  auto& map = filled<Map>();
  auto wanted = keys();
  std::ranges::shuffle(wanted, std::mt19937{3});
  for (auto _ : state) {
    bench::stopwatch time{state};
    std::uint64_t total = 0;
    for (auto const key : wanted) {
      total += map.map.find(key)->second;
    }
    benchmark::DoNotOptimize(total);
    time.stop();
  }
}

template <class Map>
void map_walk(benchmark::State& state) {
  auto& map = filled<Map>();
  for (auto _ : state) {
    bench::stopwatch time{state};
    std::uint64_t total = 0;
    for (auto const& [key, value] : map.map) {
      total += value;
    }
    benchmark::DoNotOptimize(total);
    time.stop();
  }
}

// --- pmr.overhead -----------------------------------------------------------------------------------------------------

// Passes requests on and counts their bytes.
class counting final : public std::pmr::memory_resource {
public:
  explicit counting(std::pmr::memory_resource& upstream) : upstream_{upstream} {}
  [[nodiscard]] auto live() const -> std::size_t { return live_; }
  [[nodiscard]] auto peak() const -> std::size_t { return peak_; }

private:
  auto do_allocate(std::size_t size, std::size_t alignment) -> void* override {
    auto* const block = upstream_.allocate(size, alignment);
    peak_ = std::max(peak_, live_ += size);
    return block;
  }
  void do_deallocate(void* block, std::size_t size, std::size_t alignment) override {
    upstream_.deallocate(block, size, alignment);
    live_ -= size;
  }
  auto do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool override { return this == &other; }

  std::pmr::memory_resource& upstream_;
  std::size_t live_ = 0;
  std::size_t peak_ = 0;
};

template <std::size_t Size>
struct element {
  std::array<std::uint64_t, Size / sizeof(std::uint64_t)> words{};
};

template <std::size_t Size>
void grow(std::pmr::vector<element<Size>>& vector, std::size_t until) {
  if (vector.size() * Size < until) {
    vector.emplace_back();
  }
}

// 300 vectors of elements of 8, 24 and 40 bytes, which grow one element a turn: to sizes from 16 bytes to 16 MiB, as many of
// each order.
struct bytes_counted {
  fmmap::resource_stats ours;
  std::size_t live;
  std::size_t peak;
};

auto count_bytes() -> bytes_counted {
  in_memory resource;
  counting counted{*resource.get()};
  std::mt19937 random{5};
  std::vector<std::size_t> sizes(100);
  std::ranges::generate(sizes, [&] { return std::size_t{16} << (random() % bench::sized(21, 8)); });
  std::vector<std::pmr::vector<element<8>>> eights;
  std::vector<std::pmr::vector<element<24>>> twenty_fours;
  std::vector<std::pmr::vector<element<40>>> forties;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    eights.emplace_back(&counted);
    twenty_fours.emplace_back(&counted);
    forties.emplace_back(&counted);
  }
  auto const largest = *std::ranges::max_element(sizes);
  for (std::size_t turn = 0; turn < largest / 8; ++turn) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      grow(eights[i], sizes[i]);
      grow(twenty_fours[i], sizes[i]);
      grow(forties[i], sizes[i]);
    }
  }
  return {.ours = resource.made->stats(), .live = counted.live(), .peak = counted.peak()};
}

// The same each time, so it is done once.
template <bool Peak, bool Ours>
void overhead(benchmark::State& state) {
  static auto const counted = count_bytes();
  for (auto _ : state) {
    bench::stopwatch time{state};
    auto const measured =
        Peak ? (Ours ? counted.ours.peak_bytes : counted.peak) : (Ours ? counted.ours.used_bytes : counted.live);
    state.counters["value"] = static_cast<double>(measured);
    time.stop();
  }
}

// --- The rows ---------------------------------------------------------------------------------------------------------

void add_rows() {
  using bench::add_row;
  using bench::pace;
  add_row("pmr.churn_1t", pace::fast,
          {{"ours", churn_alone<in_memory>},
           {"peer", churn_alone<mimalloc>},
           {"ours in a file", churn_alone<in_a_file>},
           {"new and delete", churn_alone<new_delete>}});
  add_row("pmr.churn_2t", pace::slow,
          {{"ours", churn_gain<in_memory>},
           {"peer", churn_gain<new_delete>},
           {"synchronized_pool_resource", churn_gain<synchronized_pool>}});
  add_row("pmr.churn_pool", pace::fast, {{"ours", churn_alone<in_memory>}, {"peer", churn_alone<unsynchronized_pool>}});
  add_row("pmr.churn_interprocess", pace::fast,
          {{"ours", churn_alone<in_a_file>}, {"peer", churn_alone<interprocess>}});
  add_row("pmr.map_insert", pace::slow,
          {{"ours", map_insert<std_map_in_a_file>},
           {"peer", map_insert<interprocess_map>},
           {"monotonic_buffer_resource", map_insert<std_map_in_a_buffer>}});
  add_row("pmr.map_find", pace::slow,
          {{"ours", map_find<std_map_in_a_file>},
           {"peer", map_find<interprocess_map>},
           {"monotonic_buffer_resource", map_find<std_map_in_a_buffer>}});
  add_row("pmr.map_walk", pace::slow,
          {{"ours", map_walk<std_map_in_a_file>},
           {"peer", map_walk<interprocess_map>},
           {"monotonic_buffer_resource", map_walk<std_map_in_a_buffer>}});
  add_row("pmr.overhead", pace::slow, {{"ours", overhead<false, true>}, {"peer", overhead<false, false>}});
  add_row("pmr.overhead_peak", pace::slow, {{"ours", overhead<true, true>}, {"peer", overhead<true, false>}});
}

} // namespace

auto main(int argc, char** argv) -> int { return bench::run(argc, argv, add_rows); }
