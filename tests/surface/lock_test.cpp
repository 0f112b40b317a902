// SPDX-License-Identifier: MIT OR Apache-2.0

#include <chrono>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <mutex>
#include <string>
#include <system_error>

#include <boost/test/unit_test.hpp>

#include "support/scratch.hpp"

// The contract in use, as it stands, compiled into a test that runs it. After the other headers: g++ takes none after an
// import.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wreturn-type" // its main, under another name, may not end without a value; nobody calls it
#define main surface_main                      // NOLINT(readability-identifier-naming)
#include "lock.cpp"                            // NOLINT(bugprone-suspicious-include)
#undef main
#pragma GCC diagnostic pop

namespace {

auto writable(std::filesystem::path const& path) -> fmmap::file {
  return fmmap::or_throw(fmmap::file::open(path, {.access = fmmap::access::read_write}));
}

// Every lock of the contract is released when its function returns.
auto is_free(fmmap::file const& file) -> bool { return fmmap::or_throw(fmmap::who_holds(file)).empty(); }

} // namespace

BOOST_AUTO_TEST_SUITE(the_contract_of_lock)

BOOST_AUTO_TEST_CASE(locks_by_the_standards_wrappers) {
  scratch const folder;
  auto file = writable(folder.file("data", "12345"));
  standard(file);
  BOOST_TEST(is_free(file));
}

BOOST_AUTO_TEST_CASE(locks_without_exceptions) {
  scratch const folder;
  auto file = writable(folder.file("data", "12345"));
  without_exceptions(file);
  BOOST_TEST(is_free(file));
}

BOOST_AUTO_TEST_CASE(locks_several_files) {
  scratch const folder;
  auto a = writable(folder.file("a", "12345"));
  auto b = writable(folder.file("b", "12345"));
  several(a, b);
  BOOST_TEST(is_free(a));
  BOOST_TEST(is_free(b));
}

BOOST_AUTO_TEST_CASE(truncates_only_what_it_has_locked) {
  scratch const folder;
  auto const before = std::filesystem::current_path();
  std::filesystem::current_path(folder.folder());
  auto const path = folder.file("shared.bin", "12345");
  {
    auto const file = writable(path);
    auto other = fmmap::or_throw(fmmap::file_lock::create(file));
    std::unique_lock const held{other};
    BOOST_CHECK_EXCEPTION(open_then_truncate_safely(), fmmap::system_error, [](fmmap::system_error const& e) {
      return e.why() == std::errc::timed_out;
    });
    BOOST_TEST(read_back(path) == "12345");
  }
  open_then_truncate_safely();
  BOOST_TEST(read_back(path).empty());
  std::filesystem::current_path(before);
}

BOOST_AUTO_TEST_SUITE_END()
