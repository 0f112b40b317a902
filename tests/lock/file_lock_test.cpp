// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <future>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.lock;
import fmmap.os;

using fmmap::access;
using fmmap::errc;
using fmmap::file;
using fmmap::file_lock;
using fmmap::lock_kind;
using fmmap::lock_mode;
using fmmap::or_throw;
using fmmap::whole;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;

static_assert(std::is_nothrow_move_constructible_v<file_lock> && std::is_nothrow_move_assignable_v<file_lock>);
static_assert(!std::is_copy_constructible_v<file_lock>);

namespace {

constexpr auto shared = lock_mode::shared;
constexpr auto exclusive = lock_mode::exclusive;

// A file, open for writing, and locks of it.
struct locked_place {
  scratch folder;
  std::filesystem::path path = folder.file("data", pattern(100));
  file data = or_throw(file::open(path, {.access = access::read_write}));

  [[nodiscard]] auto lock(fmmap::byte_range range = whole, lock_kind kind = lock_kind::open_file_description) const
      -> file_lock {
    return or_throw(file_lock::create(data, range, kind));
  }
};

auto had(fmmap::result<bool> const& outcome) -> bool { return or_throw(outcome); }

// An error with this code.
template <class T>
auto fails(fmmap::result<T> const& outcome, auto code) -> bool {
  return !outcome && outcome.error() == code;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_file_lock)

BOOST_AUTO_TEST_CASE(keeps_out_what_its_mode_says) {
  for (auto const kind : {lock_kind::open_file_description, lock_kind::flock}) {
    locked_place const place;
    auto one = place.lock(whole, kind);
    auto two = place.lock(whole, kind);
    BOOST_TEST(had(one.try_acquire(exclusive)));
    BOOST_TEST(!had(two.try_acquire(exclusive)));
    BOOST_TEST(!had(two.try_acquire(shared)));
    BOOST_TEST((one.held() == exclusive && !two.held()));
    or_throw(one.release());
    BOOST_TEST(had(one.try_acquire(shared)));
    BOOST_TEST(had(two.try_acquire(shared)));
    BOOST_TEST((one.held() == shared && two.held() == shared));
    or_throw(two.release());
    BOOST_TEST(!had(two.try_acquire(exclusive)));
    or_throw(one.release());
    BOOST_TEST(had(two.try_acquire(exclusive)));
    BOOST_TEST((one.kind() == kind));
  }
}

BOOST_AUTO_TEST_CASE(may_be_of_what_a_mapped_file_maps) {
  scratch const folder;
  auto const mapped = or_throw(fmmap::mutable_mapped_file::create(folder / "a", {.size = 1}));
  auto const seen = or_throw(fmmap::mapped_file::open(folder / "a"));
  auto one = or_throw(fmmap::file_lock::create(mapped));
  auto two = or_throw(fmmap::file_lock::create(seen));
  BOOST_TEST(had(one.try_acquire(exclusive)));
  BOOST_TEST(!had(two.try_acquire(shared)));
  or_throw(one.release());
  BOOST_TEST(had(two.try_acquire(shared)));
}

BOOST_AUTO_TEST_CASE(is_of_the_bytes_of_its_range) {
  locked_place const place;
  auto first = place.lock({.offset = 0, .length = 10});
  auto next = place.lock({.offset = 10, .length = 10});
  auto both = place.lock({.offset = 9, .length = 2});
  auto all = place.lock();
  auto beyond = place.lock({.offset = std::uint64_t{1} << 40, .length = 1});
  auto last = place.lock({.offset = static_cast<std::uint64_t>(INT64_MAX), .length = fmmap::to_end});
  or_throw(first.acquire(exclusive));
  or_throw(next.acquire(exclusive));
  or_throw(beyond.acquire(exclusive));
  or_throw(last.acquire(exclusive));
  BOOST_TEST(!had(both.try_acquire(shared)));
  BOOST_TEST(!had(all.try_acquire(shared)));
  or_throw(first.release());
  or_throw(next.release());
  BOOST_TEST(had(both.try_acquire(shared)));
  BOOST_TEST(!had(all.try_acquire(shared)));
  or_throw(beyond.release());
  or_throw(last.release());
  BOOST_TEST(had(all.try_acquire(shared)));
  BOOST_TEST((first.range() == fmmap::byte_range{.offset = 0, .length = 10}));
  BOOST_TEST((all.range() == whole));
}

BOOST_AUTO_TEST_CASE(of_no_bytes_is_always_free) {
  locked_place const place;
  auto all = place.lock();
  or_throw(all.acquire(exclusive));
  for (auto const offset : {std::uint64_t{0}, std::uint64_t{50}, static_cast<std::uint64_t>(INT64_MAX)}) {
    auto none = place.lock({.offset = offset, .length = 0});
    BOOST_TEST(had(none.try_acquire(exclusive)));
    BOOST_TEST((none.held() == exclusive));
    or_throw(none.downgrade());
    BOOST_TEST(had(none.try_upgrade()));
    or_throw(none.release());
  }
}

BOOST_AUTO_TEST_CASE(refuses_ranges_that_files_cannot_have) {
  locked_place const place;
  constexpr auto limit = static_cast<std::uint64_t>(INT64_MAX);
  BOOST_TEST(fails(file_lock::create(place.data, {.offset = limit + 1, .length = 1}), errc::out_of_range));
  BOOST_TEST(fails(file_lock::create(place.data, {.offset = limit, .length = 1}), errc::out_of_range));
  BOOST_TEST(fails(file_lock::create(place.data, {.offset = UINT64_MAX, .length = 0}), errc::out_of_range));
  BOOST_TEST(fails(file_lock::create(place.data, {.offset = 1, .length = limit}), errc::out_of_range));
  BOOST_TEST(fails(file_lock::create(place.data, {.offset = 1, .length = SIZE_MAX - 1}), errc::out_of_range));
  auto largest = place.lock({.offset = 0, .length = limit});
  BOOST_TEST(had(largest.try_acquire(exclusive)));
}

BOOST_AUTO_TEST_CASE(needs_a_writable_file_to_be_exclusive_unless_it_is_flock) {
  locked_place const place;
  auto const reading = or_throw(file::open(place.path));
  auto ranged = or_throw(file_lock::create(reading));
  BOOST_TEST(fails(ranged.try_acquire(exclusive), errc::read_only));
  BOOST_TEST(fails(ranged.acquire(exclusive), errc::read_only));
  BOOST_TEST(had(ranged.try_acquire(shared)));
  BOOST_TEST(fails(ranged.try_upgrade(), errc::read_only));
  BOOST_TEST((ranged.held() == shared));
  auto of_file = or_throw(file_lock::create(reading, whole, lock_kind::flock));
  BOOST_TEST(had(of_file.try_acquire(exclusive)));
}

BOOST_AUTO_TEST_CASE(refuses_kinds_that_cannot_be_had) {
  locked_place const place;
  BOOST_TEST(fails(file_lock::create(place.data, whole, lock_kind::process), errc::invalid_options));
  BOOST_TEST(fails(file_lock::create(place.data, {.offset = 0, .length = 1}, lock_kind::flock), errc::invalid_options));
}

BOOST_AUTO_TEST_CASE(of_a_closed_handle_is_an_error) {
  BOOST_TEST(fails(file_lock::create(file{}), errc::closed));
  locked_place const place;
  auto lock = place.lock();
  auto const moved = std::move(lock);
  file_lock none;
  for (auto* const closed : {&lock, &none}) {
    BOOST_TEST(!closed->is_open());
    BOOST_TEST(fails(closed->acquire(shared), errc::closed));
    BOOST_TEST(fails(closed->try_acquire(shared), errc::closed));
    BOOST_TEST(fails(closed->acquire_for(shared, 1s), errc::closed));
    BOOST_TEST(fails(closed->acquire_until(shared, std::chrono::steady_clock::now()), errc::closed));
    BOOST_TEST(fails(closed->try_upgrade(), errc::closed));
    BOOST_TEST(fails(closed->upgrade_for(1s), errc::closed));
    BOOST_TEST(fails(closed->downgrade(), errc::closed));
    BOOST_TEST(fails(closed->release(), errc::closed));
    BOOST_TEST(fails(closed->close(), errc::closed));
    BOOST_CHECK_THROW(closed->lock(), fmmap::system_error);
    closed->unlock();
    BOOST_TEST(closed->path().empty());
    BOOST_TEST(closed->range().length == 0U);
    BOOST_TEST((!closed->held() && closed->kind() == lock_kind::open_file_description));
  }
  BOOST_TEST(moved.is_open());
}

BOOST_AUTO_TEST_CASE(outlives_the_handle_it_was_made_from) {
  locked_place place;
  auto lock = place.lock();
  auto other = place.lock();
  or_throw(lock.acquire(exclusive));
  or_throw(place.data.close());
  BOOST_TEST(!had(other.try_acquire(shared)));
  BOOST_TEST(lock.path() == place.path.native());
}

BOOST_AUTO_TEST_CASE(goes_with_the_object_that_it_is_moved_to) {
  locked_place const place;
  auto other = place.lock();
  {
    auto lock = place.lock();
    or_throw(lock.acquire(exclusive));
    file_lock moved{std::move(lock)};
    BOOST_TEST((moved.held() == exclusive));
    BOOST_TEST(!had(other.try_acquire(shared)));
    moved = place.lock(); // releases what it had
    BOOST_TEST(had(other.try_acquire(exclusive)));
    or_throw(other.release());
    or_throw(moved.acquire(shared));
    BOOST_TEST(!had(other.try_acquire(exclusive)));
  }
  BOOST_TEST(had(other.try_acquire(exclusive)));
}

BOOST_AUTO_TEST_CASE(is_released_by_close) {
  locked_place const place;
  auto lock = place.lock();
  auto other = place.lock();
  or_throw(lock.acquire(exclusive));
  or_throw(lock.close());
  BOOST_TEST(!lock.is_open());
  BOOST_TEST(had(other.try_acquire(exclusive)));
}

BOOST_AUTO_TEST_CASE(counts_who_shares_it) {
  locked_place const place;
  auto lock = place.lock();
  auto other = place.lock();
  or_throw(lock.acquire(shared));
  or_throw(lock.acquire(shared));
  BOOST_TEST(had(lock.try_acquire(shared)));
  BOOST_TEST(!had(lock.try_acquire(exclusive)));
  or_throw(lock.release());
  or_throw(lock.release());
  BOOST_TEST(!had(other.try_acquire(exclusive)));
  or_throw(lock.release());
  BOOST_TEST(had(other.try_acquire(exclusive)));
  BOOST_TEST(fails(lock.release(), errc::lock_not_held));
}

BOOST_AUTO_TEST_CASE(of_no_thread_is_waited_for_by_each) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(exclusive));
  lock.disown();
  BOOST_TEST((lock.held() == exclusive));
  BOOST_TEST(!had(lock.acquire_for(exclusive, 2ms)));
  BOOST_TEST(!had(lock.acquire_for(shared, 2ms)));
  or_throw(lock.release());
  or_throw(lock.acquire(exclusive)); // it is this thread's again
  BOOST_TEST(fails(lock.acquire(exclusive), std::errc::resource_deadlock_would_occur));
  file_lock none;
  none.disown();
}

