// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What core.import_time times: a program that imports the module and calls it once.

import fmmap.core;

auto main() -> int { return fmmap::mapped_file::open("data").has_value() ? 0 : 1; }
