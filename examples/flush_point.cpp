// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Containers in a file, and the points at which their bytes are brought to the disk: flush_point [FILE]
//
// What a flush makes durable are bytes. The containers are volatile: which bytes are whose is known to this process alone,
// and a program that maps the file later finds no vector in it. It finds an array of plain data where it is told to look,
// and that is shown here.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <expected>
#include <filesystem>
#include <future>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <utility>
#include <vector>

import fmmap;

namespace {

struct reading {
  std::uint64_t time;
  double value;
};

constexpr std::size_t count = 10'000;

} // namespace

auto main(int argc, char** argv) -> int try {
  std::filesystem::path const path{argc > 1 ? argv[1] : "flush_point.data"};
  std::filesystem::remove(path);
  auto const resource = fmmap::or_throw(fmmap::mapped_resource::create(path, {.reserve = std::size_t{1} << 30}));
  std::pmr::vector<reading> readings{resource.get()};
  std::pmr::string notes{"calibrated twice, by two people, on two days", resource.get()};
  for (std::uint64_t time = 0; time < count; ++time) {
    readings.push_back({.time = time, .value = static_cast<double>(time) / 2});
  }

  // All of it, on this thread, which waits for the disk.
  auto const whole = fmmap::or_throw(resource->flush());
  std::printf("everything: %s\n", fmmap::to_string(whole).data());

  // A range: the pages in which these bytes lie.
  readings.back().value = 1;
  auto const range = fmmap::or_throw(resource->flush(&readings.back(), sizeof(reading)));
  std::printf("one reading: %s\n", fmmap::to_string(range).data());

  // On another thread, while this one goes on: what it stores meanwhile may be in it or not.
  auto job = fmmap::or_throw(resource->stage_flush());
  auto running = std::async(std::launch::async, [job = std::move(job)]() mutable { return job.run(); });
  notes += ", and not since";
  readings.push_back({.time = count, .value = 0});
  auto const staged = fmmap::or_throw(running.get());
  std::printf("staged: %s\n", fmmap::to_string(staged).data());

  // Who knows where an array of plain data lies finds it in the file.
  fmmap::or_throw(resource->flush());
  auto const offset = std::as_bytes(std::span{readings}).data() - resource->storage().data();
  auto const file = fmmap::or_throw(fmmap::mapped_file::open(path));
  auto const array = fmmap::or_throw(file.view<reading>(static_cast<std::uint64_t>(offset), readings.size()));
  bool same = array.size() == readings.size() && array[count - 1].value == 1;
  for (std::uint64_t time = 0; time <= count; ++time) {
    same = same && array[time].time == time;
  }
  std::printf("%zu readings at %td of the file: %s\n", array.size(), offset, same ? "all there" : "LOST");
  std::filesystem::remove(path);
  return same ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
