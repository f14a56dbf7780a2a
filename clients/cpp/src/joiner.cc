#include "joiner.h"

namespace meshnode {

std::optional<Joiner> Joiner::Begin(std::string first, std::uint64_t total, Time now, std::string* error) {
  if (first.size() != kPartBytes || total <= kPartBytes) {
    *error = "its first frame has " + std::to_string(first.size()) + " bytes of " + std::to_string(total) + "; it must have " +
             std::to_string(kPartBytes) + " of more";
    return std::nullopt;
  }
  Joiner j;
  j.have_ = std::move(first);
  j.total_ = total;
  j.last_ = now;
  return j;
}

bool Joiner::Add(const std::string& part, Time now, std::string* error) {
  const std::uint64_t have = have_.size() + part.size();
  if (part.size() > kPartBytes) {
    *error = "a part has " + std::to_string(part.size()) + " bytes; the most is " + std::to_string(kPartBytes);
  } else if (have > total_) {
    *error = "its parts hold more than the " + std::to_string(total_) + " bytes that it announced";
  } else if (have < total_ && part.size() < kPartBytes) {
    *error = "a part has " + std::to_string(part.size()) + " bytes before the last one; it must have " + std::to_string(kPartBytes);
  } else {
    have_ += part;
    last_ = now;
    return true;
  }
  return false;
}

void Bulk::Begin(Id id, std::uint64_t session, Bytes payload) {
  begun_ += Weight(payload->size());
  turn_.push_back(Parcel{id, session, std::move(payload), kPartBytes});
}

std::optional<Bulk::Piece> Bulk::Next() {
  if (turn_.empty()) return std::nullopt;
  Parcel p = std::move(turn_.front());
  turn_.pop_front();
  Piece piece{p.session, p.payload->substr(p.offset, kPartBytes), std::nullopt};
  p.offset += piece.bytes.size();
  if (p.offset < p.payload->size()) {
    turn_.push_back(std::move(p));
  } else {
    begun_ -= Weight(p.payload->size());
    piece.ended = p.id;
  }
  return piece;
}

void Bulk::Stop(Id id) {
  auto it = std::find_if(turn_.begin(), turn_.end(), [id](const Parcel& p) { return p.id == id; });
  if (it == turn_.end()) return;
  begun_ -= Weight(it->payload->size());
  turn_.erase(it);
}

std::vector<std::pair<Id, std::uint64_t>> Bulk::Ids() const {
  std::vector<std::pair<Id, std::uint64_t>> ids;
  for (const Parcel& p : turn_) ids.emplace_back(p.id, p.session);
  return ids;
}

}  // namespace meshnode
