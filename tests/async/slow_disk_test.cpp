// SPDX-License-Identifier: MIT OR Apache-2.0

#define FUSE_USE_VERSION 31

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>
#include <fuse_lowlevel.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/companion.hpp"
#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"
#include "support/shared.hpp"

#include "support/engines.hpp"

import fmmap.async;
import fmmap.core;

using fmmap::engine_kind;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t file_count = 100;

// What is said of them to the process that serves them, and by it.
struct agreement {
  std::atomic<bool> is_broken; // writes fail with EIO
  std::atomic<int> begun;      // syncs
  std::atomic<bool> is_over;   // all may end now
};

// Files of a page each, by the names of numbers, and no sync of them ends until all may: a disk that takes its time. Another
// process serves them (FUSE), by one thread that waits for nothing.
class slow_disk {
public:
  explicit slow_disk(agreement& agreed) : agreed_{&agreed} {}

  // Serves what is mounted through this descriptor of /dev/fuse, until it is unmounted.
  auto serve(int connection) -> int {
    fuse_lowlevel_ops all{};
    all.lookup = look_up;
    all.getattr = get_attributes;
    all.setattr = set_attributes;
    all.open = [](fuse_req_t request, fuse_ino_t /*file*/, fuse_file_info* open) { ::fuse_reply_open(request, open); };
    all.read = read;
    all.write = write;
    all.fsync = [](fuse_req_t request, fuse_ino_t /*file*/, int /*data_only*/, fuse_file_info* /*open*/) {
      self(request).begun_.push_back(request);
      ++self(request).agreed_->begun;
    };
    char name[] = "disk";
    char* arguments[] = {name, nullptr};
    fuse_args parsed{.argc = 1, .argv = arguments, .allocated = 0};
    auto* const session = ::fuse_session_new(&parsed, &all, sizeof all, this);
    if (session == nullptr || ::fuse_session_mount(session, ("/dev/fd/" + std::to_string(connection)).c_str()) != 0) {
      return 1;
    }
    fuse_buf asked{};
    while (::fuse_session_exited(session) == 0) {
      pollfd next{.fd = ::fuse_session_fd(session), .events = POLLIN, .revents = 0};
      if (::poll(&next, 1, 1) > 0 && ::fuse_session_receive_buf(session, &asked) > 0) {
        ::fuse_session_process_buf(session, &asked);
      }
      if (agreed_->is_over) {
        for (auto* const request : std::exchange(begun_, {})) {
          ::fuse_reply_err(request, 0);
        }
      }
    }
    std::free(asked.mem);
    ::fuse_session_destroy(session);
    return 0;
  }

private:
  using content = std::array<char, page>;

  static auto self(fuse_req_t request) -> slow_disk& { return *static_cast<slow_disk*>(::fuse_req_userdata(request)); }

  // The folder is number 1, and the file "0" number 2.
  static auto status_of(fuse_ino_t file) -> struct stat {
    struct stat status{};
    status.st_ino = file;
    status.st_mode = file == FUSE_ROOT_ID ? S_IFDIR | 0700 : S_IFREG | 0600;
    status.st_nlink = 1;
    status.st_size = file == FUSE_ROOT_ID ? 0 : page;
    return status;
  }

  static void
  look_up(fuse_req_t request, fuse_ino_t /*folder*/, char const* name) {
    std::size_t number = file_count;
    std::from_chars(name, name + std::strlen(name), number);
    if (number >= file_count) {
      ::fuse_reply_err(request, ENOENT);
      return;
    }
    fuse_entry_param found{};
    found.ino = number + FUSE_ROOT_ID + 1;
    found.attr = status_of(found.ino);
    ::fuse_reply_entry(request, &found);
  }

  static void get_attributes(fuse_req_t request, fuse_ino_t file, fuse_file_info* /*open*/) {
    auto const status = status_of(file);
    ::fuse_reply_attr(request, &status, 0);
  }
  static void set_attributes(fuse_req_t request, fuse_ino_t file, struct stat*, int /*which*/, fuse_file_info* open) {
    get_attributes(request, file, open);
  }

  static auto content_of(fuse_req_t request, fuse_ino_t file) -> content& {
    return self(request).files_[file - FUSE_ROOT_ID - 1];
  }
  static void read(fuse_req_t request, fuse_ino_t file, std::size_t length, off_t offset, fuse_file_info* /*open*/) {
    auto const from = std::min(static_cast<std::size_t>(offset), page);
    ::fuse_reply_buf(request, content_of(request, file).data() + from, std::min(length, page - from));
  }
  static void write(fuse_req_t request, fuse_ino_t file, char const* from, std::size_t length, off_t offset,
                    fuse_file_info* /*open*/) {
    auto const to = static_cast<std::size_t>(offset);
    if (self(request).agreed_->is_broken || to > page || length > page - to) {
      ::fuse_reply_err(request, EIO);
      return;
    }
    std::memcpy(content_of(request, file).data() + to, from, length);
    ::fuse_reply_write(request, length);
  }

  agreement* agreed_;
  std::vector<fuse_req_t> begun_;
  std::array<content, file_count> files_{};
};

