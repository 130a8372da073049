package rig

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"
	"math/rand/v2"
)

// chunk is what a Stream repeats, but for a counter at its head: so no two
// stretches of it are the same, and what is lost, doubled or reordered shows
// in the digest wherever it happens.
const chunk = 64 << 10

// A Stream is an endless io.Reader of octets that a seed decides on, at the
// price of a copy.
type Stream struct {
	octets [chunk]byte
	at     int
	count  uint64
}

// NewStream returns the stream of a seed.
func NewStream(seed uint64) *Stream {
	s := new(Stream)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(s.octets[:])
	return s
}

// Read fills b.
func (s *Stream) Read(b []byte) (int, error) {
	for n := 0; n < len(b); {
		if s.at == 0 {
			s.count++
			binary.BigEndian.PutUint64(s.octets[:], s.count)
		}
		m := copy(b[n:], s.octets[s.at:])
		n += m
		s.at = (s.at + m) % chunk
	}
	return len(b), nil
}

// Digest is the SHA-256 of the stream's next n octets, in hexadecimal.
func (s *Stream) Digest(n int64) string {
	h := sha256.New()
	io.CopyN(h, s, n) // neither side can fail
	return Hex(h)
}

// Hex is a hash's sum in hexadecimal.
func Hex(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