BOOST_AUTO_TEST_CASE(refuses_to_wait_for_its_own_thread) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(exclusive));
  for (auto const mode : {shared, exclusive}) {
    BOOST_TEST(fails(lock.acquire(mode), std::errc::resource_deadlock_would_occur));
    BOOST_TEST(fails(lock.acquire_for(mode, 1h), std::errc::resource_deadlock_would_occur));
    BOOST_TEST(!had(lock.try_acquire(mode)));
  }
  BOOST_CHECK_THROW(lock.lock(), fmmap::system_error);
  BOOST_TEST((lock.held() == exclusive));
  or_throw(lock.downgrade());
  or_throw(lock.acquire(shared)); // shared by now
}

BOOST_AUTO_TEST_CASE(may_be_released_on_another_thread) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(exclusive));
  std::jthread{[&] {
    or_throw(lock.release());
    or_throw(lock.acquire(exclusive));
  }}.join();
  BOOST_TEST((lock.held() == exclusive)); // by a thread that has ended
  BOOST_TEST(!had(lock.try_acquire(exclusive)));
  or_throw(lock.release());
  BOOST_TEST(had(lock.try_acquire(exclusive)));
}

// Once a deadlock to the second: the system had given it the number of the first.
BOOST_AUTO_TEST_CASE(is_waited_for_by_a_thread_that_begins_after_its_owner_has_ended) {
  locked_place const place;
  auto lock = place.lock();
  std::jthread{[&] { or_throw(lock.acquire(exclusive)); }}.join();
  std::jthread{[&] {
    BOOST_TEST(!had(lock.acquire_for(exclusive, 1ms)));
    BOOST_TEST(!had(lock.acquire_for(shared, 1ms)));
  }}.join();
  or_throw(lock.release());
  BOOST_TEST(had(lock.try_acquire(exclusive)));
}

