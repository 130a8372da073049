package wire

import "toehold/internal/frame"

// Relink writes to dst the virtio_net_hdr and link header with which the
// frame of p passes on to a port whose link header differs, and returns their
// length and the rest of the frame, from its IP header to its end. The span
// carries no reference. The length is 0 when dst is shorter than MaxHeaders
// or link longer than MaxLink.
func (p *Packet) Relink(dst []byte, buf *frame.Buf, link []byte) (int, frame.Span) {
	if len(dst) < MaxHeaders || len(link) > MaxLink {
		return 0, frame.Span{}
	}
	v := p.VNet
	if v.Flags&NeedsCsum != 0 {
		v.CsumStart += uint16(len(link)) - uint16(len(p.Link))
	}
	if v.HdrLen != 0 {
		v.HdrLen = uint16(len(link) + p.DataOff - p.IPOff)
	}
	v.Put(dst)
	n := VNetLen + copy(dst[VNetLen:], link)
	return n, frame.Span{Buf: buf, Off: uint32(p.IPOff), Len: uint32(p.End - p.IPOff)}
}
