// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <expected>
#include <filesystem>
#include <functional>
#include <iostream>
#include <iterator>
#include <latch>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scratch.hpp"

// The sweep over all failures: a scenario is run once to count its system calls, and then again for every one of them
// and every errno, failing that call once, or that call and all after it.
//
// Whatever fails, nothing may leak, no name may be left behind, every failure must be reported by somebody, under its own
// errno, and what is claimed to have worked must have.
export module fmmap.test.l0;

import fmmap.core;
import fmmap.os;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

export namespace l0 {

inline constexpr int any_error = 0;

// One run of a scenario: a folder of its own, and what ought to be in it.
class trial {
public:
  [[nodiscard]] auto operator/(std::string_view name) const -> std::filesystem::path { return folder_ / name; }

  // Creates a file with this content and returns its path.
  auto file(std::string_view name, std::string_view content) const -> std::filesystem::path {
    return folder_.file(name, content);
  }

  [[nodiscard]] auto content(std::string_view name) const -> std::string { return read_back(folder_ / name); }

  // Says what is wrong unless `holds`.
  void expect(bool holds, std::string_view otherwise) {
    if (!holds) {
      wrong_.emplace_back(otherwise);
    }
  }

  // Whether the sweep has made a call of this kind fail, with this errno.
  [[nodiscard]] auto failed(os::call which, int error = any_error) const -> bool {
    auto const calls = seam::calls();
    return (error == any_error || error == error_) &&
           std::ranges::any_of(seam::failed_ordinals(), [&](auto ordinal) { return calls[ordinal - 1] == which; });
  }

  // From now on the folder must have a name, must not have it, or may do either.
  void has(std::string_view name) { names_[std::string{name}] = presence::required; }
  void lacks(std::string_view name) { names_.erase(std::string{name}); }
  void may_have(std::string_view name) { names_[std::string{name}] = presence::optional; }

private:
  friend class run;
  enum class presence : unsigned char { required, optional };

  scratch folder_;
  std::map<std::string, presence> names_;
  std::vector<std::string> wrong_;
  int error_ = any_error; // what calls are made to fail with
};

// A failure that the scenario may succeed in spite of, because there is another way or nothing depends on the call.
struct tolerance {
  os::call call;
  int error = any_error;
  bool told = false; // and the handler of dropped errors has to be told
};

// A call that the scenario's system fails by itself: `times` times once it has made it `spared` times.
struct absence {
  os::call call;
  int error;
  std::uint64_t times = seam::every_time;
  std::uint64_t spared = 0;
};

struct scenario {
  std::string_view name;
  std::vector<std::string_view> calls;          // the public functions it is about
  std::function<void(trial&)> prepare = {};     // not disturbed
  std::function<void(trial&)> body;             // disturbed; throws fmmap::system_error for a failure
  std::function<void(trial&)> when_done = {};   // expectations after success
  std::function<void(trial&)> when_failed = {}; // expectations after failure
  std::vector<tolerance> tolerated = {};
  std::vector<absence> absent = {};
  std::vector<fmmap::errc> errors = {}; // codes of fmmap's own that stand for a failure of the system
};

struct report {
  std::string_view name;
  std::uint64_t calls = 0;     // system calls of an undisturbed run
  std::uint64_t once = 0;      // runs with one failure
  std::uint64_t sticky = 0;    // runs with failures from one call on
  std::uint64_t shortened = 0; // runs with short transfers
  std::uint64_t tolerated = 0; // runs that succeeded in spite of a failure, rightly
  std::vector<std::string> faults = {};
};

[[nodiscard]] auto to_string(report const& r) -> std::string {
  return std::string{r.name} + ": " + std::to_string(r.calls) + " calls, " + std::to_string(r.once) + " failed once, " +
         std::to_string(r.sticky) + " from there on, " + std::to_string(r.shortened) + " shortened, " +
         std::to_string(r.tolerated) + " tolerated, " + std::to_string(r.faults.size()) + " faults";
}

} // namespace l0

namespace l0 {

struct named_error {
  int value;
  std::string_view name;
};

constexpr std::array<named_error, 15> errors{{{EIO, "EIO"},
                                              {ENOSPC, "ENOSPC"},
                                              {EINTR, "EINTR"},
                                              {ENOMEM, "ENOMEM"},
                                              {EAGAIN, "EAGAIN"},
                                              {EMFILE, "EMFILE"},
                                              {ENFILE, "ENFILE"},
                                              {EDQUOT, "EDQUOT"},
                                              {EFBIG, "EFBIG"},
                                              {EACCES, "EACCES"},
                                              {EPERM, "EPERM"},
                                              {EROFS, "EROFS"},
                                              {EINVAL, "EINVAL"},
                                              {ENOSYS, "ENOSYS"},
                                              {EOPNOTSUPP, "EOPNOTSUPP"}}};

// No system interrupts for ever, and no lock is held for ever.
constexpr std::uint64_t most_interruptions = 5;

auto sticky_times(os::call which, int error) -> std::uint64_t {
  auto const passes = error == EINTR || (which == os::call::flock && error == EWOULDBLOCK);
  return passes ? most_interruptions : seam::every_time;
}

// What sets a run apart from the undisturbed one.
struct disturbance {
  std::uint64_t nth = 0;
  named_error error{};
  std::uint64_t times = 1;
  std::optional<os::call> shortened = {};
  std::size_t longest = 0;

