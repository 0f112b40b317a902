// SPDX-License-Identifier: MIT OR Apache-2.0
#include "support.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace bench {

namespace {

constexpr std::size_t block = std::size_t{1} << 20;

settings chosen; // written once, before anything is measured

auto now() -> std::int64_t {
  return std::chrono::nanoseconds{std::chrono::steady_clock::now().time_since_epoch()}.count();
}

void write_file(std::filesystem::path const& path, std::size_t size) {
  std::vector<std::uint64_t> words(block / sizeof(std::uint64_t));
  auto const file = checked(::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600), "create a data file");
  std::uint64_t word = 1;
  for (std::size_t done = 0; done < size;) {
    std::ranges::generate(words, [&] { return word = word * 0x5851'f42d'4c95'7f2d + 1; });
    done += static_cast<std::size_t>(checked(::write(file, words.data(), std::min(block, size - done)), "write data"));
  }
  checked(::fdatasync(file), "sync data");
  // Written pages and read pages lie in the cache in folios of different sizes, which changes what mapping them costs
  // by more than any library does. Programs that map large files mostly find them as reading leaves them.
  (void)::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  checked(::close(file), "close");
}

void read_through(std::filesystem::path const& path) {
  std::vector<std::byte> bytes(block);
  auto const file = checked(::open(path.c_str(), O_RDONLY | O_CLOEXEC), "open a data file");
  while (checked(::read(file, bytes.data(), bytes.size()), "read data") > 0) {
  }
  checked(::close(file), "close");
}

} // namespace

auto current() noexcept -> settings const& { return chosen; }

auto sized(std::size_t full, std::size_t tiny) -> std::size_t { return chosen.smoke ? tiny : full; }

void add_row(std::string_view id, pace speed, std::initializer_list<variant> variants) {
  for (auto const& [name, run] : variants) {
    auto* const added = benchmark::RegisterBenchmark((std::string{id} + "/" + name).c_str(), run);
    if (speed == pace::slow) {
      added->Repetitions(chosen.smoke ? 1 : 25)->UseManualTime()->Iterations(1);
    } else {
      // Many short repetitions: what disturbs some of them leaves the median alone.
      added->Repetitions(chosen.smoke ? 1 : 151)->MinTime(chosen.smoke ? 0.001 : 0.005);
    }
  }
}

auto run(int argc, char** argv, void (*add_rows)()) -> int {
  chosen.folder = std::filesystem::current_path();
  std::vector<char*> rest;
  for (auto* const* argument = argv; argument != argv + argc; ++argument) {
    if (std::strcmp(*argument, "--smoke") == 0) {
      chosen.smoke = true;
    } else if (std::strcmp(*argument, "--dir") == 0 && argument + 1 != argv + argc) {
      chosen.folder = std::filesystem::absolute(*++argument);
    } else {
      rest.push_back(*argument);
    }
  }
  auto count = static_cast<int>(rest.size());
  rest.push_back(nullptr);
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) {
    return 2;
  }
  try {
    add_rows();
    benchmark::RunSpecifiedBenchmarks();
  } catch (std::exception const& why) {
    std::fprintf(stderr, "%s: %s\n", argv[0], why.what());
    return 1;
  }
  benchmark::Shutdown();
  return 0;
}

auto cached_file(std::size_t size) -> std::filesystem::path {
  auto path = chosen.folder / ("data-" + std::to_string(size));
  std::error_code missing;
  if (std::filesystem::file_size(path, missing) != size) {
    write_file(path, size);
    read_through(path);
  }
  return path;
}

auto is_durable(benchmark::State& state) -> bool {
  struct statfs system{};
  checked(::statfs(chosen.folder.c_str(), &system), "ask for the file system");
  if (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC) {
    state.SkipWithError("SKIP: the data folder is in memory, where nothing is durable");
    return false;
  }
  return true;
}

void settle() {
  auto const folder =
      checked(::open(chosen.folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open the data folder");
  checked(::syncfs(folder), "sync the data folder");
  checked(::close(folder), "close");
}

stopwatch::stopwatch(benchmark::State& state) : state_{&state}, start_{now()} {}

void stopwatch::stop() { state_->SetIterationTime(static_cast<double>(now() - start_) / 1e9); }

namespace {

// Of /proc/self/status, in MiB.
auto status_of_process(std::string_view name) -> double {
  std::ifstream status{"/proc/self/status"};
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name)) {
      return std::stod(line.substr(name.size() + 1)) / 1024;
    }
  }
  throw std::runtime_error{"/proc/self/status has no " + std::string{name}};
}

} // namespace

peak_memory::peak_memory() : before_{status_of_process("VmRSS")} { std::ofstream{"/proc/self/clear_refs"} << "5\n"; }

void peak_memory::tell(benchmark::State& state) const {
  state.counters["peak_rss_mib"] = status_of_process("VmHWM") - before_;
}

} // namespace bench
