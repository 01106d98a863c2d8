// Status and Result<T>: how native code reports failure. Nothing throws across a room boundary;
// engine.cc and addon.cc turn a Status into a typed error of src/errors.ts with the same code.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace longhaul {

// Order and names mirror NATIVE_ERROR_CODES in src/errors.ts; a unit test compares the two lists.
enum class ErrorCode : int {
  kOk = 0,
  kInvalidRequest,  // ERR_INVALID_REQUEST
  kModelFormat,     // ERR_MODEL_FORMAT
  kUnsupported,     // ERR_UNSUPPORTED
  kOutOfMemory,     // ERR_OUT_OF_MEMORY
  kDevice,          // ERR_DEVICE
  kAborted,         // ERR_ABORTED
  kInternal,        // ERR_INTERNAL
};

// "ERR_..." spelling of a code; kOk gives "OK".
const char* error_code_name(ErrorCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const { return code_ == ErrorCode::kOk; }
  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  ErrorCode code_ = ErrorCode::kOk;
  std::string message_;
};

// printf-style constructor: error(ErrorCode::kModelFormat, "tensor %s: expected %d, found %d", ...).
Status error(ErrorCode code, const char* format, ...) __attribute__((format(printf, 2, 3)));

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {}        // NOLINT: implicit by design
  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() { return *value_; }
  const T& value() const { return *value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace longhaul

// Returns the Status from the calling function when `expression` is not ok.
#define LH_TRY(expression)                                  \
  do {                                                      \
    if (::longhaul::Status lh_status_ = (expression); !lh_status_.ok()) return lh_status_; \
  } while (0)

// Declares `lhs` from a Result or returns its Status.
#define LH_CONCAT_(a, b) a##b
#define LH_CONCAT(a, b) LH_CONCAT_(a, b)
#define LH_ASSIGN_OR_RETURN(lhs, expression) \
  LH_ASSIGN_OR_RETURN_(LH_CONCAT(lh_result_, __LINE__), lhs, expression)
#define LH_ASSIGN_OR_RETURN_(result, lhs, expression) \
  auto result = (expression);                         \
  if (!result.ok()) return result.status();           \
  lhs = std::move(result.value())
