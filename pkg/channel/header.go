package channel

// Header is one gRPC metadata entry of a message: a key in lower case, and a
// value that is text or, where the key ends in "-bin", raw bytes.
type Header struct {
	Key   string
	Value []byte
}

// headerOverhead is what a header counts beyond its bytes, as in HTTP/2.
const headerOverhead = 32

func headerBytes(hs []Header) int64 {
	n := 0
	for i := range hs {
		n += len(hs[i].Key) + len(hs[i].Value) + headerOverhead
	}
	return int64(n)
}
