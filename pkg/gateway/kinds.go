package gateway

import "sync"

// kind is what the gateway knows of a method of a target. What is not known to
// stream is sent as one request, which is the cheaper way, and again as a stream
// where that is refused: a refused request never ran.
type kind int

const (
	unknown kind = iota // the request says that it may be of a method that streams
	unary               // it was answered as one request
	streams             // a request was refused, or more than one message was seen
)

// kinds remembers what it learnt of methods, at most so many: one that it forgot
// it learns again.
type kinds struct {
	mu   sync.RWMutex
	most int
	of   map[methodOf]kind
}

type methodOf struct{ target, method string }

func (k *kinds) get(m methodOf) kind {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.of[m]
}

func (k *kinds) set(m methodOf, is kind) {
	if k.get(m) == is {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, known := k.of[m]; !known && len(k.of) >= k.most {
		for other := range k.of {
			delete(k.of, other)
			break
		}
	}
	k.of[m] = is
}
