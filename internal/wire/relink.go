package wire

import "toehold/internal/frame"

// Relink writes to dst the virtio_net_hdr and link header with which the
// frame of p passes on to a port whose link header differs, and returns their
// length and the rest of the frame, from its IP header to its end. The span
// carries no reference. dst has at least MaxHeaders octets, link at most MaxLink.
func (p *Packet) Relink(dst []byte, buf *frame.Buf, link []byte) (int, frame.Span) {
	return 0, frame.Span{}
}
