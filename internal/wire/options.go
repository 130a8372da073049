package wire

import (
	"encoding/binary"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

// Option kinds (https://www.iana.org/assignments/tcp-parameters).
const (
	optEnd        = 0
	optNop        = 1
	optSACK       = 5
	optTimestamps = 8
)

// A lone timestamps option in the layout that RFC 7323, appendix A, asks for.
const timestampsHead = optNop<<24 | optNop<<16 | optTimestamps<<8 | 10

func be32(b []byte) seqnum.Value { return seqnum.Value(binary.BigEndian.Uint32(b)) }

// options reads the options that an established connection uses. Unknown
// ones are passed over; at one with an impossible length reading stops and
// what came before counts, as in Linux's tcp_parse_options.
func (s *Segment) options(b []byte) {
	s.TSOK, s.TSVal, s.TSEcr, s.NSACK = false, 0, 0, 0
	if len(b) == 12 && binary.BigEndian.Uint32(b) == timestampsHead {
		s.timestamps(b[2:])
		return
	}
	for len(b) > 0 && b[0] != optEnd {
		if b[0] == optNop {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return
		}
		s.option(b[:b[1]])
		b = b[b[1]:]
	}
}

func (s *Segment) option(o []byte) {
	switch {
	case o[0] == optTimestamps && len(o) == 10:
		s.timestamps(o)
	case o[0] == optSACK && (len(o)-2)%8 == 0:
		s.sack(o[2:])
	}
}

func (s *Segment) timestamps(o []byte) {
	s.TSOK = true
	s.TSVal = binary.BigEndian.Uint32(o[2:])
	s.TSEcr = binary.BigEndian.Uint32(o[6:])
}

// sack reads SACK blocks (RFC 2018, section 3). Whether they make sense is
// for the engine to say.
func (s *Segment) sack(b []byte) {
	s.NSACK = 0
	for ; len(b) >= 8 && s.NSACK < len(s.SACK); b = b[8:] {
		s.SACK[s.NSACK] = seqnum.Range{Lo: be32(b), Hi: be32(b[4:])}
		s.NSACK++
	}
}

// putOptions writes the timestamps and as many SACK blocks as fit the 40
// octets of option space (RFC 2018, section 3), and returns their length.
func (s *Segment) putOptions(b []byte) int {
	n := 0
	if s.TSOK {
		binary.BigEndian.PutUint32(b, timestampsHead)
		binary.BigEndian.PutUint32(b[4:], s.TSVal)
		binary.BigEndian.PutUint32(b[8:], s.TSEcr)
		n = 12
	}
	blocks := min(s.NSACK, len(s.SACK), (tcpMaxLen-tcpLen-4-n)/8)
	if blocks <= 0 {
		return n
	}
	binary.BigEndian.PutUint32(b[n:], uint32(optNop<<24|optNop<<16|optSACK<<8|2+8*blocks))
	n += 4
	for _, r := range s.SACK[:blocks] {
		binary.BigEndian.PutUint32(b[n:], uint32(r.Lo))
		binary.BigEndian.PutUint32(b[n+4:], uint32(r.Hi))
		n += 8
	}
	return n
}

// SetTSVal overwrites the timestamp in the frame of p, which buf holds, and
// reports whether it did: only where the checksum is yet to be computed
// (NeedsCsum) and the option comes first, as it does in what Linux sends
// (tcp_options_write).
func (p *Packet) SetTSVal(buf *frame.Buf, val uint32) bool {
	at := p.TCPOff + tcpLen
	if p.VNet.Flags&NeedsCsum == 0 || p.DataOff-at < 12 || be32(buf.B[at:]) != timestampsHead {
		return false
	}
	binary.BigEndian.PutUint32(buf.B[at+4:], val)
	p.Seg.TSVal = val
	return true
}