BOOST_AUTO_TEST_CASE(says_what_it_could_not_lock) {
  locked_place const place;
  auto lock = place.lock({.offset = 4, .length = 2});
  BOOST_TEST(lock.release().error().message() ==
             "cannot unlock 2 bytes at 4 of \"" + place.path.native() + "\": the lock is not held as this needs it");
  auto all = place.lock();
  BOOST_TEST(all.release().error().message() ==
             "cannot unlock \"" + place.path.native() + "\": the lock is not held as this needs it");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(an_upgrade)

BOOST_AUTO_TEST_CASE(keeps_the_shared_lock_when_it_is_refused) {
  locked_place const place;
  auto one = place.lock();
  auto two = place.lock();
  auto third = place.lock();
  or_throw(one.acquire(shared));
  or_throw(two.acquire(shared));
  BOOST_TEST(!had(one.try_upgrade()));
  BOOST_TEST((one.held() == shared));
  BOOST_TEST(!had(one.upgrade_for(5ms)));
  BOOST_TEST((one.held() == shared));
  or_throw(two.release());
  BOOST_TEST(!had(third.try_acquire(exclusive))); // it is really still shared
  BOOST_TEST(had(one.try_upgrade()));
  BOOST_TEST((one.held() == exclusive));
  BOOST_TEST(!had(third.try_acquire(shared)));
  or_throw(one.downgrade());
  BOOST_TEST((one.held() == shared));
  BOOST_TEST(had(third.try_acquire(shared)));
}

BOOST_AUTO_TEST_CASE(needs_what_it_begins_with) {
  locked_place const place;
  auto lock = place.lock();
  BOOST_TEST(fails(lock.try_upgrade(), errc::lock_not_held));
  BOOST_TEST(fails(lock.downgrade(), errc::lock_not_held));
  or_throw(lock.acquire(shared));
  BOOST_TEST(fails(lock.downgrade(), errc::lock_not_held));
  BOOST_TEST((lock.held() == shared));
  BOOST_TEST(had(lock.try_upgrade()));
  BOOST_TEST(fails(lock.try_upgrade(), errc::lock_not_held));
  BOOST_TEST((lock.held() == exclusive));
}

BOOST_AUTO_TEST_CASE(of_flock_is_refused_because_it_would_lose_the_lock) {
  locked_place const place;
  auto lock = place.lock(whole, lock_kind::flock);
  auto other = place.lock(whole, lock_kind::flock);
  or_throw(lock.acquire(shared));
  BOOST_TEST(fails(lock.try_upgrade(), std::errc::operation_not_supported));
  BOOST_TEST(!had(other.try_acquire(exclusive)));
  or_throw(lock.release());
  or_throw(lock.acquire(exclusive));
  or_throw(lock.downgrade());
  BOOST_TEST(had(other.try_acquire(shared)));
  BOOST_TEST((lock.held() == shared));
}

BOOST_AUTO_TEST_CASE(waits_for_the_other_threads_of_the_object) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(shared));
  or_throw(lock.acquire(shared)); // the other thread's
  BOOST_TEST(!had(lock.try_upgrade()));
  BOOST_TEST(!had(lock.upgrade_for(5ms)));
  BOOST_TEST(had(lock.try_acquire(shared))); // a wait that is over keeps nobody out
  or_throw(lock.release());
  std::jthread const other{[&] {
    std::this_thread::sleep_for(5ms);
    or_throw(lock.release());
  }};
  BOOST_TEST(had(lock.upgrade_for(10s)));
  BOOST_TEST((lock.held() == exclusive));
}

