// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <expected>
#include <span>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/scratch.hpp"

import fmmap.os;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

auto open_for_writing(std::filesystem::path const& path) -> os::descriptor {
  return os::open(os::working_directory, path.c_str(), {.write = true}, 0).value();
}

} // namespace

BOOST_AUTO_TEST_SUITE(the_seam)

BOOST_AUTO_TEST_CASE(every_call_has_a_name_of_its_own) {
  for (std::size_t i = 0; i < os::call_names.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      BOOST_TEST(os::call_names[i] != os::call_names[j]);
    }
  }
  BOOST_TEST(os::name_of(os::call::openat) == "openat");
  BOOST_TEST(os::name_of(os::call::munlock) == "munlock");
  BOOST_TEST(os::name_of(os::call::cachestat) == "cachestat");
  BOOST_TEST(os::name_of(os::call::uname) == "uname");
  BOOST_TEST(os::name_of(os::call::io_uring_enter) == "io_uring_enter");
}

BOOST_AUTO_TEST_CASE(it_records_the_calls_made_in_order) {
  scratch const s;
  auto const path = s.file("data", "0123456789");
  armed const table;
  auto const file = open_for_writing(path);
  BOOST_TEST(os::status(file)->size == 10U);
  BOOST_TEST(os::close(file).has_value());
  auto const calls = seam::calls();
  BOOST_REQUIRE(calls.size() == 3U);
  BOOST_TEST((calls[0] == os::call::openat));
  BOOST_TEST((calls[1] == os::call::fstat));
  BOOST_TEST((calls[2] == os::call::close));
}

BOOST_AUTO_TEST_CASE(it_fails_the_nth_call_once_or_from_there_on) {
  scratch const s;
  auto const file = open_for_writing(s.file("data", "0123456789"));
  {
    armed const table;
    seam::fail_nth(2, EIO);
    BOOST_TEST(os::sync(file).has_value());
    BOOST_TEST(os::sync(file).error() == EIO);
    BOOST_TEST(os::sync(file).has_value());
    BOOST_TEST(seam::injected() == 1U);
  }
  {
    armed const table;
    seam::fail_nth(2, ENOSPC, seam::every_time);
    BOOST_TEST(os::sync(file).has_value());
    BOOST_TEST(os::sync(file).error() == ENOSPC);
    BOOST_TEST(os::sync(file).error() == ENOSPC);
  }
  BOOST_TEST(os::close(file).has_value());
}

BOOST_AUTO_TEST_CASE(a_failed_call_is_not_made_except_a_close) {
  scratch const s;
  auto const path = s.file("data", "0123456789");
  auto const file = open_for_writing(path);
  armed const table;
  seam::fail(os::call::ftruncate, EIO);
  BOOST_TEST(os::set_size(file, 3).error() == EIO);
  BOOST_TEST(read_back(path) == "0123456789");
  seam::fail(os::call::close, EIO);
  BOOST_TEST(os::close(file).error() == EIO);
  BOOST_TEST(::close(file) == -1); // it is closed already
}

BOOST_AUTO_TEST_CASE(it_shortens_transfers) {
  scratch const s;
  auto const file = open_for_writing(s.file("data", "0123456789"));
  armed const table;
  seam::shorten(os::call::pread, 4);
  std::array<std::byte, 10> buffer{};
  BOOST_TEST(os::read_at(file, 0, buffer).value() == 4U);
  BOOST_TEST(os::close(file).has_value());
}

BOOST_AUTO_TEST_CASE(it_makes_a_feature_look_absent) {
  armed const table;
  seam::pretend_absent(os::call::memfd_create);
  BOOST_TEST(os::memory_file("x", false).error() == ENOSYS);
}

BOOST_AUTO_TEST_CASE(the_version_of_the_kernel_is_that_of_uname) {
  utsname about{};
  BOOST_REQUIRE(::uname(&about) == 0);
  auto const version = os::kernel_version().value();
  auto const beginning = std::to_string(version.major) + '.' + std::to_string(version.minor);
  BOOST_TEST(std::string{about.release}.starts_with(beginning));
  BOOST_TEST((version > os::system_version{.major = 4, .minor = 18}));
  armed const table;
  seam::fail(os::call::uname, EPERM);
  BOOST_TEST(os::kernel_version().error() == EPERM);
}

BOOST_AUTO_TEST_CASE(it_reports_a_call_that_it_skips_as_done) {
  scratch const s;
  auto const path = s.file("data", "0123456789");
  auto const file = open_for_writing(path);
  armed const table;
  seam::skip(os::call::ftruncate);
  seam::skip(os::call::fsync, [&](os::subject const& about) { return about.descriptor != file; });
  std::vector<os::call> made;
  seam::observe([&](seam::observation const& o) {
    if (o.over) {
      made.push_back(o.which);
    }
  });
  BOOST_TEST(os::set_size(file, 3).has_value());
  BOOST_TEST(read_back(path) == "0123456789");
  BOOST_TEST(os::sync(-1).has_value());
  BOOST_TEST(os::sync(file).has_value());
  BOOST_TEST(seam::calls().size() == 3U);
  BOOST_TEST((made == std::vector{os::call::fsync}));
  BOOST_TEST(os::close(file).has_value());
}

BOOST_AUTO_TEST_CASE(it_tells_an_observer_of_every_call_before_and_after) {
  scratch const s;
  auto const path = s.file("data", "0123456789");
  auto const file = open_for_writing(path);
  armed const table;
  seam::fail(os::call::fdatasync, EIO);
  std::vector<seam::observation> told;
  std::vector<std::size_t> sizes;
  seam::observe([&](seam::observation const& o) {
    told.push_back(o);
    sizes.push_back(read_back(path).size());
  });
  BOOST_TEST(os::set_size(file, 3).has_value());
  BOOST_TEST(os::sync_data(file).error() == EIO);
  BOOST_TEST(os::sync_memory(nullptr, 0).has_value());
  BOOST_REQUIRE(told.size() == 6U);
  BOOST_TEST((sizes == std::vector<std::size_t>{10, 3, 3, 3, 3, 3}));
  BOOST_TEST(!told[2].over);
  BOOST_TEST((told[3].over && told[3].which == os::call::fdatasync));
  BOOST_TEST(told[3].about.descriptor == file);
  BOOST_TEST(told[3].error == EIO);
  BOOST_TEST(told[5].about.descriptor == -1);
  BOOST_TEST(told[5].error == 0);
  BOOST_TEST(os::close(file).has_value());
}

BOOST_AUTO_TEST_CASE(it_kills_the_process_before_or_after_a_call) {
  for (bool const after : {false, true}) {
    scratch const s;
    auto const path = s.file("data", "0123456789");
    auto const child = ::fork();
    if (child == 0) {
      auto const file = open_for_writing(path);
      seam::arm();
      seam::kill_at(1, after);
      (void)os::set_size(file, 3);
      ::_exit(0);
    }
    int status = 0;
    BOOST_REQUIRE(::waitpid(child, &status, 0) == child);
    BOOST_TEST(WIFSIGNALED(status));
    BOOST_TEST(WTERMSIG(status) == SIGKILL);
    BOOST_TEST(read_back(path) == (after ? "012" : "0123456789"));
  }
}

BOOST_AUTO_TEST_SUITE_END()
