// Shared<T>: device code's pointer into shared memory. An element is a Ref<T>, a stand-in that
// reads when converted to T and writes when assigned, so that each access can be checked and its
// line told. A line is known where an index or an offset is written (p[i], p + n): C++20 gives
// operator* and assignments none.
#pragma once

#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

namespace longhaul::simt {

enum class AccessKind { kRead, kWrite, kAtomic };

// Faults the launch if the access is wrong in a way that shadow.h tells. A site without a line
// stands for that of the thread's last access or primitive.
void check_shared(const std::byte* address, uint32_t bytes, uint32_t alignment, AccessKind kind,
                  std::source_location site);
// Whether the launch that this operating system thread runs checks; read at every access.
extern constinit thread_local bool checks_on __attribute__((tls_model("initial-exec")));

// An index, and the line that wrote it.
struct At {
  ptrdiff_t value;
  std::source_location site;
  template <typename I>
    requires std::convertible_to<const I&, ptrdiff_t>
  At(const I& index, std::source_location where = std::source_location::current())
      : value(static_cast<ptrdiff_t>(index)), site(where) {}
};

template <typename T>
class Ref {
 public:
  using Value = std::remove_const_t<T>;
  static_assert(std::is_trivially_copyable_v<Value>);

  Ref(std::byte* address, std::source_location site) : address_(address), site_(site) {}
  Ref(const Ref&) = default;

  operator Value() const {
    if (checks_on) check_shared(address_, sizeof(Value), alignof(Value), AccessKind::kRead, site_);
    Value value;
    std::memcpy(&value, address_, sizeof(Value));
    return value;
  }
  const Ref& operator=(const Value& value) const
    requires(!std::is_const_v<T>)
  {
    if (checks_on) check_shared(address_, sizeof(Value), alignof(Value), AccessKind::kWrite, site_);
    std::memcpy(address_, &value, sizeof(Value));
    return *this;
  }
  const Ref& operator=(const Ref& other) const
    requires(!std::is_const_v<T>)
  {
    return *this = static_cast<Value>(other);
  }
  template <typename U>
  const Ref& operator=(const Ref<U>& other) const
    requires(!std::is_const_v<T>)
  {
    return *this = static_cast<Value>(static_cast<typename Ref<U>::Value>(other));
  }
  template <typename U>
  const Ref& operator+=(const U& value) const {
    return *this = static_cast<Value>(static_cast<Value>(*this) + value);
  }
  template <typename U>
  const Ref& operator-=(const U& value) const {
    return *this = static_cast<Value>(static_cast<Value>(*this) - value);
  }
  template <typename U>
  const Ref& operator*=(const U& value) const {
    return *this = static_cast<Value>(static_cast<Value>(*this) * value);
  }
  template <typename U>
  const Ref& operator|=(const U& value) const {
    return *this = static_cast<Value>(static_cast<Value>(*this) | value);
  }

 private:
  std::byte* address_;
  std::source_location site_;
};

template <typename T>
class Shared {
 public:
  Shared() = default;
  Shared(std::nullptr_t) {}
  explicit Shared(std::byte* address) : address_(address) {}
  Shared(const Shared<std::remove_const_t<T>>& other)
    requires std::is_const_v<T>
      : address_(other.address()) {}
  Shared(const Shared&) = default;
  Shared& operator=(const Shared&) = default;

  std::byte* address() const { return address_; }

  Ref<T> operator[](At at) const {
    return Ref<T>(address_ + at.value * ptrdiff_t{sizeof(T)}, at.site);
  }
  // Told with the line of the thread's last access or primitive that has one.
  Ref<T> operator*() const { return Ref<T>(address_, std::source_location()); }
  Shared operator+(At at) const { return Shared(address_ + at.value * ptrdiff_t{sizeof(T)}); }
  friend Shared operator+(ptrdiff_t offset, Shared pointer) {
    return Shared(pointer.address_ + offset * ptrdiff_t{sizeof(T)});
  }
  Shared operator-(At at) const { return Shared(address_ - at.value * ptrdiff_t{sizeof(T)}); }
  ptrdiff_t operator-(Shared other) const {
    return (address_ - other.address_) / ptrdiff_t{sizeof(T)};
  }
  Shared& operator+=(At at) { return *this = *this + at; }
  Shared& operator-=(At at) { return *this = *this - at; }
  Shared& operator++() { return *this += 1; }
  auto operator<=>(const Shared&) const = default;

 private:
  std::byte* address_ = nullptr;
};

}  // namespace longhaul::simt