BOOST_AUTO_TEST_CASE(is_refused_to_the_second_of_two_that_would_wait_for_each_other) {
  locked_place const place;
  auto lock = place.lock();
  or_throw(lock.acquire(shared));
  or_throw(lock.acquire(shared));
  auto first = std::async(std::launch::async, [&] {
    auto const upgraded = had(lock.upgrade_for(60s));
    or_throw(lock.release());
    return upgraded;
  });
  while (had(lock.try_acquire(shared))) { // until the first waits, which keeps new shares out
    or_throw(lock.release());
    std::this_thread::sleep_for(1ms);
  }
  BOOST_TEST(!had(lock.upgrade_for(60s)));
  or_throw(lock.release());
  BOOST_TEST(first.get());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_failure_of_the_system)

BOOST_AUTO_TEST_CASE(is_an_error_and_only_contention_is_false) {
  for (auto const kind : {lock_kind::open_file_description, lock_kind::flock}) {
    locked_place const place;
    auto lock = place.lock(whole, kind);
    auto const which = kind == lock_kind::flock ? call::flock : call::fcntl;
    for (int const error : {ENOLCK, ENOSYS, EBADF, EDEADLK, EINVAL, EOVERFLOW, EIO, ENOMEM, EPERM}) {
      seam::armed const table;
      seam::fail(which, error);
      BOOST_TEST(lock.try_acquire(exclusive).error().code().value() == error);
      BOOST_TEST(lock.acquire(exclusive).error().code().value() == error);
      BOOST_TEST(lock.acquire_for(shared, 1s).error().code().value() == error);
      BOOST_CHECK_THROW((void)lock.try_lock(), fmmap::system_error);
      BOOST_TEST(!lock.held());
    }
    seam::armed const table;
    seam::fail(which, EAGAIN);
    BOOST_TEST(!had(lock.try_acquire(exclusive)));
  }
}

