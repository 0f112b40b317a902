// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Fills a file block by block and flushes each on another thread while the next is being filled: staged_flush [FILE]

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <expected>
#include <filesystem>
#include <future>
#include <span>
#include <utility>

import fmmap;

namespace {

constexpr std::size_t block_size = std::size_t{1} << 20;
constexpr std::size_t block_count = 8;

// What stage_flush gives may be run on any thread, and needs nothing of the object it came from.
auto run_elsewhere(fmmap::flush_job job) -> std::future<fmmap::result<fmmap::durability>> {
  return std::async(std::launch::async, [job = std::move(job)]() mutable { return job.run(); });
}

} // namespace

auto main(int argc, char** argv) -> int try {
  std::filesystem::path const path{argc > 1 ? argv[1] : "staged_flush.data"};
  std::filesystem::remove(path);
  auto file = fmmap::or_throw(fmmap::mutable_mapped_file::create(path, {.size = block_count * block_size}));

  std::future<fmmap::result<fmmap::durability>> running;
  for (std::size_t block = 0; block < block_count; ++block) {
    auto const offset = block * block_size;
    std::ranges::fill(file.writable_bytes().subspan(offset, block_size), std::byte(block));
    auto job = fmmap::or_throw(file.stage_flush({.offset = offset, .length = block_size})); // nothing is written yet
    if (running.valid()) {
      fmmap::or_throw(running.get());
    }
    running = run_elsewhere(std::move(job));
  }
  auto const reached = fmmap::or_throw(running.get());
  std::printf("%zu blocks flushed, reached: %s\n", block_count, fmmap::to_string(reached).data());
  fmmap::or_throw(file.remove());
  return 0;
} catch (fmmap::system_error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
