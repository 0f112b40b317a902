// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Fills a file of MIB MiB through its mapping, no more than 16 MiB of which wait to be written at a time:
// write_behind FILE MIB

#include <algorithm>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <expected>
#include <filesystem>
#include <iostream>

import fmmap;

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr std::size_t budget = 16 * mebibyte;

auto fill(fmmap::io_engine const& engine, std::filesystem::path const& path, std::size_t size) -> fmmap::task<> {
  auto file = fmmap::or_throw(co_await fmmap::async_create(engine, path, {.size = size}));
  std::uint64_t most = 0;
  {
    fmmap::write_behind background{engine, file, {.dirty_budget = budget}};
    for (std::size_t at = 0; at < size; at += mebibyte) {
      std::ranges::fill(file.writable_bytes().subspan(at, mebibyte), static_cast<std::byte>(at / mebibyte));
      fmmap::or_throw(co_await background.room());
      most = std::max<std::uint64_t>(most, fmmap::or_throw(file.as_mapping().residency()).dirty_bytes);
    }
    fmmap::or_throw(background.check());
  }
  (void)fmmap::or_throw(co_await fmmap::async_flush(engine, file)); // little is left to do
  std::cout << size / mebibyte << " MiB, at most " << most / mebibyte << " of them dirty\n";
}

} // namespace

auto main(int argc, char** argv) -> int try {
  if (argc != 3) {
    std::cerr << "usage: write_behind FILE MIB\n";
    return 2;
  }
  auto const engine = fmmap::or_throw(fmmap::io_engine::create());
  fmmap::sync_wait(fill(engine, argv[1], std::strtoull(argv[2], nullptr, 10) * mebibyte));
  std::filesystem::remove(argv[1]);
  return 0;
} catch (std::exception const& why) {
  std::cerr << why.what() << '\n';
  return 1;
}