BOOST_AUTO_TEST_CASE(also_in_the_middle_of_a_wait) {
  locked_place const place;
  auto holder = place.lock();
  or_throw(holder.acquire(exclusive));
  auto lock = place.lock();
  for (int const error : {ENOLCK, EDEADLK, EIO}) {
    seam::armed const table;
    seam::fail(call::fcntl, error, seam::every_time, 1); // the first is refused, the one that waits fails
    BOOST_TEST(lock.acquire(exclusive).error().code().value() == error);
  }
  for (int const error : {ENOLCK, EDEADLK, EIO}) {
    seam::armed const table;
    seam::fail(call::fcntl, error, seam::every_time, 1);
    BOOST_TEST(lock.acquire_for(exclusive, 1h).error().code().value() == error);
  }
  or_throw(holder.release());
  BOOST_TEST(had(lock.try_acquire(exclusive)));
}

BOOST_AUTO_TEST_CASE(leaves_what_was_held) {
  locked_place const place;
  auto lock = place.lock();
  auto other = place.lock();
  or_throw(lock.acquire(shared));
  {
    seam::armed const table;
    seam::fail(call::fcntl, ENOLCK);
    BOOST_TEST(fails(lock.try_upgrade(), std::errc::no_lock_available));
    BOOST_TEST((lock.held() == shared));
    BOOST_TEST(fails(lock.release(), std::errc::no_lock_available));
    BOOST_TEST((lock.held() == shared));
  }
  BOOST_TEST(had(lock.try_upgrade()));
  {
    seam::armed const table;
    seam::fail(call::fcntl, ENOLCK);
    BOOST_TEST(fails(lock.downgrade(), std::errc::no_lock_available));
    BOOST_TEST((lock.held() == exclusive));
    BOOST_TEST(fails(lock.release(), std::errc::no_lock_available));
    BOOST_TEST((lock.held() == exclusive));
    BOOST_TEST(fails(lock.acquire(shared), std::errc::resource_deadlock_would_occur));
  }
  BOOST_TEST(!had(other.try_acquire(shared)));
  or_throw(lock.release());
  BOOST_TEST(had(other.try_acquire(exclusive)));
}