  [[nodiscard]] auto text(std::vector<os::call> const& trace) const -> std::string {
    if (shortened) {
      return std::string{os::name_of(*shortened)} + " transferring " + std::to_string(longest) + " bytes";
    }
    if (nth == 0) {
      return "undisturbed";
    }
    return "call " + std::to_string(nth) + " (" + std::string{os::name_of(trace.at(nth - 1))} + ") failing with " +
           std::string{error.name} + (times > 1 ? " from there on" : "");
  }
};

auto open_descriptors() -> std::set<int> {
  std::set<int> found;
  std::unique_ptr<DIR, int (*)(DIR*)> const listing{::opendir("/proc/self/fd"), ::closedir};
  while (auto const* const entry = ::readdir(listing.get())) {
    std::string_view const name{entry->d_name};
    int value = -1;
    std::from_chars(name.begin(), name.end(), value);
    if (value >= 0 && value != ::dirfd(listing.get())) {
      found.insert(value);
    }
  }
  return found;
}

// Memory allocators of sanitizers map as they please; under them only mappings of files are told from theirs.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool own_allocator = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool own_allocator = false;
#else
constexpr bool own_allocator = true;
#endif
#else
constexpr bool own_allocator = true;
#endif

using address_ranges = std::map<std::uintptr_t, std::uintptr_t>; // begin to end, neighbours joined

// Read by hand: it happens twice a run, and streams would take longer than the runs.
auto text_of_maps() -> std::string {
  auto const descriptor = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  std::string text;
  std::array<char, 16384> piece{};
  for (ssize_t got = 0; (got = ::read(descriptor, piece.data(), piece.size())) > 0;) {
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
  ::close(descriptor);
  return text;
}

auto mapped_ranges() -> address_ranges {
  address_ranges found;
  auto const maps = text_of_maps();
  for (auto const line : fmmap::lines{maps}) {
    auto const path_at = line.find_first_of("/[");
    auto const of_file = path_at != std::string_view::npos && line[path_at] == '/';
    auto const of_system = path_at != std::string_view::npos && line[path_at] == '[';
    if (of_system || (!of_file && !own_allocator)) {
      continue;
    }
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    auto const* const last = line.data() + line.size();
    auto const dash = std::from_chars(line.data(), last, begin, 16);
    std::from_chars(dash.ptr + 1, last, end, 16);
    if (!found.empty() && std::prev(found.end())->second == begin) {
      std::prev(found.end())->second = end;
    } else {
      found.emplace(begin, end);
    }
  }
  return found;
}

// What of `after` is not in `before`.
auto difference(address_ranges const& after, address_ranges const& before) -> address_ranges {
  address_ranges found;
  for (auto const& [first, end] : after) {
    auto begin = first;
    for (auto const& [held, held_end] : before) {
      if (held_end <= begin || held >= end) {
        continue;
      }
      if (held > begin) {
        found.emplace(begin, held);
      }
      begin = std::min(held_end, end);
    }
    if (begin < end) {
      found.emplace(begin, end);
    }
  }
  return found;
}

auto names_in(std::filesystem::path const& folder) -> std::set<std::string> {
  std::set<std::string> found;
  for (auto const& entry : std::filesystem::directory_iterator{folder}) {
    found.insert(entry.path().filename().string());
  }
  return found;
}

// Errors of destructors, as the library hands them out.
auto dropped() -> std::vector<fmmap::error>& {
  static std::vector<fmmap::error> list;
  return list;
}

// Every failure of these must be told to somebody, each on its own: they free what nobody else can.
constexpr std::array releasing{os::call::close, os::call::munmap, os::call::munlock, os::call::ftruncate,
                               os::call::unlinkat};

} // namespace l0

namespace l0 {

class run {
public:
  run(scenario const& of, disturbance how, std::vector<os::call> const& undisturbed, report& result)
      : of_{of}, how_{how}, undisturbed_{undisturbed}, result_{result} {}

