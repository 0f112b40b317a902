// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/mounts.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;

using fmmap::access;
using fmmap::errc;
using fmmap::mapped_file;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;

namespace {

constexpr std::size_t page = 4096;

// The test framework and the sanitizers have handlers of their own, so everything here runs in a child, whose first guard
// sets fmmap's.
void in_child(std::function<void(findings&)> const& body) {
  BOOST_TEST(found_in_child([&](findings& found) {
               ::signal(SIGBUS, SIG_DFL);
               body(found);
             }) == "");
}

// A mapped file of `pages` pages of which another program has left `kept` bytes.
struct cut_file {
  cut_file(std::size_t pages, std::size_t kept) : content{pattern(pages * page)}, path{s.file("data", content)} {
    view = or_throw(mutable_mapped_file::open_existing(path));
    std::filesystem::resize_file(path, kept);
  }

  scratch s;
  std::string content;
  std::filesystem::path path;
  mutable_mapped_file view;
};

std::atomic<int> earlier_calls{0};
std::atomic<void*> earlier_address{nullptr};

sigjmp_buf earlier_resume;

void count_and_jump(int, siginfo_t* info, void*) {
  ++earlier_calls;
  earlier_address = info->si_addr;
  ::siglongjmp(earlier_resume, 1);
}

void set_handler(void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action{};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

// Reads a byte outside any guard, where an earlier handler jumps back to.
auto faults_into_the_earlier_handler(std::byte const* at) -> bool {
  auto const before = earlier_calls.load();
  if (sigsetjmp(earlier_resume, 1) == 0) {
    (void)*static_cast<std::byte const volatile*>(at);
  }
  return earlier_calls == before + 1 && earlier_address == at;
}

} // namespace

BOOST_AUTO_TEST_SUITE(guarded_copies)

BOOST_AUTO_TEST_CASE(copy_what_is_there) {
  in_child([](findings& found) {
    cut_file f{3, 3 * page};
    std::vector<std::byte> copy(2 * page + 5);
    found.expect(fmmap::guarded_copy_out(f.view.bytes().subspan(7, 2 * page), copy).has_value(), "no copy out");
    found.expect(text_of(copy).substr(0, 2 * page) == f.content.substr(7, 2 * page), "the copy differs");
    auto const fresh = pattern(page + 3, 9);
    found.expect(fmmap::guarded_copy_in(bytes_of(fresh), f.view.writable_bytes().subspan(11)).has_value(),
                 "no copy in");
    found.expect(read_back(f.path) == f.content.replace(11, fresh.size(), fresh), "the file differs");
    found.expect(fmmap::guarded_copy_out({}, {}).has_value(), "nothing cannot be copied");
    found.expect(fmmap::guarded_copy_in({}, f.view.writable_bytes()).has_value(), "nothing cannot be copied in");
  });
}

BOOST_AUTO_TEST_CASE(refuse_what_does_not_fit) {
  in_child([](findings& found) {
    cut_file f{1, page};
    std::vector<std::byte> small(page - 1, std::byte{7});
    auto const refused = fmmap::guarded_copy_out(f.view.bytes(), small);
    found.expect(fails(refused, errc::out_of_range), "it was not refused");
    found.expect(std::ranges::all_of(small, [](std::byte b) { return b == std::byte{7}; }), "something was copied");
    found.expect(fails(fmmap::guarded_copy_in(f.view.bytes(), small), errc::out_of_range), "a copy in was not refused");
  });
}

BOOST_AUTO_TEST_CASE(give_an_error_where_the_file_was_cut) {
  in_child([](findings& found) {
    cut_file f{4, page + 100};
    std::vector<std::byte> copy(4 * page);
    auto const cut = fmmap::guarded_copy_out(f.view.bytes(), copy);
    found.expect(fails(cut, errc::truncated), "no error for a cut file");
    found.expect(cut.error().path() == std::filesystem::canonical(f.path).native(), "the error names another file");
    found.expect(cut.error().range() == fmmap::byte_range{.offset = 2 * page, .length = page},
                 "the error names other bytes: " + cut.error().message());
    found.expect(fmmap::guarded_copy_out(f.view.bytes().first(2 * page), copy).has_value(),
                 "the rest of the last page cannot be read");
    found.expect(fails(fmmap::guarded_copy_in(copy, f.view.writable_bytes()), errc::truncated), "written past the end");
    std::filesystem::resize_file(f.path, 4 * page);
    found.expect(fmmap::guarded_copy_out(f.view.bytes(), copy).has_value(), "regrown, it cannot be read");
  });
}

BOOST_AUTO_TEST_CASE(ask_the_file_itself_when_it_has_lost_its_name) {
  in_child([](findings& found) {
    cut_file f{4, page};
    std::filesystem::remove(f.path);
    std::vector<std::byte> copy(4 * page);
    auto const cut = fmmap::guarded_copy_out(f.view.bytes(), copy);
    found.expect(fails(cut, errc::truncated), "no error for a cut file without a name");
    found.expect(!cut.error().message().contains("cannot be asked"), cut.error().message());
    (void)f.s.file("data", f.content); // another file
    found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "another file was asked");
  });
}

