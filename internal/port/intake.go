package port

import "toehold/internal/frame"

// readOctets is about how much one Receive takes in: what still lies in a
// core's cache when it is sent on. More in one go costs a tenth of the
// throughput of super-segments.
const readOctets = 512 << 10

// take makes a Received of the n octets that were read into *slot. A frame
// that fits a Small or Medium buffer is copied to the smallest, so that it does
// not hold 66 KiB while it waits for its acknowledgement; a longer one leaves
// with the slot's buffer, which is replaced. Without a buffer from the pool the
// frame is dropped and *slot stays: a port can always read.
func take(pool *frame.Pool, slot **frame.Buf, n int) (Received, bool) {
	if n <= frame.Medium {
		b := pool.Get(n)
		if b == nil {
			return Received{}, false
		}
		copy(b.B, (*slot).B[:n])
		return Received{b, n}, true
	}
	next := pool.Get(frame.Large)
	if next == nil {
		return Received{}, false
	}
	b := *slot
	*slot = next
	return Received{b, n}, true
}

// received counts a frame of n octets.
func (s *Stats) received(n int) {
	s.RxFrames++
	s.RxBytes += uint64(max(0, n-vnetLen))
}