  // Runs the scenario, judges the run, and returns the system calls it made.
  auto judge() -> std::vector<os::call> {
    if (of_.prepare) {
      of_.prepare(trial_);
    }
    for (auto const& name : names_in(trial_.folder_.folder())) {
      trial_.has(name);
    }
    auto const descriptors = open_descriptors();
    auto const ranges = mapped_ranges();
    perform();
    check_outcome();
    check_leaks(descriptors, ranges);
    check_folder();
    for (auto const& text : trial_.wrong_) {
      fault((failure_ ? "failed (" + failure_->message() + "), but " : std::string{"claims success, but "}) + text);
    }
    return trace_;
  }

private:
  void perform() {
    dropped().clear();
    auto const before =
        fmmap::set_dropped_error_handler(+[](fmmap::error const& why) noexcept { dropped().push_back(why); });
    trial_.error_ = how_.error.value;
    seam::arm();
    for (auto const& a : of_.absent) {
      seam::fail(a.call, a.error, a.times, a.spared);
    }
    if (how_.shortened) {
      seam::shorten(*how_.shortened, how_.longest);
    } else if (how_.nth != 0) {
      seam::fail_nth(how_.nth, how_.error.value, how_.times);
    }
    try {
      of_.body(trial_);
    } catch (fmmap::system_error const& e) {
      failure_ = e.why();
    } catch (std::exception const& e) {
      fault(std::string{"threw: "} + e.what());
    }
    seam::disarm();
    fmmap::set_dropped_error_handler(before);
    trace_ = seam::calls();
    failed_ = seam::failed_ordinals();
    auto const& expectations = failure_ ? of_.when_failed : of_.when_done;
    if (expectations) {
      expectations(trial_);
    }
  }

  void check_outcome() {
    auto const stopped = how_.shortened && how_.longest == 0;
    for (auto const& why : dropped()) {
      check_error(why, "dropped");
    }
    if (failure_) {
      if (!stopped) {
        check_error(*failure_, "reported");
      }
      if (failed_.empty() && !stopped) {
        fault("failed though no call did: " + failure_->message());
      }
    } else if (stopped && *how_.shortened == os::call::pwrite) {
      fault("claims success though nothing was written");
    }
    check_every_failure();
  }

  void check_error(fmmap::error const& why, std::string_view kind) {
    auto const code = why.code();
    auto const systems = code.category() == std::system_category() || code.category() == std::generic_category();
    auto const pretended = std::ranges::any_of(of_.absent, [&](absence const& a) { return a.error == code.value(); });
    auto const own = std::ranges::any_of(of_.errors, [&](fmmap::errc e) { return why == e; });
    if (!own && !(systems && (pretended || code.value() == how_.error.value))) {
      fault(std::string{kind} + " another error: " + why.message());
    }
    if (why.operation().empty() || why.message().empty()) {
      fault(std::string{kind} + " an error that does not say what failed: " + why.message());
    }
  }

  void check_every_failure() {
    auto const releases = [&](std::uint64_t ordinal) {
      return std::ranges::find(releasing, trace_[ordinal - 1]) != releasing.end();
    };
    std::vector<std::uint64_t> unexcused;
    std::ranges::copy_if(failed_, std::back_inserter(unexcused),
                         [&](std::uint64_t ordinal) { return !retried(ordinal) && !tolerated(trace_[ordinal - 1]); });
    auto const stopping = std::ranges::find_if_not(unexcused, releases);
    if (stopping != unexcused.end() && !failure_) {
      fault("claims success though " + std::string{os::name_of(trace_[*stopping - 1])} + " failed");
    }
    // The error returned tells of what stopped the call; of two that failed, one has to be dropped.
    auto const told = dropped().size() + (failure_ && stopping == unexcused.end() ? 1U : 0U);
    auto const to_tell = static_cast<std::size_t>(std::ranges::count_if(unexcused, releases));
    if (told < to_tell) {
      fault("tells nobody of " + std::to_string(to_tell - told) + " failures to release something");
    }
    result_.tolerated +=
        !failure_ && std::ranges::any_of(failed_, [&](auto ordinal) { return tolerated(trace_[ordinal - 1]); }) ? 1U
                                                                                                                : 0U;
  }

  // An interrupted call is made again; so is an open that would have to wait, in a way that does, and that of a directory
  // which may not be read, in a way that need not.
  [[nodiscard]] auto retried(std::uint64_t ordinal) const -> bool {
    if (ordinal >= trace_.size() || trace_[ordinal] != trace_[ordinal - 1]) {
      return false;
    }
    return how_.error.value == EINTR    ? trace_[ordinal] != os::call::close
           : how_.error.value == EAGAIN ? trace_[ordinal] == os::call::openat
           : how_.error.value == EACCES ? trace_[ordinal] == os::call::openat
                                        : false;
  }

