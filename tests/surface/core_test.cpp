// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <boost/test/unit_test.hpp>

#include "support/scratch.hpp"

// The contract in use, as it stands, compiled into a test that runs it. After the other headers: g++ takes none after an
// import.
#define main surface_main // NOLINT(readability-identifier-naming)
#include "core.cpp"       // NOLINT(bugprone-suspicious-include)
#undef main

namespace {

// A working directory of its own, with the files that the contract names.
struct workplace {
  workplace() { std::filesystem::current_path(folder.folder()); }
  workplace(workplace const&) = delete;
  auto operator=(workplace const&) -> workplace& = delete;
  ~workplace() { std::filesystem::current_path(before); }

  std::filesystem::path before = std::filesystem::current_path();
  scratch folder;
};

auto size_of(char const* name) -> std::uintmax_t { return std::filesystem::file_size(name); }

} // namespace

BOOST_AUTO_TEST_SUITE(the_contract_of_core)

BOOST_AUTO_TEST_CASE(reports_errors_as_it_says) {
  workplace const here;
  BOOST_TEST(errors());
  BOOST_TEST(surface_main() == 0);
  (void)here.folder.file("missing.bin", "not missing");
  BOOST_TEST(!errors());
}

BOOST_AUTO_TEST_CASE(counts_lines) {
  workplace const here;
  BOOST_TEST(count_lines(here.folder.file("text", "one\n\ntwo\nthree")) == 3U);
}

BOOST_AUTO_TEST_CASE(reads) {
  workplace const here;
  auto const content = pattern(8192);
  (void)here.folder.file("data.bin", content);
  read_side();
  BOOST_TEST(read_back("copy.bin") == content.substr(11, 100));
  BOOST_TEST(read_back("data.bin") == content);
}

BOOST_AUTO_TEST_CASE(writes) {
  workplace const here;
  write_side();
  auto const log = read_back("log.bin");
  BOOST_TEST(log.size() == 70000U);
  BOOST_TEST(log.substr(0, 10) == std::string(10, '\0'));       // zero
  BOOST_TEST(log.substr(10, 88) == std::string(88, '\7'));      // write_exactly
  BOOST_TEST(log.substr(98, 4) == std::string("\7\7\xff\xfd")); // the cursor's big-endian -3 at 100
  BOOST_TEST(log.substr(102) == std::string(70000 - 102, '\0')); // resize
  BOOST_TEST(!std::filesystem::exists("other.bin"));             // created, and removed
  BOOST_TEST(size_of("config.bin") == 1000U);
  BOOST_TEST(read_back("config.bin")[0] == 1);
}

BOOST_AUTO_TEST_CASE(reaches_the_lower_layers) {
  workplace const here;
  auto const content = pattern(16384);
  (void)here.folder.file("data.bin", content);
  lower_layers();
  auto const left = read_back("data.bin");
  BOOST_TEST(left.size() == content.size() + (std::size_t{1} << 20)); // allocate
  BOOST_TEST(left.substr(0, 8192) == std::string(8192, '\0'));        // punch_hole, discard
  BOOST_TEST(left.substr(8192, 8192) == content.substr(8192));
}

BOOST_AUTO_TEST_SUITE_END()