// Gives this process, a forked child, one over `folder`. Says why there is none.
auto mount_slow_disk(std::filesystem::path const& folder, agreement& agreed, std::optional<companion>& server)
    -> std::string {
  if (auto problem = own_mounts(); !problem.empty()) {
    return problem;
  }
  auto const connection = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (connection < 0) {
    return std::string{"no /dev/fuse: "} + std::strerror(errno);
  }
  auto const how = "fd=" + std::to_string(connection) + ",rootmode=40000,user_id=0,group_id=0";
  std::string problem;
  if (::mount("disk", folder.c_str(), "fuse", MS_NOSUID | MS_NODEV, how.c_str()) != 0) {
    problem = std::string{"no FUSE: "} + std::strerror(errno);
  } else {
    server.emplace([&] { return slow_disk{agreed}.serve(connection); });
  }
  ::close(connection);
  return problem;
}

using flush =
    decltype(fmmap::async_flush(std::declval<fmmap::io_engine const&>(), std::declval<mutable_mapped_file&>()));

} // namespace

BOOST_AUTO_TEST_SUITE(writes_that_fail_in_the_background)

// By check, and by whatever is asked for next.
BOOST_AUTO_TEST_CASE(are_told) {
  scratch const folder;
  std::filesystem::create_directory(folder / "disk");
  BOOST_TEST(found_in_child([&](findings& found) {
               ::alarm(60);
               shared<agreement> const agreed;
               agreed->is_over = true;
               std::optional<companion> server;
               if (auto const problem = mount_slow_disk(folder / "disk", *agreed, server); !problem.empty()) {
                 found.skip(problem);
                 return;
               }
               auto const engine = engine_of();
               auto file = or_throw(mutable_mapped_file::open(folder / "disk/0"));
               fmmap::write_behind background{engine, file, {.dirty_budget = 1, .interval = 1ms}};
               file.writable_bytes()[0] = std::byte{1};
               found.expect(becomes([&] { return background.stats().begun_bytes > 0; }), "nothing was written");
               found.expect(background.check().has_value(), "a write that was well is told");
               agreed->is_broken = true;
               file.writable_bytes()[0] = std::byte{2};
               auto told = background.check();
               found.expect(becomes([&] {
                              told = told ? background.check() : told;
                              return !told;
                            }),
                            "a failed write is not told");
               found.expect(fails(told, std::errc::io_error), "it is told as another one");
               found.expect(fails(awaited(fmmap::async_flush(engine, file)), std::errc::io_error), "no flush tells it");

               file.writable_bytes()[0] = std::byte{3};
               fmmap::write_behind of_rooms{engine, file, {.dirty_budget = 1, .interval = 10min}};
               auto const room = awaited(of_rooms.room());
               found.expect(fails(room, std::errc::io_error), "room does not tell it");
               found.expect(fails(of_rooms.check(), std::errc::io_error), "check does not tell what room was told");
               found.expect(of_rooms.check().has_value(), "it is told twice");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(syncs_that_take_their_time)

// More than the ring takes at a time.
BOOST_AUTO_TEST_CASE(keep_nothing_else_waiting) {
  scratch const folder;
  std::filesystem::create_directory(folder / "disk");
  BOOST_TEST(found_in_child([&](findings& found) {
               ::alarm(60);
               shared<agreement> const agreed;
               std::optional<companion> server;
               if (auto const problem = mount_slow_disk(folder / "disk", *agreed, server); !problem.empty()) {
                 found.skip(problem);
                 return;
               }
               auto const engine = or_throw(fmmap::io_engine::create());
               if (engine.kind() != engine_kind::io_uring) {
                 found.skip("there is no io_uring");
                 return;
               }
               std::vector<mutable_mapped_file> files;
               for (std::size_t i = 0; i < file_count; ++i) {
                 files.push_back(or_throw(mutable_mapped_file::open(folder / "disk" / std::to_string(i))));
               }
               std::atomic<std::size_t> over{0};
               std::vector<flush> all;
               for (auto& file : files) {
                 file.writable_bytes()[0] = std::byte{1};
                 all.push_back(fmmap::async_flush(engine, file));
               }
               for (auto& each : all) {
                 auto const count = [](void* number) noexcept { ++*static_cast<std::atomic<std::size_t>*>(number); };
                 found.expect(each.start(count, &over), "a flush did not begin");
               }
               found.expect(becomes([&] { return agreed->begun > 0; }), "no sync began");
               for (int i = 0; i < 100; ++i) {
                 auto const path = folder / std::to_string(i);
                 found.expect(awaited(fmmap::async_create(engine, path, {.size = page})).has_value(),
                              "no file was created");
               }
               found.expect(over == 0, "a flush did not wait for its sync");
               agreed->is_over = true;
               found.expect(becomes([&] { return over == file_count; }), "not all flushes ended");
               for (auto& each : all) {
                 found.expect(each.await_resume().has_value(), "a flush failed");
               }
               found.expect(agreed->begun == static_cast<int>(file_count), "not every file was synced once");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()