  [[nodiscard]] auto tolerated(os::call which) const -> bool {
    return std::ranges::any_of(of_.tolerated, [&](tolerance const& t) {
      return t.call == which && (t.error == any_error || t.error == how_.error.value) &&
             (!t.told || !dropped().empty());
    });
  }

  [[nodiscard]] auto has_failed(os::call which) const -> bool {
    return std::ranges::any_of(failed_, [&](std::uint64_t ordinal) { return trace_[ordinal - 1] == which; });
  }

  void check_leaks(std::set<int> const& descriptors, address_ranges const& ranges) {
    for (int const descriptor : open_descriptors()) {
      if (!descriptors.contains(descriptor)) {
        fault("leaks a descriptor");
        ::close(descriptor);
      }
    }
    // Nobody can free what the system refuses to unmap; that somebody was told is checked elsewhere.
    for (auto const& [begin, end] : difference(mapped_ranges(), ranges)) {
      if (!has_failed(os::call::munmap)) {
        fault("leaks a mapping of " + std::to_string(end - begin) + " bytes");
      }
      ::munmap(reinterpret_cast<void*>(begin), end - begin);
    }
  }

  void check_folder() {
    auto const found = names_in(trial_.folder_.folder());
    for (auto const& name : found) {
      if (!trial_.names_.contains(name) && !has_failed(os::call::unlinkat)) {
        fault("leaves \"" + name + "\" behind");
      }
    }
    for (auto const& [name, presence] : trial_.names_) {
      if (presence == trial::presence::required && !found.contains(name)) {
        fault("\"" + name + "\" is not there");
      }
    }
  }

  void fault(std::string const& what) {
    result_.faults.push_back(std::string{of_.name} + ", " + how_.text(undisturbed_) + ": " + what);
  }

  scenario const& of_;
  disturbance how_;
  std::vector<os::call> const& undisturbed_;
  report& result_;
  trial trial_;
  std::optional<fmmap::error> failure_;
  std::vector<os::call> trace_;
  std::vector<std::uint64_t> failed_;
};

} // namespace l0

export namespace l0 {

// Runs the scenario under every disturbance.
[[nodiscard]] auto sweep(scenario const& of) -> report {
  // Blocks of memory stay in the heap, so that every new mapping is the library's.
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);

  report result{.name = of.name};
  auto const trace = run{of, {}, {}, result}.judge();
  if (!result.faults.empty()) {
    return result; // everything else would only repeat it
  }
  result.calls = trace.size();
  for (std::uint64_t nth = 1; nth <= trace.size(); ++nth) {
    for (auto const error : errors) {
      run{of, {.nth = nth, .error = error}, trace, result}.judge();
      ++result.once;
      auto const times = sticky_times(trace[nth - 1], error.value);
      run{of, {.nth = nth, .error = error, .times = times}, trace, result}.judge();
      ++result.sticky;
    }
  }
  for (auto const which :
       {os::call::read, os::call::pread, os::call::write, os::call::pwrite, os::call::copy_file_range}) {
    if (std::ranges::find(trace, which) == trace.end()) {
      continue;
    }
    run{of, {.shortened = which, .longest = 1}, trace, result}.judge();
    ++result.shortened;
    if (which == os::call::pwrite || which == os::call::copy_file_range) { // a read of nothing is the end of the file
      run{of, {.error = {EIO, "EIO"}, .shortened = which, .longest = 0}, trace, result}.judge();
      ++result.shortened;
    }
  }
  return result;
}

// For scenarios with threads: what the system keeps for as many is there before anything is counted.
void warm_up_threads(int count) {
  ::mallopt(M_ARENA_MAX, 1);
  std::latch all{count};
  std::vector<std::jthread> some;
  for (int i = 0; i < count; ++i) {
    some.emplace_back([&] { all.arrive_and_wait(); });
  }
}

// Sweeps all scenarios, prints what each has come to and the sum, and returns the sum.
[[nodiscard]] auto sweep_all(std::vector<scenario> const& scenarios) -> report {
  auto const start = std::chrono::steady_clock::now();
  report total{.name = "all scenarios"};
  for (auto const& s : scenarios) {
    auto const r = sweep(s);
    std::cout << to_string(r) << '\n';
    total.calls += r.calls;
    total.once += r.once;
    total.sticky += r.sticky;
    total.shortened += r.shortened;
    total.tolerated += r.tolerated;
    total.faults.insert(total.faults.end(), r.faults.begin(), r.faults.end());
  }
  std::chrono::duration<double> const took = std::chrono::steady_clock::now() - start;
  std::cout << scenarios.size() << " scenarios; " << to_string(total) << "; " << took.count() << " s\n";
  return total;
}

} // namespace l0
