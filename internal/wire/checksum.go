package wire

import "toehold/internal/frame"

// VerifyChecksum checks the IPv4 header's checksum, and TCP's unless the
// kernel vouches for it.
func VerifyChecksum(buf *frame.Buf, n int, p *Packet) bool { return false }
