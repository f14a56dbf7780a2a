package channel

// parcel is a large payload on its way out, a piece at a time.
type parcel struct {
	session uint64
	bytes   []byte
	offset  int // what was handed to the stream
}

// parcelHolder is what has a parcel: a call on its way up, a request whose
// reply is on its way down.
type parcelHolder interface{ large() *parcel }

// bulk sends large payloads in turn, within what the receiver takes.
type bulk[T parcelHolder] struct {
	limit int64 // the receiver's bound of unfinished bytes
	begun int64 // weight of what has begun and not ended
	turn  []T   // those that have parts to send
}

// roundBytes is how much of large payloads goes into one batch where fewer than
// that many bytes of other frames are there: a few parts (M39).
const roundBytes = 64 << 10

// partRoom is what a part takes in a batch at the most.
const partRoom = partBytes + 32

// mayBegin says whether n more bytes fit beside what has begun.
func (k *bulk[T]) mayBegin(n int) bool { return k.begun+weight(uint64(n)) <= k.limit }

// begin notes that the first piece of h is about to leave.
func (k *bulk[T]) begin(h T) {
	p := h.large()
	p.offset = partBytes
	k.begun += weight(uint64(len(p.bytes)))
	k.turn = append(k.turn, h)
}

// fill adds a round of parts to the batch, one of each payload, and more rounds
// up to roundBytes. It returns those whose last part that was.
func (k *bulk[T]) fill(b *batch) (done []T) {
	for i, n := 0, len(k.turn); len(k.turn) > 0 && (i < n || b.size < roundBytes); i++ {
		if !b.fits(partRoom) {
			break
		}
		h := k.turn[0]
		p := h.large()
		end := min(p.offset+partBytes, len(p.bytes))
		b.add(&frame{session: p.session, kind: kindPart, payload: p.bytes[p.offset:end]})
		p.offset = end
		var none T
		k.turn[0] = none // the array may outlive it
		k.turn = k.turn[1:]
		if end < len(p.bytes) {
			k.turn = append(k.turn, h)
			continue
		}
		k.begun -= weight(uint64(len(p.bytes)))
		done = append(done, h)
	}
	return done
}

// stop forgets the parts of h that were not sent. It returns false where h has
// none.
func (k *bulk[T]) stop(h T) bool {
	p := h.large()
	for i := range k.turn {
		if k.turn[i].large() == p {
			k.turn = append(k.turn[:i:i], k.turn[i+1:]...)
			k.begun -= weight(uint64(len(p.bytes)))
			return true
		}
	}
	return false
}
