// SPDX-License-Identifier: MIT OR Apache-2.0
//
// fmmap.core beside the system calls it stands for, and beside other libraries.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <boost/interprocess/file_mapping.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <boost/iostreams/device/mapped_file.hpp>

#include <fcntl.h>
#include <unistd.h>

#include "compiler.hpp"
#include "raw.hpp"
#include "support.hpp"

import fmmap.core;

namespace {

namespace ip = boost::interprocess;
namespace io = boost::iostreams;

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;
constexpr std::size_t gib = 1024 * mib;

auto bytes_at(void const* data, std::size_t size) -> std::span<std::byte const> {
  return {static_cast<std::byte const*>(data), size};
}

// Each way to a file's bytes, as a call of `use` with them.

constexpr auto by_fmmap = [](std::filesystem::path const& path, auto use) {
  auto const file = fmmap::or_throw(fmmap::mapped_file::open(path));
  use(file.bytes());
};

constexpr auto by_raw = [](std::filesystem::path const& path, auto use) {
  raw::mapped_file const file{path.c_str()};
  use(file.bytes());
};

constexpr auto by_interprocess = [](std::filesystem::path const& path, auto use) {
  ip::file_mapping const file{path.c_str(), ip::read_only};
  ip::mapped_region const region{file, ip::read_only};
  use(bytes_at(region.get_address(), region.get_size()));
};

constexpr auto by_iostreams = [](std::filesystem::path const& path, auto use) {
  io::mapped_file_source const file{path.native()};
  use(bytes_at(file.data(), file.size()));
};

// --- core.open_4k -----------------------------------------------------------------------------------------------------

// The bytes are not touched: the page fault would cost more than all else, and the same everywhere.
template <auto Way>
void open_4k(benchmark::State& state) {
  auto const path = bench::cached_file(4 * kib);
  for (auto _ : state) {
    Way(path, [](std::span<std::byte const> bytes) { benchmark::DoNotOptimize(bytes.data()); });
  }
}

// --- core.file_view_4k ------------------------------------------------------------------------------------------------

void view_4k_ours(benchmark::State& state) {
  auto const path = bench::cached_file(4 * kib);
  for (auto _ : state) {
    auto const view = fmmap::or_throw(fmmap::file_view::open(path));
    benchmark::DoNotOptimize(view.bytes().data());
  }
}

void view_4k_raw(benchmark::State& state) {
  auto const path = bench::cached_file(4 * kib);
  for (auto _ : state) {
    auto const file = bench::checked(::open(path.c_str(), O_RDONLY | raw::open_flags), "open");
    auto const size = raw::size_of(file);
    auto const buffer = std::make_unique_for_overwrite<std::byte[]>(size);
    bench::checked(::pread(file, buffer.get(), size, 0), "pread");
    benchmark::DoNotOptimize(buffer.get());
    ::close(file);
  }
}

// --- core.seq, core.random --------------------------------------------------------------------------------------------

auto large_file() -> std::filesystem::path { return bench::cached_file(bench::sized(gib, mib)); }

auto word_at(std::span<std::byte const> bytes, std::size_t index) -> std::uint64_t {
  std::uint64_t word;
  std::memcpy(&word, bytes.data() + index * sizeof word, sizeof word);
  return word;
}

// One copy of the loops for everybody: their speed must not depend on where the linker puts them.

[[gnu::noinline]] void sum(std::span<std::byte const> bytes) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < bytes.size() / sizeof total; ++i) {
    total += word_at(bytes, i);
  }
  benchmark::DoNotOptimize(total);
}

[[gnu::noinline]] void read_at_random(std::span<std::byte const> bytes) {
  auto const words = bytes.size() / sizeof(std::uint64_t);
  std::uint64_t random = 1;
  std::uint64_t total = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    random = random * 0x5851'f42d'4c95'7f2d + 1;
    total += word_at(bytes, static_cast<std::size_t>(random >> 20) % words);
  }
  benchmark::DoNotOptimize(total);
}

template <auto Way, auto Use>
void read_large(benchmark::State& state) {
  auto const path = large_file();
  for (auto _ : state) {
    bench::stopwatch time{state};
    Way(path, Use);
    time.stop();
  }
}

// --- core.read_le -----------------------------------------------------------------------------------------------------

// The end of a loop is not the end of the bytes for the compiler: each check is made.