BOOST_AUTO_TEST_CASE(leave_the_process_its_locks_on_the_file) {
  in_child([](findings& found) {
    cut_file f{4, page};
    struct flock lock{};
    lock.l_type = F_WRLCK;
    found.expect(::fcntl(f.view.as_file().native_handle(), F_SETLK, &lock) == 0, "no lock");
    std::vector<std::byte> copy(4 * page);
    found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error");
    auto const other = start_child([&] { // of another process, since one does not see its own
      auto const again = ::open(f.path.c_str(), O_RDWR | O_CLOEXEC);
      struct flock wanted{};
      wanted.l_type = F_WRLCK;
      return ::fcntl(again, F_SETLK, &wanted) == 0 ? 1 : 0;
    });
    found.expect(end_of(other) == 0, "the lock is gone");
  });
}

BOOST_AUTO_TEST_CASE(report_a_full_disk_as_one) {
  BOOST_TEST(found_in_child([](findings& found) {
               ::signal(SIGBUS, SIG_DFL);
               if (auto const why = own_mounts(); !why.empty()) {
                 found.skip(why);
                 return;
               }
               scratch const s;
               if (auto const why = mount_tmpfs(s.folder(), "size=64k"); !why.empty()) {
                 found.skip(why);
                 return;
               }
               auto const size = 40 * page;
               auto sparse = or_throw(fmmap::file::create_new(s / "sparse"));
               or_throw(sparse.resize(size));
               auto view = or_throw(mutable_mapped_file::adopt(std::move(sparse)));
               auto const content = pattern(size);
               auto const full = fmmap::guarded_copy_in(bytes_of(content), view.writable_bytes());
               found.expect(fails(full, std::errc::no_space_on_device),
                            "a full disk is not reported: " + (full ? std::string{"copied"} : full.error().message()));
               std::vector<std::byte> copy(size); // on tmpfs, reading a hole in memory takes a page too
               found.expect(fails(fmmap::guarded_copy_out(view.bytes(), copy), std::errc::no_space_on_device),
                            "a full disk is not reported to a reader");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(guarded_work)

BOOST_AUTO_TEST_CASE(returns_what_it_returns) {
  in_child([](findings& found) {
    cut_file f{1, page};
    auto const sum = fmmap::guarded(f.view.bytes(), [](std::span<std::byte const> b) {
      return std::accumulate(b.begin(), b.end(), 0U, [](unsigned s, std::byte x) { return s + unsigned(x); });
    });
    unsigned expected = 0;
    for (char const c : f.content) {
      expected += static_cast<unsigned char>(c);
    }
    found.expect(sum == expected, "the sum differs");
    int calls = 0;
    fmmap::result<void> const nothing = fmmap::guarded(f.view.bytes(), [&](std::span<std::byte const>) { ++calls; });
    found.expect(nothing.has_value() && calls == 1, "work without a value");
    auto const written = fmmap::guarded(f.view.writable_bytes(), [](std::span<std::byte> b) { b[3] = std::byte{42}; });
    found.expect(written.has_value() && read_back(f.path)[3] == 42, "work that writes");
    auto const generic = fmmap::guarded(f.view.writable_bytes(), [](auto b) { b[4] = std::byte{43}; });
    found.expect(generic.has_value() && read_back(f.path)[4] == 43, "work for any memory");
    auto const owned =
        fmmap::guarded(f.view.bytes(), [](std::span<std::byte const> b) { return std::make_unique<std::byte>(b[0]); });
    found.expect(owned.has_value() && **owned == f.view.bytes()[0], "a value that only moves");
  });
}

BOOST_AUTO_TEST_CASE(ends_at_the_fault) {
  in_child([](findings& found) {
    cut_file f{8, 2 * page};
    std::size_t volatile reached = 0;
    auto const outcome = fmmap::guarded(f.view.bytes(), [&](std::span<std::byte const> b) {
      for (std::size_t at = 0; at < b.size(); at += page) {
        (void)*static_cast<std::byte const volatile*>(&b[at]);
        reached = at;
      }
      return 1;
    });
    found.expect(fails(outcome, errc::truncated), "no error");
    found.expect(reached == page, "it ended elsewhere");
  });
}

BOOST_AUTO_TEST_CASE(passes_exceptions_through) {
  in_child([](findings& found) {
    cut_file f{2, page};
    bool caught = false;
    try {
      (void)fmmap::guarded(f.view.bytes(), [](std::span<std::byte const>) -> int { throw std::runtime_error{"mine"}; });
    } catch (std::runtime_error const& e) {
      caught = std::string_view{e.what()} == "mine";
    }
    found.expect(caught, "the exception was lost");
    std::vector<std::byte> copy(2 * page);
    found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "guards fail after one");
  });
}

BOOST_AUTO_TEST_CASE(may_be_nested) {
  in_child([](findings& found) {
    cut_file outer{4, page};
    cut_file inner{4, page};
    std::vector<std::byte> copy(4 * page);
    bool inner_failed = false;
    auto const outcome = fmmap::guarded(outer.view.bytes(), [&](std::span<std::byte const> b) {
      inner_failed = fails(fmmap::guarded_copy_out(inner.view.bytes(), copy), errc::truncated);
      (void)*static_cast<std::byte const volatile*>(&b[3 * page]);
    });
    found.expect(inner_failed, "the inner guard gave no error");
    found.expect(fails(outcome, errc::truncated), "the outer guard gave no error after the inner one");
    auto const jumped = fmmap::guarded(outer.view.bytes(), [&](std::span<std::byte const> b) {
      auto const never = fmmap::guarded(inner.view.bytes(), [&](std::span<std::byte const>) {
        (void)*static_cast<std::byte const volatile*>(&b[2 * page]); // of the outer guard
      });
      inner_failed = never.has_value();
    });
    found.expect(fails(jumped, errc::truncated), "a fault inside two guards went to the wrong one");
    found.expect(fails(fmmap::guarded_copy_out(inner.view.bytes(), copy), errc::truncated), "guards are left over");
  });
}

BOOST_AUTO_TEST_CASE(fails_when_there_is_no_handler_to_be_had) {
  in_child([](findings& found) {
    cut_file f{1, page};
    fmmap::os::seam::armed const seam;
    fmmap::os::seam::fail(fmmap::os::call::sigaction, EINVAL, 1);
    std::vector<std::byte> copy(page);
    found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), std::errc::invalid_argument), "no error");
    found.expect(fmmap::guarded_copy_out(f.view.bytes(), copy).has_value(), "it is not tried again");
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_fault_that_is_not_guarded)

BOOST_AUTO_TEST_CASE(goes_to_the_earlier_handler_every_time) {
  in_child([](findings& found) {
    cut_file f{4, page};
    set_handler(count_and_jump);
    std::vector<std::byte> copy(4 * page);
    for (int i = 0; i < 3; ++i) {
      found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error");
      found.expect(faults_into_the_earlier_handler(f.view.bytes().data() + 2 * page), "the handler was not reached");
    }
    found.expect(earlier_calls == 3, "the earlier handler was called for guarded faults");
  });
}

BOOST_AUTO_TEST_CASE(goes_there_from_inside_a_guard_of_other_bytes) {
  in_child([](findings& found) {
    cut_file f{4, page};
    cut_file other{1, page};
    set_handler(count_and_jump);
    bool reached = false;
    auto const outcome = fmmap::guarded(other.view.bytes(), [&](std::span<std::byte const>) {
      reached = faults_into_the_earlier_handler(f.view.bytes().data() + 3 * page);
    });
    found.expect(outcome.has_value() && reached, "a fault of other bytes was taken for a guarded one");
  });
}

BOOST_AUTO_TEST_CASE(kills_as_ever_where_nobody_handles_it) {
  auto const dies = [](auto body) {
    return dies_of(SIGBUS, [&] {
      cut_file f{4, page};
      std::vector<std::byte> copy(4 * page);
      (void)fmmap::guarded_copy_out(f.view.bytes(), copy); // the handler is set
      body(f);
    });
  };
  BOOST_TEST(dies([](cut_file& f) { (void)*static_cast<std::byte const volatile*>(&f.view.bytes()[3 * page]); }));
  BOOST_TEST(dies([](cut_file&) { ::raise(SIGBUS); }));
  BOOST_TEST(dies([](cut_file& f) { // in another thread than the one with the guard
    (void)fmmap::guarded(f.view.bytes(), [&](std::span<std::byte const> b) {
      std::thread{[&] { (void)*static_cast<std::byte const volatile*>(&b[3 * page]); }}.join();
    });
  }));
}

BOOST_AUTO_TEST_CASE(leaves_guards_usable_when_the_earlier_handler_jumps_away_from_inside_one) {
  in_child([](findings& found) {
    cut_file f{4, page};
    set_handler(count_and_jump);
    std::vector<std::byte> copy(4 * page);
    for (int i = 0; i < 3; ++i) {
      auto const before = earlier_calls.load();
      if (sigsetjmp(earlier_resume, 1) == 0) {
        (void)fmmap::guarded(std::span<std::byte const>{copy}, [&](std::span<std::byte const>) {
          (void)*static_cast<std::byte const volatile*>(&f.view.bytes()[2 * page]); // of other bytes: out of this guard
        });
      }
      found.expect(earlier_calls == before + 1, "the handler was not reached");
      found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error after that");
    }
  });
}

BOOST_AUTO_TEST_CASE(reaches_a_handler_for_one_signal_once) {
  BOOST_TEST(dies_of(SIGBUS, [] {
    struct sigaction action{};
    action.sa_sigaction = [](int, siginfo_t*, void*) {
      if (++earlier_calls == 2) {
        ::_exit(2);
      }
    };
    action.sa_flags = SA_SIGINFO | static_cast<int>(SA_RESETHAND);
    ::sigaction(SIGBUS, &action, nullptr);
    cut_file f{2, page};
    (void)fmmap::install_fault_handler();
    (void)*static_cast<std::byte const volatile*>(&f.view.bytes()[page]);
  }));
}

BOOST_AUTO_TEST_CASE(that_was_only_sent_is_ignored_by_who_ignores_it) {
  in_child([](findings& found) {
    ::signal(SIGBUS, SIG_IGN);
    found.expect(fmmap::install_fault_handler().has_value(), "no handler");
    ::raise(SIGBUS);
    cut_file f{2, page};
    std::vector<std::byte> copy(2 * page);
    found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error");
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(the_fault_handler)

namespace {

struct sigaction below_second{};

// A handler that passes on what it does not know, as fmmap's does.
void pass_down(int signal, siginfo_t* info, void* context) {
  ++earlier_calls;
  if ((below_second.sa_flags & SA_SIGINFO) != 0) {
    below_second.sa_sigaction(signal, info, context);
  }
}

} // namespace

BOOST_AUTO_TEST_CASE(can_be_set_again_over_one_that_has_taken_its_place) {
  in_child([](findings& found) {
    cut_file f{2, page};
    std::vector<std::byte> copy(2 * page);
    found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error");
    ::signal(SIGBUS, SIG_DFL); // as a test framework does at the end of a case
    found.expect(fmmap::install_fault_handler().has_value(), "not set again");
    found.expect(fmmap::install_fault_handler().has_value(), "not twice");
    found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error after that");
  });
}

BOOST_AUTO_TEST_CASE(does_not_pass_a_signal_round_in_a_circle) {
  auto const circle = [](findings& found) {
    cut_file f{2, page};
    found.expect(fmmap::install_fault_handler().has_value(), "not set");
    struct sigaction second{};
    second.sa_sigaction = pass_down;
    second.sa_flags = SA_SIGINFO | SA_NODEFER;
    ::sigaction(SIGBUS, &second, &below_second);                               // over fmmap's
    found.expect(fmmap::install_fault_handler().has_value(), "not set again"); // over that
    std::vector<std::byte> copy(2 * page);
    found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error");
  };
  in_child(circle);
  BOOST_TEST(dies_of(SIGBUS, [&] {
    findings ignored;
    circle(ignored);
    ::raise(SIGBUS);
  }));
}

BOOST_AUTO_TEST_CASE(leaves_no_signal_blocked_that_was_not) {
  in_child([](findings& found) {
    cut_file f{2, page};
    std::vector<std::byte> copy(2 * page);
    found.expect(fmmap::install_fault_handler().has_value(), "not set");
    struct sigaction over{}; // with all signals blocked
    over.sa_sigaction = pass_down;
    over.sa_flags = SA_SIGINFO;
    ::sigfillset(&over.sa_mask);
    ::sigaction(SIGBUS, &over, &below_second);
    for (int i = 0; i < 3; ++i) {
      found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error");
      sigset_t blocked;
      ::pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
      found.expect(::sigismember(&blocked, SIGBUS) == 0 && ::sigismember(&blocked, SIGTERM) == 0,
                   "a signal is blocked");
    }
  });
}

BOOST_AUTO_TEST_CASE(serves_a_forked_child_and_a_thread_on_an_alternate_stack) {
  in_child([](findings& found) {
    cut_file f{2, page};
    std::vector<std::byte> copy(2 * page);
    found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error");
    auto const child =
        start_child([&] { return fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated) ? 0 : 1; });
    found.expect(end_of(child) == 0, "no error in a forked child");
    std::thread{[&] {
      std::vector<std::byte> memory(std::size_t{64} << 10);
      stack_t const alternate{.ss_sp = memory.data(), .ss_flags = 0, .ss_size = memory.size()};
      ::sigaltstack(&alternate, nullptr);
      for (int i = 0; i < 3; ++i) {
        found.expect(fails(fmmap::guarded_copy_out(f.view.bytes(), copy), errc::truncated), "no error in a thread");
      }
      stack_t const none{.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
      ::sigaltstack(&none, nullptr);
    }}.join();
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_file_that_another_process_cuts_and_regrows)

// Ten seconds by the acceptance; FMMAP_STRESS_SECONDS sets it.
BOOST_AUTO_TEST_CASE(never_kills_four_threads_that_copy_under_guards) {
  auto const* const wanted = std::getenv("FMMAP_STRESS_SECONDS");
  auto const duration = std::chrono::seconds{wanted == nullptr ? 2 : std::atoi(wanted)};
  in_child([&](findings& found) {
    set_handler(count_and_jump);
    cut_file f{64, 64 * page};
    cut_file foreign{2, page};
    auto const cutter = start_child([&] {
      for (unsigned i = 0;; ++i) {
        std::filesystem::resize_file(f.path, (i % 64) * page + i % 7);
        std::filesystem::resize_file(f.path, 64 * page);
      }
      return 0;
    });
    std::atomic<std::uint64_t> copies{0};
    std::atomic<std::uint64_t> truncations{0};
    std::atomic<std::uint64_t> surprises{0};
    auto const end = std::chrono::steady_clock::now() + duration;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      auto const mine = f.view.writable_bytes().subspan(static_cast<std::size_t>(t) * 16 * page, 16 * page);
      threads.emplace_back([&, t, mine] {
        std::vector<std::byte> buffer(mine.size());
        while (std::chrono::steady_clock::now() < end) {
          auto const done = t % 2 == 0 ? fmmap::guarded_copy_out(mine, buffer) : fmmap::guarded_copy_in(buffer, mine);
          copies += done ? 1 : 0;
          truncations += fails(done, errc::truncated) ? 1 : 0;
          surprises += !done && !(done.error() == errc::truncated) ? 1 : 0;
        }
      });
    }
    std::uint64_t reached = 0;
    while (std::chrono::steady_clock::now() < end) {
      found.expect(faults_into_the_earlier_handler(foreign.view.bytes().data() + page), "a foreign fault went astray");
      ++reached;
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    }
    for (auto& thread : threads) {
      thread.join();
    }
    ::kill(cutter, SIGKILL);
    (void)end_of(cutter);
    std::cout << "guarded copies: " << copies << " whole, " << truncations << " truncated, " << surprises
              << " other errors; " << reached << " foreign faults to the earlier handler" << std::endl;
    found.expect(copies > 0 && truncations > 0, "nothing was copied, or nothing was cut");
    found.expect(surprises == 0, "errors of another kind");
  });
}

BOOST_AUTO_TEST_SUITE_END()
