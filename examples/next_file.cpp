// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Counts the lines of files, each of which is brought into memory while the one before is counted: next_file FILE...

#include <algorithm>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <expected>
#include <filesystem>
#include <iostream>
#include <tuple>
#include <utility>
#include <vector>

import fmmap;

namespace {

auto load(fmmap::io_engine const& engine, std::filesystem::path path) -> fmmap::task<fmmap::mapped_file> {
  auto file = fmmap::or_throw(co_await fmmap::async_open(engine, std::move(path)));
  fmmap::or_throw(co_await fmmap::async_prefault(engine, file));
  co_return file;
}

// Its pages are in memory, so it does not wait for the disk.
auto count_lines(fmmap::mapped_file const& file) -> fmmap::task<std::size_t> {
  co_return static_cast<std::size_t>(std::ranges::count(file.bytes(), std::byte{'\n'}));
}

auto count_all(fmmap::io_engine const& engine, std::vector<std::filesystem::path> paths) -> fmmap::task<> {
  auto file = co_await load(engine, paths.front());
  for (std::size_t i = 0; i < paths.size(); ++i) {
    std::size_t lines = 0;
    if (i + 1 < paths.size()) {
      auto [next, count] = co_await fmmap::when_all(load(engine, paths[i + 1]), count_lines(file));
      fmmap::or_throw(co_await fmmap::async_close(engine, std::move(file)));
      file = std::move(next);
      lines = count;
    } else {
      lines = co_await count_lines(file);
    }
    std::cout << lines << ' ' << paths[i].string() << '\n';
  }
}

} // namespace

auto main(int argc, char** argv) -> int try {
  if (argc < 2) {
    std::cerr << "usage: next_file FILE...\n";
    return 2;
  }
  auto const engine = fmmap::or_throw(fmmap::io_engine::create());
  fmmap::sync_wait(count_all(engine, {argv + 1, argv + argc}));
  return 0;
} catch (std::exception const& why) {
  std::cerr << why.what() << '\n';
  return 1;
}