[[gnu::noinline]] void read_checked_ours(fmmap::mapped_file const& file, std::size_t count) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    total += fmmap::or_throw(file.read_le<std::uint64_t>(i * sizeof(std::uint64_t)));
  }
  benchmark::DoNotOptimize(total);
}

[[gnu::noinline]] void read_checked_span(std::span<std::uint64_t const> words, std::size_t count) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (i >= words.size()) [[unlikely]] {
      throw std::out_of_range{"index"};
    }
    total += words[i];
  }
  benchmark::DoNotOptimize(total);
}

// The pages are there beforehand: what is measured is the access.
template <bool Ours>
void read_le(benchmark::State& state) {
  auto const file =
      fmmap::or_throw(fmmap::mapped_file::open(bench::cached_file(bench::sized(256 * mib, mib)), {.populate = true}));
  auto const words = fmmap::or_throw(file.view<std::uint64_t>());
  for (auto _ : state) {
    bench::stopwatch time{state};
    if constexpr (Ours) {
      read_checked_ours(file, words.size());
    } else {
      read_checked_span(words, words.size());
    }
    time.stop();
  }
}

// --- core.guarded -----------------------------------------------------------------------------------------------------

template <bool Guarded>
void copy_out(benchmark::State& state) {
  auto const file = fmmap::or_throw(fmmap::mapped_file::open(bench::cached_file(4 * kib), {.populate = true}));
  std::vector<std::byte> buffer(4 * kib);
  for (auto _ : state) {
    if constexpr (Guarded) {
      fmmap::or_throw(fmmap::guarded_copy_out(file.bytes(), buffer));
    } else {
      std::memcpy(buffer.data(), file.bytes().data(), file.size());
    }
    benchmark::DoNotOptimize(buffer.data());
    benchmark::ClobberMemory();
  }
}

// --- core.resize ------------------------------------------------------------------------------------------------------

constexpr std::size_t resize_step = 64 * kib;
constexpr std::size_t resize_steps = 256;

auto new_file() -> std::filesystem::path {
  auto path = bench::current().folder / "grown";
  std::filesystem::remove(path);
  bench::settle();
  return path;
}

void resize_ours(benchmark::State& state) {
  for (auto _ : state) {
    auto file =
        fmmap::or_throw(fmmap::mutable_mapped_file::create(new_file(), {.reserve = resize_step * resize_steps}));
    bench::stopwatch time{state};
    for (std::size_t i = 1; i <= resize_steps; ++i) {
      fmmap::or_throw(file.resize(i * resize_step));
    }
    time.stop();
  }
}

void resize_raw(benchmark::State& state) {
  for (auto _ : state) {
    raw::growing_file const file{new_file().c_str(), resize_step * resize_steps};
    bench::stopwatch time{state};
    for (std::size_t i = 0; i < resize_steps; ++i) {
      bench::checked(::fallocate(file.descriptor(), 0, static_cast<off_t>(i * resize_step), resize_step), "fallocate");
    }
    time.stop();
  }
}

// --- core.append ------------------------------------------------------------------------------------------------------

// Each from an empty file to its bytes durable and the file closed.

constexpr std::size_t append_step = mib;

auto append_steps() -> std::size_t { return bench::sized(256, 4); }

auto piece() -> std::vector<std::byte> const& {
  static std::vector<std::byte> const bytes(append_step, std::byte{0x5a});
  return bytes;
}

template <auto Append>
void append(benchmark::State& state) {
  if (!bench::is_durable(state)) {
    return;
  }
  auto const& bytes = piece();
  for (auto _ : state) {
    Append(new_file(), bytes); // unmeasured: the memory it takes is not the host's any more when it is taken again
    auto const path = new_file();
    bench::stopwatch time{state};
    Append(path, bytes);
    time.stop();
  }
}

void append_fmmap(std::filesystem::path const& path, std::span<std::byte const> bytes) {
  auto file = fmmap::or_throw(fmmap::mutable_mapped_file::create(path, {.reserve = append_steps() * append_step}));
  for (std::size_t i = 0; i < append_steps(); ++i) {
    fmmap::or_throw(file.append(bytes));
  }
  fmmap::or_throw(file.flush());
  fmmap::or_throw(file.close());
}