BOOST_AUTO_TEST_CASE(of_unlock_is_reported_and_lets_the_process_go_on) {
  static std::vector<int> dropped;
  dropped.clear();
  auto const before = fmmap::set_dropped_error_handler(
      +[](fmmap::error const& why) noexcept { dropped.push_back(why.code().value()); });
  locked_place const place;
  auto lock = place.lock();
  lock.lock();
  {
    seam::armed const table;
    seam::fail(call::fcntl, ENOLCK);
    lock.unlock();
  }
  BOOST_TEST((dropped == std::vector{ENOLCK}));
  BOOST_TEST(lock.try_lock()); // the process has it still, and can have it again
  lock.unlock();
  lock.unlock(); // of nothing
  BOOST_TEST((dropped == std::vector{ENOLCK, static_cast<int>(errc::lock_not_held)}));
  fmmap::set_dropped_error_handler(before);
}

BOOST_AUTO_TEST_CASE(to_open_the_file_once_more_says_so) {
  locked_place const place;
  for (int const error : {EMFILE, EACCES, ENOENT}) {
    seam::armed const table;
    seam::fail(call::openat, error);
    auto const made = file_lock::create(place.data);
    BOOST_TEST(made.error().code().value() == error);
    BOOST_TEST(made.error().path() == place.path.native());
  }
}

BOOST_AUTO_TEST_CASE(to_reach_the_file_by_proc_is_made_good_by_its_path) {
  locked_place const place;
  auto other = place.lock();
  or_throw(other.acquire(exclusive));
  {
    seam::armed const table;
    seam::fail(call::openat, ENOENT, 1);
    auto lock = place.lock();
    BOOST_TEST(!had(lock.try_acquire(shared))); // it is the same file
  }
  std::filesystem::rename(place.path, place.folder / "elsewhere");
  (void)place.folder.file("data", "another file");
  seam::armed const table;
  seam::fail(call::openat, ENOENT, 1);
  BOOST_TEST(fails(file_lock::create(place.data), std::errc::no_such_file_or_directory));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(files_of_all_kinds)

BOOST_AUTO_TEST_CASE(can_be_locked) {
  scratch const folder;
  auto memory = or_throw(file::in_memory("locked"));
  auto unnamed = or_throw(file::temporary(folder.folder()));
  auto removed = or_throw(file::create_new(folder / "removed"));
  or_throw(removed.remove());
  for (auto const* const data : {&memory, &unnamed, &removed}) {
    auto one = or_throw(file_lock::create(*data));
    auto two = or_throw(file_lock::create(*data));
    BOOST_TEST(had(one.try_acquire(exclusive)));
    BOOST_TEST(!had(two.try_acquire(shared)));
  }
  auto const directory = or_throw(file::open(folder.folder(), {.any_type = true}));
  auto of_directory = or_throw(file_lock::create(directory, whole, lock_kind::flock));
  BOOST_TEST(had(of_directory.try_acquire(exclusive)));
}

BOOST_AUTO_TEST_CASE(of_another_user_cannot_be_opened_once_more) {
  if (!is_root()) {
    skip("not root: cannot become another user");
    return;
  }
  BOOST_TEST(found_in_child([](findings& found) {
               locked_place const place;
               std::filesystem::permissions(place.path, std::filesystem::perms::owner_read);
               found.expect(become_ordinary_user(), "cannot become an ordinary user");
               auto const made = file_lock::create(place.data);
               found.expect(!made && made.error() == std::errc::permission_denied, "the file could be locked");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()
