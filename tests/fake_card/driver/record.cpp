// The record of launches, waits and faults, and its functions for Python.
#include <atomic>
#include <map>
#include <sstream>

#include "card.h"

namespace fake_card {
namespace {

struct Row {
  std::string kernel;
  const char* kind;
  dim3 grid, block;
  size_t shared;
  const void* stream;
  int device;
  bool capturing;
};

struct Record {
  std::mutex mutex;
  bool keeps_launches = false;
  long own_launches = 0, other_launches = 0;
  std::vector<Row> launches;
  std::map<std::string, long> waits;
  std::vector<std::string> faults;
  std::string text;
};

// Never destroyed: PyTorch still calls the driver when static objects are taken down.
Record& record() {
  static Record* const it = new Record;
  return *it;
}

Expected wanted{false, nullptr, 0};

bool is_own(const Launch& launch) {
  return launch.kind[0] == 't' || launch.kernel->name.find("fastuda") != std::string::npos;
}

void write(std::ostream& out, const Row& row) {
  out << "launch\t" << row.kind << '\t' << row.kernel << '\t' << row.grid.x << ' ' << row.grid.y << ' ' << row.grid.z
      << '\t' << row.block.x << ' ' << row.block.y << ' ' << row.block.z << '\t' << row.shared << '\t' << row.device
      << '\t' << row.stream << '\t' << row.capturing << '\n';
}

}  // namespace

Expected expected() { return wanted; }

void fault(const std::string& text) {
  Record& r = record();
  std::lock_guard<std::mutex> guard(r.mutex);
  r.faults.push_back(text);
}

cudaError_t refuse(cudaError_t error, const std::string& text) {
  fault(text);
  return set_last_error(error);
}

void record_wait(const char* function) {
  Record& r = record();
  std::lock_guard<std::mutex> guard(r.mutex);
  ++r.waits[function];
}

void record_launch(const Launch& launch, bool capturing) {
  Record& r = record();
  std::lock_guard<std::mutex> guard(r.mutex);
  ++(is_own(launch) ? r.own_launches : r.other_launches);
  if (r.keeps_launches) {
    r.launches.push_back({launch.kernel->name, launch.kind, launch.grid, launch.block, launch.shared, launch.stream,
                          current_device(), capturing});
  }
}

}  // namespace fake_card

using namespace fake_card;

// Empties the record; launches are then counted and, if asked for, kept one by one.
FAKE_CARD_EXPORT void fake_card_begin(int keep_launches) {
  Record& r = record();
  std::lock_guard<std::mutex> guard(r.mutex);
  r.keeps_launches = keep_launches != 0;
  r.own_launches = r.other_launches = 0;
  r.launches.clear();
  r.waits.clear();
  r.faults.clear();
}

// From now on every launch must go to this stream of this device.
FAKE_CARD_EXPORT void fake_card_expect(const void* stream, int device) { wanted = {true, stream, device}; }
FAKE_CARD_EXPORT void fake_card_expect_nothing() { wanted.set = false; }

// The record as lines of fields between tabs; valid until the next call.
FAKE_CARD_EXPORT const char* fake_card_text() {
  Record& r = record();
  std::lock_guard<std::mutex> guard(r.mutex);
  std::ostringstream out;
  out << "counts\t" << r.own_launches << '\t' << r.other_launches << '\n';
  for (const auto& [function, count] : r.waits) out << "wait\t" << function << '\t' << count << '\n';
  for (const std::string& text : r.faults) out << "fault\t" << text << '\n';
  for (const Row& row : r.launches) write(out, row);
  r.text = out.str();
  return r.text.c_str();
}