void append_raw(std::filesystem::path const& path, std::span<std::byte const> bytes) {
  raw::growing_file const file{path.c_str(), append_steps() * append_step};
  for (std::size_t i = 0; i < append_steps(); ++i) {
    bench::checked(::ftruncate(file.descriptor(), static_cast<off_t>((i + 1) * append_step)), "ftruncate");
    std::ranges::copy(bytes, file.data() + i * append_step);
  }
  bench::checked(::fdatasync(file.descriptor()), "fdatasync");
}

void append_interprocess(std::filesystem::path const& path, std::span<std::byte const> bytes) {
  auto const created = bench::checked(::open(path.c_str(), O_RDWR | O_CREAT | raw::open_flags, 0600), "open");
  ip::file_mapping const file{path.c_str(), ip::read_write};
  for (std::size_t i = 0; i < append_steps(); ++i) {
    bench::checked(::ftruncate(created, static_cast<off_t>((i + 1) * append_step)), "ftruncate");
    ip::mapped_region const region{file, ip::read_write, static_cast<ip::offset_t>(i * append_step), append_step};
    std::ranges::copy(bytes, static_cast<std::byte*>(region.get_address()));
  }
  bench::checked(::fdatasync(created), "fdatasync"); // it flushes regions, and these are gone
  ::close(created);
}

void append_iostreams(std::filesystem::path const& path, std::span<std::byte const> bytes) {
  io::mapped_file_params wanted{path.native()};
  wanted.flags = io::mapped_file::readwrite;
  wanted.new_file_size = append_step;
  io::mapped_file file{wanted};
  for (std::size_t i = 0; i < append_steps(); ++i) {
    file.resize(static_cast<io::stream_offset>((i + 1) * append_step));
    std::ranges::copy(bytes, reinterpret_cast<std::byte*>(file.data()) + i * append_step);
  }
  file.close();
  auto const written = bench::checked(::open(path.c_str(), O_RDWR | raw::open_flags), "open");
  bench::checked(::fdatasync(written), "fdatasync"); // it has no flush
  ::close(written);
}

// --- core.import_time -------------------------------------------------------------------------------------------------

void import_time(benchmark::State& state, char const* source) {
  auto const check = bench::front_end_command(source);
  for (auto _ : state) {
    bench::stopwatch time{state};
    bench::run_command(check);
    time.stop();
  }
}

void import_ours(benchmark::State& state) { import_time(state, "import_core.cpp"); }
void include_standard(benchmark::State& state) { import_time(state, "include_core.cpp"); }

// --- The rows ---------------------------------------------------------------------------------------------------------

template <auto Use>
void add_reading_row(char const* id) {
  bench::add_row(id, bench::pace::slow,
                 {{"ours", read_large<by_fmmap, Use>},
                  {"peer", read_large<by_raw, Use>},
                  {"Boost.Interprocess", read_large<by_interprocess, Use>},
                  {"Boost.Iostreams", read_large<by_iostreams, Use>}});
}

void add_rows() {
  using bench::add_row;
  using bench::pace;
  add_row("core.open_4k", pace::fast,
          {{"ours", open_4k<by_fmmap>},
           {"peer", open_4k<by_raw>},
           {"Boost.Interprocess", open_4k<by_interprocess>},
           {"Boost.Iostreams", open_4k<by_iostreams>}});
  add_row("core.file_view_4k", pace::fast, {{"ours", view_4k_ours}, {"peer", view_4k_raw}});
  add_reading_row<sum>("core.seq");
  add_reading_row<read_at_random>("core.random");
  add_row("core.read_le", pace::slow, {{"ours", read_le<true>}, {"peer", read_le<false>}});
  add_row("core.guarded", pace::fast, {{"ours", copy_out<true>}, {"peer", copy_out<false>}});
  add_row("core.append", pace::slow,
          {{"ours", append<append_fmmap>},
           {"peer", append<append_raw>},
           {"Boost.Interprocess", append<append_interprocess>},
           {"Boost.Iostreams", append<append_iostreams>}});
  add_row("core.resize", pace::slow, {{"ours", resize_ours}, {"peer", resize_raw}});
  add_row("core.import_time", pace::slow, {{"ours", import_ours}, {"peer", include_standard}});
}

} // namespace

auto main(int argc, char** argv) -> int { return bench::run(argc, argv, add_rows); }
